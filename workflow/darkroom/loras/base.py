"""Which base model a LoRA was made for, in words: from its header, else from its modules' names and shapes.

Header entries as sd-scripts (train_network.py, library/sai_model_spec.py) and OneTrainer write them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from darkroom.checkpoint.header import Shape

_BY_WORDS = (
    ("the SDXL refiner", r"xl.*refiner"),
    ("PixArt", r"pixart"),
    ("SDXL", r"sd_?xl|stable-diffusion-xl|xl([^a-z]|$)|pony|illustrious|noobai"),
    ("SD 3", r"sd_?3|stable-diffusion-v?3"),
    ("SD 2.x", r"sd_?v?2|stable-diffusion-v?2|v2-1|768-v"),
    ("SD 1.x", r"sd_?v?1|stable-diffusion-v?1|v1-[45]"),
    ("Chroma", r"chroma"),
    ("Flux", r"flux"),
    ("Stable Cascade", r"cascade|wuerstchen|w(ü|ue)rstchen"),
    ("Lumina", r"lumina"),
    ("Hunyuan", r"hunyuan"),
    ("Qwen-Image", r"qwen"),
    ("Wan", r"(^|[^a-z])wan([^a-z]|$)"),
    ("Anima", r"anima-"),
)
_BY_NAME = (
    ("AnimateDiff", r"motion_modules_"),
    ("Stable Cascade", r"lora_prior_"),
    ("Flux", r"(^|_)(double_blocks|single_blocks|single_transformer_blocks)_\d"),
    ("SD 3", r"(^|_)joint_blocks_\d"),
    ("Qwen-Image", r"transformer_blocks_\d+_(img|txt)_mlp_"),
    ("SD 3 or Flux", r"transformer_blocks_\d+_attn_(add_[qkv]_proj|to_add_out)"),
    ("Wan", r"(^|_)blocks_\d+_(self|cross)_attn_[qkvo]$"),
    ("Z-Image or Lumina", r"(^|_)(noise_refiner|context_refiner|layers_\d+_(attention|adaLN_modulation))_"),
    ("PixArt", r"(^|_)(t_block_1|blocks_\d+_cross_attn_(q|kv)_linear)"),
)
_CROSS_ATTENTION = re.compile(r"attn2[._](?:processor[._])?to_[kv]$")
_BY_WIDTH = {768: "SD 1.x", 1024: "SD 2.x", 1280: "the SDXL refiner", 2048: "SDXL"}
"""By the width of what the text encoders give, the columns of cross-attention's keys."""


def base_in_words(metadata: Mapping[str, str], modules: Iterable[tuple[str, Shape | None]]) -> str | None:
    """Such as "SDXL" or "SD 1.x", None if nothing tells; `modules` are names and the shapes of the weights they change."""
    for key in ("ss_base_model_version", "modelspec.architecture"):
        found = _by_words(metadata.get(key, ""))
        if found is not None:
            return found
    named = [(name.replace(".", "_"), shape) for name, shape in modules]
    for words, pattern in _BY_NAME:
        if any(re.search(pattern, name) for name, _ in named):
            return words
    for name, shape in named:
        if shape is not None and len(shape) > 1 and _CROSS_ATTENTION.search(name) and shape[1] in _BY_WIDTH:
            return _BY_WIDTH[shape[1]]
    if any(name.startswith(("lora_te2_", "text_encoder_2_")) for name, _ in named):
        return "SDXL"
    if metadata.get("ss_v2", "").lower() == "true":
        return "SD 2.x"
    return _by_words(metadata.get("ss_sd_model_name", ""))


def _by_words(text: str) -> str | None:
    return next((words for words, pattern in _BY_WORDS if re.search(pattern, text.lower())), None)
