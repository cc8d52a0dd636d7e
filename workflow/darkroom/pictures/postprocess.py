"""The metadata of a picture that was changed after it was made: its own, with what was done added.

The infotext gets A1111's fields (scripts/postprocessing_upscale.py): `Postprocess upscale by` or `Postprocess upscale to`, and
`Postprocess upscaler`. The JSON `darkroom` gets a list `postprocess`: the request in it alone no longer gives the picture.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from darkroom import __version__
from darkroom.pictures.infotext import quote, read_infotext

_FIELDS = ("Postprocess upscale by", "Postprocess upscale to", "Postprocess upscaler")
_VERSION = "Version: "


def upscale_fields(upscaler: str, scale: float | None, size: tuple[int, int]) -> dict[str, str]:
    """A1111's fields for upscaling by a scale or, if that is None, to a size."""
    how = {"Postprocess upscale by": f"{scale:g}"} if scale else {"Postprocess upscale to": f"{size[0]}x{size[1]}"}
    return {**how, "Postprocess upscaler": upscaler}


def add_fields(infotext: str, fields: Mapping[str, str]) -> str:
    """The infotext with these settings at its end, before `Version` if that is last; those of an earlier upscaling go.

    A text without settings, or none, gets a line of settings that ends with Darkroom's version: A1111 takes a line of
    fewer than three settings for a part of the prompt.
    """
    settings = read_infotext(infotext)["settings"]
    added = ", ".join(f"{key}: {quote(value)}" for key, value in fields.items())
    if not settings:
        line = f"{added}, {_VERSION}darkroom {__version__}"
        return f"{infotext}\n{line}" if infotext else line
    body, _, last = infotext.rpartition("\n")
    if not settings.keys().isdisjoint(_FIELDS):
        last = ", ".join(f"{key}: {_written(value)}" for key, value in settings.items() if key not in _FIELDS)
    head, found, version = last.rpartition(f", {_VERSION}")
    line = f"{head}, {added}, {_VERSION}{version}" if found else ", ".join(filter(None, [last, added]))
    return f"{body}\n{line}" if body else line


def _written(value: str) -> str:
    """A value as it stood in the line that it was read from, where an object of JSON isn't quoted."""
    return value if value.startswith("{") else quote(value)


def add_step(texts: Mapping[str, str], fields: Mapping[str, str], step: Mapping[str, Any]) -> dict[str, str]:
    """A picture's texts by keyword with the fields in `parameters`, and the step in the JSON of `darkroom`.

    A picture whose `darkroom` text is no JSON object, or that has none, gets one of the step alone.
    """
    try:
        made = json.loads(texts.get("darkroom", "{}"))
    except (ValueError, RecursionError):
        made = {}
    made = made if isinstance(made, dict) else {}
    before = made.get("postprocess")
    made["postprocess"] = [*(before if isinstance(before, list) else []), dict(step)]
    return {
        **texts,
        "parameters": add_fields(texts.get("parameters", ""), fields),
        "darkroom": json.dumps(made, ensure_ascii=True, separators=(",", ":")),
    }
