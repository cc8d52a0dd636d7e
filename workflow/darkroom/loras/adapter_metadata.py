"""PEFT's settings in a LoRA file's header: they hold the alphas of files whose keys have none.

diffusers writes them as `lora_adapter_metadata`, a JSON object of PEFT's LoraConfig with `unet.`, `text_encoder.` or
`text_encoder_2.` before its fields, or with nothing before them for a UNet's alone (loaders/lora_base.py, loaders/peft.py).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

KEY = "lora_adapter_metadata"
_PREFIXES = ("unet.", "text_encoder.", "text_encoder_2.")
_BASE_KEPT = (None, True, False, "gaussian", "eva", "orthogonal")
"""Ways to begin training that leave the model's weights as they are; of the others a file holds only one half."""
_PLAIN_NAME = re.compile(r"[\w.]+")


class AdapterMetadataError(ValueError):
    """Settings that can't be followed; the text says why."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What decides the scale in one component's settings: alpha, alphas by module, and rsLoRA's division by √rank."""

    alpha: float | None = None
    alphas: Mapping[str, float] = field(default_factory=dict)
    rank_stabilised: bool = False

    def alpha_of(self, name: str) -> float | None:
        """The alpha of the module `name`; a name among `alphas` stands for all that end with it."""
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
        """What applies to a module, by its name in the file, and the name under which its settings know it."""
        for prefix, settings in self._by_prefix.items():
            if module.startswith(prefix):
                return settings, module.removeprefix(prefix)
        return Settings(), module


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
