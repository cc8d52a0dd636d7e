"""Styles: texts round a prompt and its negative prompt, by name, from a file as A1111's styles.csv.

In a style's text `{prompt}` is the place of the prompt; a style without it is put behind, after a comma (A1111,
modules/styles.py). Several styles are applied in their order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darkroom.base.text import did_you_mean, read_text
from darkroom.errors import SheetError
from darkroom.sheets.tables import read_rows

COLUMNS = ("name", "prompt", "negative_prompt")
_PLACE = "{prompt}"


@dataclass(frozen=True, slots=True)
class Style:
    """What a style adds to a prompt and to its negative prompt."""

    prompt: str
    negative_prompt: str


def read_styles(path: Path) -> dict[str, Style]:
    """The styles of a file by name. Raises SheetError (E-SHEET) with the line for what A1111 wouldn't write."""
    text = read_text(path, what="file of styles", error=SheetError)
    styles: dict[str, Style] = {}
    for number, row in read_rows(path, text, ",", "file of styles"):
        place = f"{path}:{number}"
        if number == 1:
            if tuple(name.strip() for name in row) != COLUMNS:
                hint = f"write {','.join(COLUMNS)}"
                raise SheetError("file of styles", place, "has other columns than A1111's", hint)
        elif row:
            _add(styles, row, place)
    return styles


def _add(styles: dict[str, Style], row: Sequence[str], place: str) -> None:
    if len(row) > len(COLUMNS):
        raise SheetError(
            "style", place, f"has {len(row)} cells of at most {len(COLUMNS)}", "put texts with commas in quotes"
        )
    name, prompt, negative = (*row, "", "")[: len(COLUMNS)]
    if name in styles:
        raise SheetError("style", name, f"stands there twice ({place})", "rename one of the two")
    styles[name] = Style(prompt, negative)


def apply_styles(settings: Mapping[str, Any], styles: Mapping[str, Style], where: str) -> dict[str, Any]:
    """The settings with the styles that their `styles` names in the prompts, and without `styles`.

    Raises SheetError (E-SHEET) for an unknown style.
    """
    applied = {key: value for key, value in settings.items() if key != "styles"}
    names = settings.get("styles") or []
    for name in names if isinstance(names, list) else [names]:
        if name not in styles:
            otherwise = (
                f"known are {', '.join(list(styles)[:20])}" if styles else "name the file: styles_file: styles.csv"
            )
            raise SheetError(
                f"{where}: style", name, "there is none of that name", did_you_mean(name, styles, otherwise)
            )
        for key in COLUMNS[1:]:
            text, style = str(applied.get(key) or ""), getattr(styles[name], key)
            applied[key] = _join(text, style)
    return applied


def _join(text: str, style: str) -> str:
    if _PLACE in style:
        return style.replace(_PLACE, text)
    return ", ".join(filter(None, (text.strip(), style.strip()))) if style.strip() else text
