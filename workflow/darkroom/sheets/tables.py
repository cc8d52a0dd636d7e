"""Tables and JSON lines as prompt sheets: a row or a line is a prompt, and every value keeps the number of its line.

A table is CSV (RFC 4180, also with semicolons, as spreadsheets write it where the comma is the decimal sign) or TSV. Its first
row names the columns: settings, `id`, `prompt`, `checkpoints`, and variables. An empty cell is a setting left out.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Collection, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

from darkroom.base.text import did_you_mean, read_text, shorten
from darkroom.base.validation import Mistakes
from darkroom.errors import SheetError
from darkroom.sheets.lines import Line
from darkroom.sheets.templates import NAME

_SEPARATORS = re.compile(r"[\s,;]+")
_LISTS = ("seeds", "checkpoints")
"""Columns whose cells may hold several values, separated by spaces, commas or semicolons."""


def read_table(path: Path, prompt_keys: Collection[str], mistakes: Mistakes) -> list[Line]:
    """The prompts of a CSV or TSV file; rows that can't be read are left out and go to `mistakes`.

    Raises SheetError (E-SHEET) for a file that is no such table, or whose columns can't be.
    """
    text = read_text(path, what="prompt sheet", error=SheetError)
    rows = read_rows(path, text, find_delimiter(path, text), "table")
    number, names = next(rows, (1, []))
    names = [name.strip() for name in names]
    _check_columns(names, prompt_keys, f"{path}:{number}")
    lines = []
    for number, cells in rows:
        if any(cell.strip() for cell in cells):
            with mistakes.collect():
                lines.append(Line(number, None, _read_row(names, cells, prompt_keys, f"{path}:{number}")))
    return lines


def find_delimiter(path: Path, text: str) -> str:
    """What stands between cells: a tab in a TSV file, a semicolon if the first row has some and no comma, else a comma."""
    head = text.partition("\n")[0]
    return "\t" if path.suffix.lower() == ".tsv" else ";" if ";" in head and "," not in head else ","


def read_rows(path: Path, text: str, delimiter: str, what: str) -> Iterator[tuple[int, list[str]]]:
    """Each row with the number of its first line; `what` names the file in a message.

    Raises SheetError (E-SHEET) for quotes that aren't closed.
    """
    reader = csv.reader(StringIO(text, newline=""), delimiter=delimiter, strict=True)
    before = 0
    try:
        for row in reader:
            yield before + 1, row
            before = reader.line_num
    except csv.Error as error:
        hint = 'close the quotes, and write a quote inside them twice: "a ""big"" cat"'
        raise SheetError(what, f"{path}:{before + 1}", f"can't be read: {error}", hint) from None


def _check_columns(names: list[str], prompt_keys: Collection[str], place: str) -> None:
    if "prompt" not in names and "from" not in names:
        hint = did_you_mean("prompt", names, "write the columns' names into the first row: prompt, seed, steps")
        raise SheetError("table", place, "has no column 'prompt'", hint)
    for number, name in enumerate(names):
        if not name:
            raise SheetError("column", number + 1, f"has no name ({place})", "write a setting's name, or a variable's")
        if name in names[:number]:
            raise SheetError("column", name, f"stands there twice ({place})", "leave one of the two out")
        if name not in prompt_keys and not NAME.fullmatch(name):
            why = f"is neither a setting nor a variable's name ({place})"
            raise SheetError("column", name, why, did_you_mean(name, prompt_keys, "use letters, digits, '-' and '_'"))


def _read_row(names: list[str], cells: list[str], prompt_keys: Collection[str], place: str) -> dict[str, Any]:
    if len(cells) > len(names) and any(cell.strip() for cell in cells[len(names) :]):
        hint = "put a cell with the separator in it in double quotes"
        raise SheetError("row", place, f"has {len(cells)} cells; the first row names {len(names)}", hint)
    prompt: dict[str, Any] = {}
    variables: dict[str, str] = {}
    for name, cell in zip(names, cells, strict=False):
        value = cell.strip()
        if name in prompt_keys and value:
            prompt[name] = _read_cell(name, value, place)
        elif name not in prompt_keys:
            variables[name] = value
    return {**prompt, "variables": variables} if variables else prompt


def _read_cell(name: str, value: str, place: str) -> Any:
    """A cell's value: lists by their separators, `[…]` and `{…}` as JSON where the column isn't a text, else the text."""
    if name in _LISTS:
        return [part for part in _SEPARATORS.split(value) if part]
    if name in ("loras", "freeu", "then", "from") and value[0] in "[{":
        return _parse_json(value, f"column {name}", place)
    return value


def read_json_lines(path: Path, mistakes: Mistakes) -> list[Line]:
    """The prompts of a .jsonl file, each a text or an object with the keys of a prompt in a YAML sheet.

    Lines that can't be read are left out and go to `mistakes`. Raises SheetError (E-SHEET) for a file that is no text.
    """
    lines = []
    for number, text in enumerate(read_text(path, what="prompt sheet", error=SheetError).split("\n"), start=1):
        if text.strip():
            with mistakes.collect():
                place = f"{path}:{number}"
                value = _parse_json(text, "line", place)
                if not isinstance(value, dict | str):
                    why = f"is neither a text nor an object ({place})"
                    raise SheetError("line", shorten(text), why, 'write {"prompt": "…"}')
                lines.append(Line(number, None, {"prompt": value} if isinstance(value, str) else value))
    return lines


def _parse_json(text: str, what: str, place: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        for key in keys:
            if keys.count(key) > 1:
                raise SheetError(f"{what}: key", key, f"stands there twice ({place})", "leave it once")
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=once)
    except ValueError as error:
        raise SheetError(
            what, shorten(text), f"is not JSON: {error} ({place})", "write it as a JSON library does"
        ) from None
