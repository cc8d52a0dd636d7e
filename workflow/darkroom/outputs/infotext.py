"""Infotext: a picture's settings as AUTOMATIC1111 writes them, so that the tools of the field can read them.

The format is A1111's `parameters` text: the prompt, a line `Negative prompt: …` if there is one, then one
line of `Key: value` pairs. `Hashes` is the JSON object that Civitai's extension adds, not quoted.
"""

from __future__ import annotations

import json
import re
from typing import TypedDict

from darkroom.request import RenderRequest

NEGATIVE = "Negative prompt: "
_KEY = re.compile(r"\s*([\w][\w \-/]*):\s*")
_PLAIN = re.compile(r"[^,]*")
_FEWEST_SETTINGS = 3  # A1111's own rule: a line with fewer pairs belongs to the prompt


class Infotext(TypedDict):
    """What an infotext says. `settings` keeps the line's order; `Hashes` stays JSON text."""

    prompt: str
    negative_prompt: str
    settings: dict[str, str]


def write_infotext(request: RenderRequest, *, model: str, model_hash: str | None, version: str) -> str:
    """The infotext of a picture.

    `model_hash` is the first 10 hex digits of the checkpoint file's SHA256 (Civitai's AutoV2), None where
    it isn't known; `version` is Darkroom's own. The same arguments always give the same text.
    """
    settings: dict[str, str] = {
        "Steps": str(request.steps),
        "Sampler": request.sampler,
        "Schedule type": request.schedule,
        "CFG scale": _number(request.cfg_scale),
        "Seed": str(request.seed),
        "Size": f"{request.width}x{request.height}",
    }
    if model_hash:
        settings["Model hash"] = model_hash
    settings["Model"] = model
    if request.clip_skip > 1:
        settings["Clip skip"] = str(request.clip_skip)
    settings["RNG"] = "CPU"
    pairs = [f"{key}: {_quote(value)}" for key, value in settings.items()]
    if model_hash:
        pairs.append("Hashes: " + json.dumps({"model": model_hash}))
    pairs.append("Version: " + _quote(f"darkroom {version}"))
    lines = [request.prompt] if request.prompt else []
    if request.negative_prompt:
        lines.append(NEGATIVE + request.negative_prompt)
    return "\n".join([*lines, ", ".join(pairs)])


def read_infotext(text: str) -> Infotext:
    """The parts of an infotext, of Darkroom or of A1111; text without a line of settings is all prompt.

    A prompt with a line that starts with `Negative prompt:` can't be told apart from the real one, as in
    A1111; the PNG's `darkroom` chunk has no such doubt.
    """
    body, _, last = text.rpartition("\n")
    settings = _read_settings(last)
    if len(settings) < _FEWEST_SETTINGS:
        body, settings = text, {}
    head, found, negative = ("\n" + body).partition("\n" + NEGATIVE.rstrip())
    return {
        "prompt": head[1:],
        "negative_prompt": negative.removeprefix(" ") if found else "",
        "settings": settings,
    }


def _read_settings(line: str) -> dict[str, str]:
    settings: dict[str, str] = {}
    place = 0
    while key := _KEY.match(line, place):
        settings[key[1]], place = _read_value(line, key.end())
        comma = line.find(",", place)
        if comma < 0:
            break
        place = comma + 1
    return settings


def _read_value(line: str, start: int) -> tuple[str, int]:
    """The value that begins at `start`, and where it ends; JSON strings and objects may hold commas."""
    if line[start : start + 1] in ('"', "{"):
        try:
            value, end = json.JSONDecoder().raw_decode(line, start)
        except (json.JSONDecodeError, RecursionError):
            pass
        else:
            return (value if isinstance(value, str) else line[start:end]), end
    plain = _PLAIN.match(line, start)
    end = plain.end() if plain else start
    return line[start:end].strip(), end


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _quote(value: str) -> str:
    """As A1111: a value that could be taken for more than one is written as a JSON string."""
    if any(mark in value for mark in ",:\n") or value[:1] in ('"', "{") or value != value.strip():
        return json.dumps(value, ensure_ascii=False)
    return value
