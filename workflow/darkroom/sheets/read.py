"""Reads the prompt sheets of a configuration into the pictures they ask for, those that others begin with first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from darkroom.base.strict_yaml import locate
from darkroom.base.text import did_you_mean
from darkroom.base.validation import Mistakes
from darkroom.config import Config
from darkroom.errors import SheetError
from darkroom.pictures.inputs import InputPictures
from darkroom.request.assets import AssetNames
from darkroom.sheets.names import name_sheets
from darkroom.sheets.planned import PlannedPicture, PlannedSheet, PromptCount
from darkroom.sheets.ratings import ratings_path, read_ratings
from darkroom.sheets.reader import PROMPT_KEYS, SHEET_KEYS, Context, SheetReader
from darkroom.sheets.settings import check_layer, overlay
from darkroom.sheets.sheet_file import check_path, find_files, open_sheet

__all__ = [
    "PROMPT_KEYS",
    "SHEET_KEYS",
    "PlannedPicture",
    "PlannedSheet",
    "PromptCount",
    "load_pictures",
    "load_sheet",
    "read_render",
    "read_sheets",
]


def load_pictures(config: Config) -> dict[str, PlannedSheet]:
    """All pictures of all sheets, by sheet name, in the sheets' order.

    Raises the first of all mistakes, with the others as its notes: SheetError (E-SHEET), ConfigError (E-CONFIG),
    BadNameError (E-NAME), RequestError (E-REQUEST), LoraError (E-LORA) or EmbeddingError (E-EMBEDDING).
    """
    mistakes = Mistakes()
    sheets = read_sheets(config, mistakes)
    mistakes.raise_all()
    return sheets


def load_sheet(config: Config, name: str) -> PlannedSheet:
    """The pictures of one sheet; of the others only those are read that it goes on with. Raises what `load_pictures` raises."""
    mistakes = Mistakes()
    sheets = _open_all(config, mistakes)
    sheet = sheets.read_one(name)
    mistakes.raise_all()
    return sheet


def read_sheets(config: Config, mistakes: Mistakes) -> dict[str, PlannedSheet]:
    """As `load_pictures`, without the pictures that have something wrong, which goes to `mistakes`."""
    return _open_all(config, mistakes).read_all()


def _open_all(config: Config, mistakes: Mistakes) -> _Sheets:
    settings = overlay({}, read_render(config, mistakes), "config render")
    paths: list[str] = []
    for listed in config.sheets:
        with mistakes.collect():
            found = find_files(listed)
            for path in found:
                check_path(path)
            paths += map(str, found)
    return _Sheets(config, settings, name_sheets(paths, mistakes), mistakes)


def read_render(config: Config, mistakes: Mistakes) -> dict[str, Any]:
    """The configuration's `render` without what is wrong in it, which goes to `mistakes`."""

    def find(key: str) -> str:
        return locate(config.path, ["render", key])

    return check_layer(config.render, "render", "config render", find, _assets(config), mistakes)


def _assets(config: Config) -> AssetNames:
    return AssetNames(config.vaes, config.loras, config.embeddings, config.upscalers, config.controlnets)


class _Sheets:
    """The sheets by name, each read once, whichever asks for it first."""

    def __init__(
        self, config: Config, settings: Mapping[str, Any], paths: Mapping[str, Path], mistakes: Mistakes
    ) -> None:
        self._paths, self._mistakes = paths, mistakes
        self._inputs = InputPictures()
        self._context = Context(config, _assets(config), settings, self._inputs, self._named, mistakes)
        self._read: dict[str, PlannedSheet] = {}
        self._open: list[str] = []

    def read_all(self) -> dict[str, PlannedSheet]:
        sheets = {name: self._sheet(name) for name in self._paths}
        self._inputs.save()
        return sheets

    def read_one(self, name: str) -> PlannedSheet:
        """Raises SheetError (E-SHEET) for a name of none."""
        if name not in self._paths:
            hint = did_you_mean(name, self._paths, f"known are {', '.join(self._paths)}")
            raise SheetError("sheet", name, "is none that the configuration lists", hint)
        sheet = self._sheet(name)
        self._inputs.save()
        return sheet

    def _sheet(self, name: str) -> PlannedSheet:
        if name not in self._read:
            self._open.append(name)
            self._read[name] = PlannedSheet()
            with self._mistakes.collect():
                file = open_sheet(self._paths[name], PROMPT_KEYS, self._mistakes)
                self._read[name] = SheetReader(file, name, self._context).read()
            self._add_ratings(name)
            self._open.pop()
        return self._read[name]

    def _add_ratings(self, name: str) -> None:
        """Read what people think of a sheet's pictures, if they wrote it down."""
        sheet, path = self._read[name], ratings_path(self._paths[name])
        sheet.ratings_path = path
        if path.exists():
            sheet.ratings = read_ratings(path, name, self._mistakes)

    def _named(self, name: str, place: str) -> PlannedSheet:
        """The sheet that a `from` names. Raises SheetError (E-SHEET) for an unknown one, and for one that leads back."""
        if name not in self._paths:
            hint = did_you_mean(name, self._paths, f"known are {', '.join(self._paths)}")
            raise SheetError("from: sheet", name, f"is none that the configuration lists ({place})", hint)
        if name in self._open:
            circle = " → ".join([*self._open[self._open.index(name) :], name])
            raise SheetError("from: sheet", name, f"leads back to itself: {circle} ({place})", "take one of them out")
        return self._sheet(name)
