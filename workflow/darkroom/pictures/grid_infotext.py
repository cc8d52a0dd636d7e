"""What a grid says about itself in its metadata: rows, columns and page, in the words of A1111's X/Y/Z plot.

A1111 writes `Script: X/Y/Z plot`, then for each of X, Y and Z its type and its values as a line of CSV. An axis that
changes a setting that A1111 has gets A1111's name for it and the setting's values; another one its own name and labels.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from darkroom.pictures.grid_parts import GridPart
from darkroom.pictures.infotext import quote
from darkroom.pictures.infotext_stages import written_schedule
from darkroom.pictures.picture import GalleryPicture
from darkroom.pictures.study_table import StudyTable
from darkroom.request.render_request import RenderRequest

_NAMES = {
    "cfg_scale": "CFG Scale",
    "checkpoints": "Checkpoint name",
    "clip_skip": "Clip skip",
    "eta": "Eta",
    "height,width": "Size",
    "sampler": "Sampler",
    "schedule": "Schedule type",
    "seed": "Seed",
    "seeds": "Seed",
    "steps": "Steps",
    "styles": "Styles",
    "vae": "VAE",
    "variation_seed": "Var. seed",
    "variation_strength": "Var. strength",
}
"""A1111's names of axes (scripts/xyz_grid.py, 1.10) by the settings that an axis changes."""


def describe_grid(table: StudyTable, part: GridPart, axes: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The settings that belong in the grid's infotext, in A1111's order. `axes` are the study's, from a run's plan.

    X are the columns, Y the rows, Z the first of the page's other dimensions with its label there.
    """
    settings = {"Script": "X/Y/Z plot"}
    changed = {axis["name"]: axis.get("setting") for axis in axes}
    lines = [("X", table.columns, part.columns), ("Y", table.rows, part.rows)]
    lines += [("Z", number, (part.page[number],)) for number in table.pages[:1]]
    for letter, dimension, numbers in lines:
        if dimension is not None:
            name, values = _axis(table, part, dimension, numbers, changed)
            settings |= {f"{letter} Type": name, f"{letter} Values": _csv(values)}
    return settings


def add_settings(infotext: str, settings: Mapping[str, str]) -> str:
    """A picture's infotext with further settings, if there are some, before `Version`."""
    if not settings:
        return infotext
    pairs = ", ".join(f"{key}: {quote(value)}" for key, value in settings.items())
    before, version, after = infotext.rpartition(", Version: ")
    return f"{before}, {pairs}{version}{after}" if version else f"{infotext}, {pairs}"


def _axis(
    table: StudyTable, part: GridPart, dimension: int, numbers: Sequence[int], changed: Mapping[str, Any]
) -> tuple[str, list[str]]:
    """An axis' type and its values."""
    name, labels = table.dimensions[dimension].name, table.dimensions[dimension].labels
    shown = [labels[number] for number in numbers]
    setting = changed.get(name, name)
    if isinstance(setting, Mapping):  # a text of the prompts
        text = str(setting["swap"])
        return "Prompt S/R", [text, *(label for label in shown if label not in ("~", text))]
    if setting not in _NAMES:
        return name, shown
    found: dict[int, set[str | None]] = {number: set() for number in numbers}
    for place in part.places(table):
        found[place[dimension]].add(_value(setting, table.cells[place]))
    values = (found[number].pop() if len(found[number]) == 1 else None for number in numbers)
    return _NAMES[setting], [label if value is None else value for label, value in zip(shown, values, strict=True)]


def _value(setting: str, picture: GalleryPicture) -> str | None:
    """A setting's value as A1111 writes it; None where only the label says it."""
    request = RenderRequest.model_validate(picture.request)
    if setting == "checkpoints":
        return picture.checkpoint
    if setting == "height,width":
        return f"{request.width}x{request.height}"
    if setting == "schedule":
        return written_schedule(request)
    value = getattr(request, {"seeds": "seed"}.get(setting, setting), None)
    if value is None:
        return "Automatic" if setting == "vae" else None
    return f"{value:g}" if isinstance(value, float) else str(value)


def _csv(values: Sequence[str]) -> str:
    line = io.StringIO()
    csv.writer(line).writerow(values)
    return line.getvalue().strip()
