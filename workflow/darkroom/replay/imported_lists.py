"""Lists of prompts by other programs as entries of a sheet: A1111's prompts from file, tables, and JSON lines.

A sheet of Darkroom's refuses what it can't do; here that is left out, and said beside the entry. Columns and keys may have other
tools' names for settings.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from darkroom.base.text import loose, read_text, shorten
from darkroom.base.validation import Mistakes
from darkroom.errors import SheetError
from darkroom.replay.foreign import model_name, number, whole, why_not
from darkroom.replay.sheet_of_pictures import SheetEntry
from darkroom.request.render_request import RenderRequest
from darkroom.sheets.lines import NEUTRAL, OPTIONS, REFUSED, split_options
from darkroom.sheets.names import derive_id
from darkroom.sheets.reader import PROMPT_KEYS
from darkroom.sheets.study import TEXTS
from darkroom.sheets.tables import read_json_lines, read_rows
from darkroom.sheets.templates import NAME

Read = tuple[list[SheetEntry], list[str]]
"""The entries, and what was left out and why."""
_OTHER_NAMES = {
    **dict.fromkeys(("positive", "positiveprompt", "text", "caption"), "prompt"),
    **dict.fromkeys(("negative", "uc", "negativetext"), "negative_prompt"),
    **dict.fromkeys(("cfg", "guidancescale", "guidance", "scale"), "cfg_scale"),
    **dict.fromkeys(("numinferencesteps", "samplingsteps"), "steps"),
    **dict.fromkeys(("samplername", "samplingmethod"), "sampler"),
    **dict.fromkeys(("scheduler", "scheduletype", "noiseschedule"), "schedule"),
    **dict.fromkeys(("model", "checkpoint", "sdmodel", "modelname", "sdmodelcheckpoint"), "checkpoints"),
    "subseed": "variation_seed",
    "subseedstrength": "variation_strength",
    "w": "width",
    "h": "height",
    "resolution": "size",
    "imagesize": "size",
    "name": "id",
}
"""Darkroom's keys by other programs' names, compared loosely."""
_KEYS = {loose(key): key for key in (*PROMPT_KEYS, "size")}
_NUMBERS: dict[str, Callable[[Any], float | int]] = {
    key: whole if field.annotation in (int, int | None) else number
    for key, field in RenderRequest.model_fields.items()
    if field.annotation in (int, float, int | None, float | None)
}
_SIZE = re.compile(r"\s*(\d+)\s*[x×*]\s*(\d+)\s*", re.IGNORECASE)
_RANDOM = "asks for a random seed, and a picture here can be made again"
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_-]*)\}")


def read_option_lines(path: Path, checkpoints: Iterable[str]) -> Read:
    """A1111's file for "Prompts from file or textbox": a prompt a line, or options. Raises SheetError (E-SHEET) for no text."""
    entries: list[SheetEntry] = []
    left_out: list[str] = []
    for place, line in enumerate(read_text(path, what="file", error=SheetError).split("\n"), start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        try:
            entry = _of_options(text, f"{path}:{place}", checkpoints) if re.match(r"--\w", text) else _of_line(text)
        except SheetError as error:
            left_out.append(f"{shorten(text)}: {error.what} {error.why}")
            continue
        entries.append(entry)
    return entries, left_out


def _of_line(text: str) -> SheetEntry:
    return SheetEntry(derive_id(text), {"prompt": text})


def _of_options(text: str, place: str, checkpoints: Iterable[str]) -> SheetEntry:
    """A line of options. Raises SheetError (E-SHEET) for one that can't be split, and for one without a prompt."""
    given: dict[str, Any] = {}
    notes: list[str] = []
    times = 1
    for name, value in split_options(text, place):
        if name in OPTIONS:
            given[OPTIONS[name]] = value
        elif name in ("batch_size", "n_iter"):
            times *= _count(name, value, notes)
        elif name == "sd_model":
            given["checkpoints"] = value
        elif name == "styles":
            given["styles"] = [each.strip() for each in value.split(",") if each.strip()]
        elif NEUTRAL.get(name) != value.lower():
            why = REFUSED[name][0] if name in REFUSED else "is none of A1111's options"
            notes.append(f"not used: --{name} {value} ({why})")
    if "prompt" not in given:
        raise SheetError("line", place, "has no --prompt", "write one")
    return _entry(given, notes, checkpoints, times=times)


def _count(name: str, value: str, notes: list[str]) -> int:
    with suppress(ValueError):
        if 1 <= (count := whole(value)) <= 1000:
            return count
    notes.append(f"not used: --{name} {value} (is no number of pictures)")
    return 1


def read_other_table(path: Path, checkpoints: Iterable[str]) -> Read:
    """A CSV or TSV file whose first row names columns, some of them settings. Raises SheetError (E-SHEET)."""
    text = read_text(path, what="table", error=SheetError)
    head = text.partition("\n")[0]
    delimiter = (
        "\t" if path.suffix.lower() == ".tsv" or "\t" in head else ";" if ";" in head and "," not in head else ","
    )
    rows = read_rows(path, text, delimiter, "table")
    names = [name.strip() for name in next(rows, (1, []))[1]]
    known = {name for name in names if _key_of(name) is not None}
    if "prompt" not in {_key_of(name) for name in names}:
        hint = "write the columns' names into the first row: prompt, seed, steps"
        raise SheetError("table", path, "has no column with prompts", hint)
    entries: list[SheetEntry] = []
    left_out: list[str] = []
    for place, cells in rows:
        row = dict(zip(names, cells, strict=False))
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) > len(names) and any(cell.strip() for cell in cells[len(names) :]):
            left_out.append(f"{path.name}:{place}: has {len(cells)} cells; the first row names {len(names)}")
            continue
        others = {name: value for name, value in row.items() if name not in known}
        entries.append(_of_mapping({name: row[name] for name in row if name in known}, others, checkpoints))
    return entries, left_out


def read_json_list(path: Path, checkpoints: Iterable[str]) -> Read:
    """A file of JSON lines, each a prompt or an object. Raises SheetError (E-SHEET) for a file that is no text."""
    mistakes = Mistakes()
    entries = [_of_object(line.settings, checkpoints) for line in read_json_lines(path, mistakes)]
    return entries, [f"{error.what} {error.value}: {error.why}" for error in mistakes.errors]


def _of_object(given: Mapping[str, Any], checkpoints: Iterable[str]) -> SheetEntry:
    known = {name: value for name, value in given.items() if _key_of(name) is not None}
    return _of_mapping(known, {name: value for name, value in given.items() if name not in known}, checkpoints)


def _of_mapping(known: Mapping[str, Any], others: Mapping[str, Any], checkpoints: Iterable[str]) -> SheetEntry:
    """An entry of values by their columns; other columns fill `${name}` in texts, as in Darkroom's own tables."""
    notes: list[str] = []
    given: dict[str, Any] = {}
    for name, value in known.items():
        key = str(_key_of(name))
        if value is None or (isinstance(value, str) and not value.strip()):
            continue
        if key in given:
            notes.append(f"not used: {name}: {shorten(value)} (another column is {key} already)")
        else:
            given[key] = value
    variables = {**others, **(given.pop("variables", None) or {})}
    used: set[str] = set()
    for key in ("prompt", "negative_prompt"):
        if isinstance(given.get(key), str):
            given[key] = _VARIABLE.sub(lambda found: _fill(found, variables, used), given[key])
    for name, value in variables.items():
        if name not in used and str(value or "").strip():
            notes.append(f"not used: {name}: {shorten(value)} (is no setting, and no prompt has ${{{name}}})")
    return _entry(given, notes, checkpoints)


def _fill(found: re.Match[str], variables: Mapping[str, Any], used: set[str]) -> str:
    if found[1] not in variables or not NAME.fullmatch(found[1]):
        return found[0]
    used.add(found[1])
    return str(variables[found[1]])


def _key_of(name: object) -> str | None:
    """Darkroom's key for a column, None for one that is no setting."""
    plain = loose(name)
    return _KEYS.get(plain) or _OTHER_NAMES.get(plain)


def _entry(given: dict[str, Any], notes: list[str], checkpoints: Iterable[str], *, times: int = 1) -> SheetEntry:
    """The entry of settings by Darkroom's keys, numbers read; what can't be used is noted."""
    made: dict[str, Any] = {}
    for key, value in given.items():
        if key == "size":
            _take_size(value, made, notes)
        elif key == "checkpoints":
            _take_checkpoints(value, checkpoints, made, notes)
        elif key in ("seed", "variation_seed") and str(value).strip() == "-1":
            notes.append(f"not used: {key}: -1 ({_RANDOM})")
        elif (reason := _why_not(key, read := _read(key, value), given)) is not None:
            notes.append(f"not used: {key}: {shorten(value)} ({reason})")
        else:
            made[key] = read
    if times > 1:
        seed = made.pop("seed", None)
        if isinstance(seed, int):
            made["seeds"] = list(range(seed, seed + times))  # as A1111 counts them
        else:
            notes.append(f"not used: {times} pictures (no seed is stated for them)")
    name = made.pop("id", None)
    text = str(made.get("prompt", ""))
    return SheetEntry(str(name) if name else derive_id(text), made, tuple(notes))


def _why_not(key: str, value: Any, given: Mapping[str, Any]) -> str | None:
    """Why a setting can't be, None if it can; a prompt's text is judged with the whole."""
    if key in TEXTS or key not in RenderRequest.model_fields:
        return None
    return why_not(key, value, sampler=given.get("sampler"))


def _read(key: str, value: Any) -> Any:
    if key == "seeds" and isinstance(value, str):
        value = [part for part in re.split(r"[\s,;]+", value) if part]
        return [_read("seed", part) for part in value]
    if key == "styles" and isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    read = _NUMBERS.get(key)
    if read is not None:
        with suppress(ValueError):
            return read(value)
    return value


def _take_size(value: Any, made: dict[str, Any], notes: list[str]) -> None:
    found = _SIZE.fullmatch(str(value))
    if found:
        made |= {"width": int(found[1]), "height": int(found[2])}
    else:
        notes.append(f"not used: size: {shorten(value)} (is no width and height)")


def _take_checkpoints(value: Any, known: Iterable[str], made: dict[str, Any], notes: list[str]) -> None:
    """Checkpoints by name, in any case and with the suffix of a file; one that isn't configured is noted."""
    by_name = {name.casefold(): name for name in known}
    found = []
    for each in value if isinstance(value, list) else re.split(r"\s*[,;]\s*", str(value)):
        name = by_name.get((model_name(re.sub(r"\s*\[[0-9a-fA-F]+\]$", "", str(each))) or "").casefold())
        if name is None:
            notes.append(f"checkpoint {each} is not configured under that name")
        else:
            found.append(name)
    if found:
        made["checkpoints"] = list(dict.fromkeys(found))
