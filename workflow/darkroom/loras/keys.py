"""The keys of LoRA files: each is a module's name and one of the parts that a change is made of.

Spellings as written by sd-scripts (networks/lora.py), LyCORIS (`weight_list` of its modules), PEFT
(utils/save_and_load.py) and diffusers, old and new (utils/state_dict_utils.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_ADAPTER = r"(?:(?:\.\w+)?\.weight)?"  # PEFT's models name the adapter in between
_PARTS = {
    "down": rf"[._]lora[._]down\.weight|\.lora_linear_layer\.down\.weight|\.lora_A{_ADAPTER}",
    "up": rf"[._]lora[._]up\.weight|\.lora_linear_layer\.up\.weight|\.lora_B{_ADAPTER}",
    "mid": r"\.lora_mid\.weight",
    "alpha": r"\.alpha",
    "scale": r"\.scale",
    "dora_scale": r"\.dora_scale",
    "magnitude": r"\.lora_magnitude_vector(?:\.\w+){0,2}",
    "diff": r"\.(?:diff|w_norm)",
    "diff_b": r"\.(?:diff_b|b_norm)",
    **{f"hada_{part}": rf"\.hada_{part}" for part in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")},
    **{f"lokr_{part}": rf"\.lokr_{part}" for part in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")},
}
_KEY = re.compile("(?P<module>.+)(?:" + "|".join(f"(?P<{part}>{ending})" for part, ending in _PARTS.items()) + ")")

_REFUSED = {
    "a bundled textual inversion": r"bundle_emb\..*",
    "IA3": r".*\.on_input|.*\.ia3_l\b.*",
    "GLoRA": r".*\.(?:[ab][12]|bm)\.weight",
    "OFT or BOFT": r".*\.(?:oft_(?:blocks|diag|r|R)|boft_(?:R|s))\b.*|.*\.rescale",
    "AdaLoRA": r".*\.lora_E\b.*",
    "VeRA": r".*\.vera_lambda_[bd]\b.*",
    "a LoRA of embeddings": r".*\.lora_embedding_[AB]\b.*",
    "a LoRA with biases of its own": r".*\.lora_[AB](?:\.\w+)?\.bias",
    "ComfyUI's weights that replace the model's": r".*\.(?:set_weight|reshape_weight)",
    "a LoRA with a scalar of LyCORIS' training": r".*\.scalar",
    "a quantised LoRA": r".*[._](?:absmax|quant_map|quant_state|qweight|qzeros|scale_weight|scaled_fp8|weight_scale)\b.*",
}
_REFUSED_PATTERNS = {kind: re.compile(pattern) for kind, pattern in _REFUSED.items()}


def split_key(key: str) -> tuple[str, str] | None:
    """The module's name and the part (`down`, `up`, `alpha`, `hada_w1_a`, …), or None for a key of no known kind."""
    found = _KEY.fullmatch(key)
    return None if found is None or found.lastgroup is None else (found["module"], found.lastgroup)


def refused_kind(keys: Iterable[str]) -> tuple[str, str] | None:
    """What a file is that can't be applied, and the key that tells; None if no key is of a kind known as such."""
    for key in keys:
        for kind, pattern in _REFUSED_PATTERNS.items():
            if pattern.fullmatch(key):
                return kind, key
    return None
