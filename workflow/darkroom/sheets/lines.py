"""Text sheets: a prompt a line, or a line of options as A1111's script "Prompts from file or textbox" reads them.

The options are those of A1111's scripts/prompts_from_file.py: `--prompt "a man" --steps 50`, split as a POSIX shell
splits words; the words behind `--prompt` and `--negative_prompt` go on to the next option.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darkroom.base.text import did_you_mean, read_text, shorten
from darkroom.base.validation import Mistakes
from darkroom.errors import SheetError
from darkroom.sheets.names import derive_id

OPTIONS = {
    "prompt": "prompt",
    "negative_prompt": "negative_prompt",
    "seed": "seed",
    "subseed": "variation_seed",
    "subseed_strength": "variation_strength",
    "sampler_name": "sampler",
    "steps": "steps",
    "cfg_scale": "cfg_scale",
    "width": "width",
    "height": "height",
}
"""A1111's options that are settings, by Darkroom's names."""
_TEXTS = ("prompt", "negative_prompt")
_YAML = "in a YAML sheet"
_LEAVE_OUT = "leave it out"
REFUSED = {
    "sd_model": ("chooses a checkpoint, which a text sheet can't", f"list it under checkpoints: {_YAML}"),
    "styles": ("names styles of A1111", "write their words into the prompt"),
    "sampler_index": ("numbers A1111's own list of samplers", "write --sampler_name and the sampler's name"),
    "batch_size": ("asks for several seeds, which are listed here", f"write seeds: [1, 2, 3] {_YAML}"),
    "n_iter": ("asks for several seeds, which are listed here", f"write seeds: [1, 2, 3] {_YAML}"),
    "outpath_samples": ("is a folder, and pictures are in results/SHEET/CHECKPOINT/", _LEAVE_OUT),
    "outpath_grids": ("is a folder, and contact sheets are in results/SHEET/", _LEAVE_OUT),
    "prompt_for_display": ("shows another prompt than the picture's", _LEAVE_OUT),
    "seed_resize_from_h": ("takes noise of another size, which Darkroom does not do", _LEAVE_OUT),
    "seed_resize_from_w": ("takes noise of another size, which Darkroom does not do", _LEAVE_OUT),
    "restore_faces": ("restores faces, which Darkroom does not do", _LEAVE_OUT),
    "tiling": ("makes pictures that tile, which Darkroom does not do", _LEAVE_OUT),
    "do_not_save_samples": ("keeps pictures from being saved, and a run makes nothing else", _LEAVE_OUT),
    "do_not_save_grid": ("is about grids, and a run makes contact sheets", _LEAVE_OUT),
}
"""A1111's other options: why a text sheet refuses them, and the hint."""
NEUTRAL = {
    "batch_size": "1",
    "n_iter": "1",
    "restore_faces": "false",
    "tiling": "false",
    "do_not_save_samples": "false",
}
"""Values that ask for nothing."""
_INFOTEXT = re.compile(r"Negative prompt: |Steps: \d+, \w+")
_OPTION_INSIDE = re.compile(rf"\s--({'|'.join([*OPTIONS, *REFUSED])})(?=\s)")


@dataclass(frozen=True, slots=True)
class Line:
    """A prompt of a sheet with a prompt a line: the line's number from 1 on, an id made of it, and its keys."""

    number: int
    id: str | None
    settings: dict[str, Any]


def read_lines(path: Path, mistakes: Mistakes) -> list[Line]:
    """The prompts of a text sheet; lines that can't be read are left out and go to `mistakes`.

    Equal lines are numbered in their order: the second one's id ends in -2. Raises SheetError (E-SHEET) for a file that
    is no text.
    """
    lines: list[Line] = []
    seen: Counter[str] = Counter()
    for number, line in enumerate(read_text(path, what="prompt sheet", error=SheetError).split("\n"), start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        with mistakes.collect():
            settings = _read_line(text, f"{path}:{number}")
            slug = derive_id(settings["prompt"], {key: settings[key] for key in settings if key != "prompt"})
            seen[slug] += 1
            lines.append(Line(number, slug if seen[slug] == 1 else f"{slug}-{seen[slug]}", settings))
    return lines


def _read_line(text: str, place: str) -> dict[str, str]:
    if _INFOTEXT.match(text):
        hint = 'write --prompt "…" --negative_prompt "…" --steps 20 and so on, all on one line'
        raise SheetError("line", shorten(text), f"is a line of a picture's infotext, not a prompt ({place})", hint)
    if not re.match(r"--\w", text):
        if inside := _OPTION_INSIDE.search(text):
            hint = f"begin the line with --prompt and the prompt in quotes, or take --{inside[1]} out"
            raise SheetError("option", f"--{inside[1]}", f"stands behind a prompt without --prompt ({place})", hint)
        return {"prompt": text}
    settings: dict[str, str] = {}
    for name, value in split_options(text, place):
        key = _find_setting(name, value, place)
        if key is None:
            continue
        if key in settings:
            raise SheetError("option", f"--{name}", f"stands here twice ({place})", "leave it once")
        settings[key] = value
    if "prompt" not in settings:
        raise SheetError("line", shorten(text), f"has no --prompt ({place})", 'begin it with --prompt "…"')
    return settings


def split_options(text: str, place: str) -> list[tuple[str, str]]:
    """The options of a line and their values, in order. Raises SheetError (E-SHEET) with `place` for what are none."""
    try:
        words = shlex.split(text)
    except ValueError:
        hint = 'put the prompt in double quotes, and a backslash before one inside: --prompt "a \\"big\\" cat"'
        raise SheetError("line", shorten(text), f"has a quote that is not closed ({place})", hint) from None
    found: list[tuple[str, str]] = []
    while words:
        name = words.pop(0)
        if not name.startswith("--"):
            hint = (
                "write it behind an option; a prompt of several words needs no quotes behind --prompt, other values do"
            )
            raise SheetError("word", shorten(name), f"belongs to no option ({place})", hint)
        if not words:
            raise SheetError("option", name, f"has no value ({place})", f"write the value behind it: {name} …")
        value = words.pop(0)
        while name[2:] in _TEXTS and words and not words[0].startswith("--"):
            value += f" {words.pop(0)}"
        found.append((name[2:], value))
    return found


def _find_setting(name: str, value: str, place: str) -> str | None:
    """Darkroom's name of the option; None for a value that asks for nothing. Raises SheetError (E-SHEET)."""
    if name in OPTIONS:
        return OPTIONS[name]
    if NEUTRAL.get(name) == value.lower():
        return None
    if name in REFUSED:
        why, hint = REFUSED[name]
        raise SheetError("option", f"--{name}", f"{why} ({place})", hint)
    hint = did_you_mean(
        f"--{name}", [f"--{each}" for each in OPTIONS], f"known are --{', --'.join(OPTIONS)}", most=1, cutoff=0.6
    )
    raise SheetError("option", f"--{name}", f"is none of A1111's ({place})", hint)
