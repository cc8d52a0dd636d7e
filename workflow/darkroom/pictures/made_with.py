"""The settings that a finished picture's metadata names, for pictures that stages begin with.

Darkroom's own text is exact. Of A1111's infotext only what a further pass uses is read: the prompts, the seed, and how the
picture was sampled; what else was done to the picture is in its pixels already.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from darkroom.base.text import shorten
from darkroom.errors import DarkroomError, ImageError
from darkroom.pictures.infotext import DIGEST, read_infotext
from darkroom.request.lora_tags import name_weights
from darkroom.request.render_request import RenderRequest

_NOT_TAKEN = ("control", "embeddings", "image", "stages", "width", "height")
"""What a request says of the picture's own making: its size, its controls and stages, and what settling finds anew."""
_PROMPTS = ("prompt", "negative_prompt", "prompt_2", "negative_prompt_2")
"""What a picture doesn't say whose prompts were left out."""
_EMPHASIS = {"Original": "a1111", "No norm": "no_norm", "comfy": "comfy"}
_READ: dict[str, tuple[str, Callable[[str], Any]]] = {
    "Steps": ("steps", int),
    "Sampler": ("sampler", str),
    "Schedule type": ("schedule", str),
    "CFG scale": ("cfg_scale", float),
    "Seed": ("seed", int),
    "Clip skip": ("clip_skip", int),
    "Variation seed": ("variation_seed", int),
    "Variation seed strength": ("variation_strength", float),
    "Eta": ("eta", float),
    "Eta DDIM": ("eta", float),
    "Emphasis": ("emphasis", lambda text: _EMPHASIS[text]),
    "CFG rescale": ("cfg_rescale", float),
    "FreeU": ("freeu", lambda text: {key: float(value) for key, value in map(str.split, text.split(","))}),
    "Prompt 2": ("prompt_2", lambda text: name_weights(text, te_first=True)),
    "Negative prompt 2": ("negative_prompt_2", str),
}


def settings_of(texts: Mapping[str, str], path: object) -> dict[str, Any]:
    """The settings in a picture's metadata as a layer of a sheet's settings; empty for a picture without metadata.

    Raises ImageError (E-IMAGE) with `path` for what can't be understood.
    """
    if "darkroom" in texts:
        try:
            made = json.loads(texts["darkroom"])
            made_of = RenderRequest.model_validate(made["request"])
        except (ValueError, KeyError, TypeError, RecursionError, DarkroomError):
            hint = "take the metadata out, and write its settings into the sheet"
            raise ImageError("picture", path, "has metadata of Darkroom that can't be read", hint) from None
        unknown = _NOT_TAKEN if DIGEST not in made else (*_NOT_TAKEN, *_PROMPTS)
        return {key: value for key, value in made_of.model_dump().items() if key not in unknown}
    return _of_infotext(texts["parameters"], path) if texts.get("parameters") else {}


def _of_infotext(text: str, path: object) -> dict[str, Any]:
    known = read_infotext(text)
    prompt = name_weights(known["prompt"], te_first=True)
    settings: dict[str, Any] = {"prompt": prompt, "negative_prompt": known["negative_prompt"]}
    for name, value in known["settings"].items():
        if name in _READ:
            key, read = _READ[name]
            try:
                settings[key] = read(value)
            except (ValueError, KeyError):
                what = f"has '{name}: {shorten(value)}' in its metadata, which can't be read"
                raise ImageError("picture", path, what, f"write {key}: into the sheet") from None
    return settings
