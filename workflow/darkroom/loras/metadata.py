"""The metadata in a LoRA file's header: PEFT's settings, which hold alphas, and the base model it was made for.

diffusers writes PEFT's settings as `lora_adapter_metadata`, a JSON object of PEFT's LoraConfig with `unet.`,
`text_encoder.` or `text_encoder_2.` before its fields, or with nothing before them for a UNet's alone
(loaders/lora_base.py, loaders/peft.py). The base model is read from header entries as sd-scripts (train_network.py,
library/sai_model_spec.py) and OneTrainer write them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from darkroom.checkpoint.header import Shape

KEY = "lora_adapter_metadata"
_PREFIXES = ("unet.", "text_encoder.", "text_encoder_2.")
_BASE_KEPT = (None, True, False, "gaussian", "eva", "orthogonal")
"""Initialisations that leave the model's weights as they are; with others a file holds a part of the change."""
_PLAIN_NAME = re.compile(r"[\w.]+")
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
"""By the width of the text encoders' output, the columns of cross-attention's keys."""


class AdapterMetadataError(ValueError):
    """Settings that can't be applied; the text says why."""


@dataclass(frozen=True, slots=True)
class Settings:
    """One component's settings that decide the scale: alpha, alphas by module, and rsLoRA's division by √rank."""

    alpha: float | None = None
    alphas: Mapping[str, float] = field(default_factory=dict)
    rank_stabilised: bool = False

    def alpha_of(self, name: str) -> float | None:
        """The alpha of the module `name`; an entry of `alphas` applies to all modules whose names end with it."""
        found = (alpha for end, alpha in self.alphas.items() if name == end or name.endswith(f".{end}"))
        return next(found, self.alpha)


class AdapterMetadata:
    """The settings of a file's components."""

    def __init__(self, text: str | None) -> None:
        """Read the header's entry, None if it has none. Raises AdapterMetadataError."""
        settings = {} if text is None else _parse(text)
        prefixes = [prefix for prefix in _PREFIXES if any(key.startswith(prefix) for key in settings)]
        self._by_prefix = {
            prefix: _read(
                {key.removeprefix(prefix): value for key, value in settings.items() if key.startswith(prefix)}
            )
            for prefix in (prefixes or [""])
        }

    def settings_for(self, module: str) -> tuple[Settings, str]:
        """The settings for a module, by its name in the file, and the module's name in these settings."""
        for prefix, settings in self._by_prefix.items():
            if module.startswith(prefix):
                return settings, module.removeprefix(prefix)
        return Settings(), module


def base_in_words(metadata: Mapping[str, str], modules: Iterable[tuple[str, Shape | None]]) -> str | None:
    """Such as "SDXL" or "SD 1.x", None if unknown; `modules` are names and the shapes of the weights they change."""
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


def _parse(text: str) -> dict[str, Any]:
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError):
        raise AdapterMetadataError("is not valid JSON") from None
    if not isinstance(settings, dict):
        raise AdapterMetadataError("is not a JSON object")
    return settings


def _read(settings: Mapping[str, Any]) -> Settings:
    beginning = settings.get("init_lora_weights")
    if beginning not in _BASE_KEPT:
        raise AdapterMetadataError(
            f"says init_lora_weights {str(beginning)[:40]}, which changes the model's weights too"
        )
    alpha, patterns = settings.get("lora_alpha"), settings.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise AdapterMetadataError("has an alpha_pattern that is not a mapping")
    for name in patterns:
        if not _PLAIN_NAME.fullmatch(name):  # PEFT takes it for a regular expression; diffusers writes module names
            raise AdapterMetadataError(f"has '{name[:80]}' in its alpha_pattern, which is not the name of a module")
    alphas = {name: _number(value) for name, value in patterns.items()}
    return Settings(None if alpha is None else _number(alpha), alphas, settings.get("use_rslora") is True)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise AdapterMetadataError(f"has the alpha {str(value)[:40]}, which is no number")
    return float(value)


def _by_words(text: str) -> str | None:
    return next((words for words, pattern in _BY_WORDS if re.search(pattern, text.lower())), None)
