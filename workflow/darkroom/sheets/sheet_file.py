"""A sheet's file, YAML or text: its data, and where each value stands in it."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darkroom.base.strict_yaml import YamlFile, read_yaml
from darkroom.base.text import near_names, shorten
from darkroom.base.validation import Mistakes
from darkroom.errors import SheetError
from darkroom.sheets.lines import Line, read_lines
from darkroom.sheets.ratings import is_ratings_file
from darkroom.sheets.tables import read_json_lines, read_table

_KINDS = {
    bool: "a boolean",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "a mapping",
    type(None): "nothing",
}


_PATTERN = re.compile(r"[*?\[]")
SUFFIXES = (".yaml", ".yml", ".txt", ".csv", ".tsv", ".jsonl")


@dataclass(frozen=True, slots=True)
class SheetFile:
    """A sheet as it was read: a mapping with the keys of a sheet, and where each value stands."""

    path: Path
    data: dict[str, Any]
    yaml: YamlFile | None = None
    lines: tuple[Line, ...] = ()

    def locate(self, *keys: str | int) -> str:
        """`FILE:LINE` of a value below `prompts` or `defaults`, as near as it can be found."""
        if self.yaml is None:
            return f"{self.path}:{self.lines[int(keys[1])].number}" if len(keys) > 1 else str(self.path)
        return self.yaml.locate(self._in_file(keys))

    def refuse_loss(self, *keys: str | int) -> None:
        """Raise SheetError (E-SHEET) for a text that YAML leaves something out of."""
        is_required = isinstance(keys[-1], int) or keys[-1] == "prompt"
        lost = self.yaml and self.yaml.find_loss(self._in_file(keys), is_required=is_required)
        if self.yaml and lost:
            raise self._as_text(f"YAML drops {lost}", keys, self.yaml)

    def refuse_no_text(self, value: object, *keys: str | int) -> None:
        """Raise SheetError (E-SHEET) for a value that YAML read as something else than text."""
        kind = _KINDS.get(type(value))
        if self.yaml and kind and (value is not None or self.yaml.written(self._in_file(keys))):
            raise self._as_text(f"YAML reads it as {kind}", keys, self.yaml)

    def _as_text(self, why: str, keys: tuple[str | int, ...], yaml: YamlFile) -> SheetError:
        written, hint = yaml.written(self._in_file(keys)), yaml.advise_quotes(self._in_file(keys))
        return SheetError("text", shorten(written), f"{why} ({self.locate(*keys)})", hint)

    def _in_file(self, keys: tuple[str | int, ...]) -> tuple[str | int, ...]:
        """The keys that lead to a value; a YAML sheet may be a mere list of prompts."""
        return keys[1:] if self.yaml and isinstance(self.yaml.data, list) else keys


def _read_by_line(path: Path, prompt_keys: Collection[str], mistakes: Mistakes) -> list[Line]:
    suffix = path.suffix.lower()
    if suffix == ".txt":
        return read_lines(path, mistakes)
    if suffix == ".jsonl":
        return read_json_lines(path, mistakes)
    return read_table(path, prompt_keys, mistakes)


def find_files(listed: str) -> list[Path]:
    """The files that an entry of `sheets` names: one, or those that a pattern (`prompts/*.yaml`, `**/*.csv`) matches.

    A pattern means no file of ratings, which lies beside its sheet.
    Raises SheetError (E-SHEET) for a pattern that matches none.
    """
    if Path(listed).exists() or not _PATTERN.search(listed):
        return [Path(listed)]
    pattern = Path(listed)
    root = Path(pattern.anchor)
    matched = root.glob(str(pattern.relative_to(root)))
    found = sorted(path for path in matched if path.is_file() and not is_ratings_file(path))
    if not found:
        raise SheetError(
            "prompt sheets", listed, "is a pattern that matches no file", "correct 'sheets' in the configuration"
        )
    return found


def check_path(path: Path) -> None:
    """Raise SheetError (E-SHEET) for what can't be a sheet's file."""
    if path.is_dir():
        raise SheetError("prompt sheet", path, "is a folder", "list the files in it under 'sheets'")
    if not path.exists():
        hint = "correct 'sheets' in the configuration, or write the file"
        raise SheetError("prompt sheet", path, "does not exist", hint)
    if is_ratings_file(path):
        why = "has the name of a file of ratings"
        raise SheetError("prompt sheet", path, why, "leave it out of 'sheets'; a sheet needs another name")
    if path.suffix.lower() not in SUFFIXES:
        raise SheetError("prompt sheet", path, f"is none of {', '.join(SUFFIXES)}", "rename it, or convert it")


def open_sheet(path: Path, prompt_keys: Collection[str], mistakes: Mistakes) -> SheetFile:
    """A sheet with a list of `prompts` that isn't empty; a prompt may have the `prompt_keys`. `from` alone is a prompt.

    Raises SheetError (E-SHEET) or ConfigError (E-CONFIG); what can be read on with goes to `mistakes`.
    """
    if path.suffix.lower() not in (".yaml", ".yml"):
        before = len(mistakes.errors)
        lines = tuple(_read_by_line(path, prompt_keys, mistakes))
        if not lines and len(mistakes.errors) == before:
            raise SheetError("prompt sheet", path, "has no prompts", "write a prompt a line")
        return SheetFile(path, {"prompts": [line.settings for line in lines]}, lines=lines)
    yaml = read_yaml(path, mistakes=mistakes, item_keys=prompt_keys)
    data = {"prompts": yaml.data} if isinstance(yaml.data, list) else yaml.data
    if isinstance(data, str):
        hint = "write '- ' before each prompt, or end the file's name in .txt"
        raise SheetError("prompt sheet", path, "is a text, not a list of prompts", hint)
    if isinstance(data, dict) and "from" in data and "prompts" not in data:
        data = {**data, "prompts": [{}]}
    if not isinstance(data, dict) or not isinstance(data.get("prompts"), list) or not data["prompts"]:
        near = (
            [] if not isinstance(data, dict) or "prompts" in data else near_names("prompts", map(str, data), cutoff=0.6)
        )
        hint = f"write 'prompts:' in place of '{near[0]}:'" if near else "write 'prompts:' and a list below it"
        raise SheetError("prompt sheet", path, "has no list of prompts", hint)
    return SheetFile(path, data, yaml)
