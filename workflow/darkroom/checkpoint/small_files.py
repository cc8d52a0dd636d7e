"""The small files of a Diffusers folder: model_index.json, the configs, and both tokenizers with CLIP's vocabulary.

CLIP's published file lists merges; the 49,408 tokens follow from them: 256 bytes, 256 bytes that end a word, 48,894
merges, then `<|startoftext|>` and `<|endoftext|>` (openai/CLIP, simple_tokenizer.py). The tokenizers are SDXL's: the
first pads with `<|endoftext|>`, the second with `!`.
"""

from __future__ import annotations

import gzip
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

from darkroom.checkpoint.conversion import Conversion
from darkroom.checkpoint.index import INDEX, tokenizers_of
from darkroom.resources import RESOURCES

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
SMALL_FILES_BYTES = 4 * 2**20
"""An upper bound of all small files together."""
_MERGES = 49152 - 256 - 2


def _byte_letters() -> list[str]:
    """The printable character for each byte, in the vocabulary's order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]


@cache
def load_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Token to number, and the merges in order of priority."""
    with gzip.open(RESOURCES / "clip" / "bpe_simple_vocab_16e6.txt.gz", "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")[1 : _MERGES + 1]
    merges = [(left, right) for left, right in (line.split() for line in lines)]
    letters = _byte_letters()
    tokens = [*letters, *(letter + "</w>" for letter in letters), *(a + b for a, b in merges), BOS, EOS]
    return {token: number for number, token in enumerate(tokens)}, merges


def tokenizer_files(pad_token: str) -> dict[str, bytes]:
    """The files of a CLIPTokenizer folder by name; `pad_token` is `<|endoftext|>` or `!`."""
    vocab, merges = load_vocabulary()
    special = {"bos_token": _added(BOS), "eos_token": _added(EOS), "pad_token": pad_token, "unk_token": _added(EOS)}
    config = {
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(vocab[token]): {**_added(token), "special": True}
            for token in sorted({BOS, EOS, pad_token}, key=vocab.__getitem__)
        },
        "bos_token": BOS,
        "clean_up_tokenization_spaces": True,
        "do_lower_case": True,
        "eos_token": EOS,
        "errors": "replace",
        "model_max_length": 77,
        "pad_token": pad_token,
        "tokenizer_class": "CLIPTokenizer",
        "unk_token": EOS,
    }
    merge_lines = "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges)
    return {
        "vocab.json": json.dumps(vocab, ensure_ascii=False, separators=(",", ":")).encode(),
        "merges.txt": merge_lines.encode(),
        "special_tokens_map.json": _pretty(special),
        "tokenizer_config.json": _pretty(config),
    }


def _added(token: str) -> dict[str, object]:
    return {"content": token, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}


def _pretty(data: object) -> bytes:
    return (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()


def write_small_files(conversion: Conversion, folder: Path) -> None:
    """Write and sync a planned conversion's small files. Raises OSError where the file system refuses."""
    configs, prediction = conversion.architecture.configs, conversion.prediction
    files: dict[str, bytes] = {INDEX: _json(_index(conversion))}
    files["scheduler/scheduler_config.json"] = _json(prediction.scheduler_config(configs.scheduler))
    for component, config in configs.components.items():
        if component.startswith("text_encoder"):
            # The default of transformers 5 is the file's dtype, that of diffusers fp32: parts that differ can't render.
            config = config | {"torch_dtype": "float32"}
        elif component == "vae":
            config = config | prediction.vae_settings
        files[f"{component}/config.json"] = _json(config)
    for component in tokenizers_of(configs):
        pad_token = EOS if component == "tokenizer" else "!"
        files |= {f"{component}/{name}": data for name, data in tokenizer_files(pad_token).items()}
    for relative, data in files.items():
        path = folder / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb", buffering=0) as file:
            file.write(data)
            os.fsync(file.fileno())


def _index(conversion: Conversion) -> dict[str, Any]:
    scheduler = conversion.prediction.edm_scheduler.get("_class_name")
    return conversion.architecture.configs.index | ({"scheduler": ["diffusers", scheduler]} if scheduler else {})


def _json(data: dict[str, Any]) -> bytes:
    return (json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
