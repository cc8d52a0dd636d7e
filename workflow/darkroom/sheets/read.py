"""Reads prompt sheets: YAML, or plain text with a prompt a line, into the pictures they ask for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darkroom.base.strict_yaml import PUT_IN_QUOTES, YamlFile, locate, read_yaml
from darkroom.base.text import did_you_mean, shorten
from darkroom.base.validation import Mistakes
from darkroom.config import Config
from darkroom.errors import BadNameError, ConfigError, InputError, SheetError
from darkroom.pictures.formats import PNG
from darkroom.request.assets import AssetNames
from darkroom.request.render_request import RenderRequest
from darkroom.sheets.lines import Line, read_lines
from darkroom.sheets.names import derive_id, make_id, name_sheets
from darkroom.sheets.settings import (
    SETTING_KEYS,
    check_keys,
    check_layer,
    find_wrong_keys,
    make_requests,
    overlay,
    placed,
)

SHEET_KEYS = ["checkpoints", "defaults", "prompts"]
PROMPT_KEYS = ["id", "prompt", "checkpoints", *SETTING_KEYS]
_TEXT_KEYS = ("prompt", "negative_prompt", "prompt_2", "negative_prompt_2")


@dataclass(frozen=True, slots=True)
class PlannedPicture:
    """A picture that a sheet asks for: its place, and the request that decides it."""

    sheet: str
    checkpoint: str
    id: str
    seed: int
    request: RenderRequest

    @property
    def path(self) -> str:
        """Its place below results/."""
        return f"{self.sheet}/{self.checkpoint}/{self.id}-{self.seed}{PNG.suffix}"

    def as_dict(self) -> dict[str, Any]:
        """As JSON-ready data with the fields of `darkroom.pictures.picture.GalleryPicture`."""
        data = {name: getattr(self, name) for name in ("sheet", "checkpoint", "id", "seed", "path")}
        return {**data, "request": self.request.model_dump(mode="json")}


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
        lost = self.yaml and self.yaml.find_loss(self._in_file(keys))
        if lost:
            why = f"YAML drops {lost} ({self.locate(*keys)})"
            raise SheetError("text", self._shown(keys), why, self._quoted(keys))

    def refuse_no_text(self, value: object, *keys: str | int) -> None:
        """Raise SheetError (E-SHEET) for a value that YAML read as something else than text."""
        kind = {bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "a mapping"}.get(
            type(value)
        )
        if kind is not None:
            raise SheetError(
                "text", self._shown(keys), f"YAML reads it as {kind} ({self.locate(*keys)})", self._quoted(keys)
            )

    def _quoted(self, keys: tuple[str | int, ...]) -> str:
        line = self.yaml and self.yaml.quoted(self._in_file(keys))
        return f"{PUT_IN_QUOTES}: {line}" if line else PUT_IN_QUOTES

    def _shown(self, keys: tuple[str | int, ...]) -> str:
        return shorten(self.yaml.written(self._in_file(keys))) if self.yaml else ""

    def _in_file(self, keys: tuple[str | int, ...]) -> tuple[str | int, ...]:
        """The keys that lead to a value; a YAML sheet may be a mere list of prompts."""
        return keys[1:] if self.yaml and isinstance(self.yaml.data, list) else keys


def load_pictures(config: Config) -> dict[str, list[PlannedPicture]]:
    """All pictures of all sheets, by sheet name, in the sheets' order.

    Raises the first of all mistakes, with the others as its notes: SheetError (E-SHEET), ConfigError (E-CONFIG),
    BadNameError (E-NAME), RequestError (E-REQUEST), LoraError (E-LORA) or EmbeddingError (E-EMBEDDING).
    """
    mistakes = Mistakes()
    sheets = read_sheets(config, mistakes)
    mistakes.raise_all()
    return sheets


def read_sheets(config: Config, mistakes: Mistakes) -> dict[str, list[PlannedPicture]]:
    """As `load_pictures`, without the pictures that have something wrong, which goes to `mistakes`."""
    render = read_render(config, mistakes)
    sheets: dict[str, list[PlannedPicture]] = {}
    for name, path in name_sheets(config.sheets, mistakes).items():
        sheets[name] = []
        with mistakes.collect():
            sheets[name] = _read_sheet(_open_sheet(path, mistakes), name, config, render, mistakes)
    return sheets


def read_render(config: Config, mistakes: Mistakes) -> dict[str, Any]:
    """The configuration's `render` without what is wrong in it, which goes to `mistakes`."""

    def find(key: str) -> str:
        return locate(config.path, ["render", key])

    return check_layer(config.render, "render", "config render", find, _assets(config), mistakes)


def _assets(config: Config) -> AssetNames:
    return AssetNames(config.vaes, config.loras, config.embeddings)


def _read_sheet(
    file: SheetFile, name: str, config: Config, render: dict[str, Any], mistakes: Mistakes
) -> list[PlannedPicture]:
    assets = _assets(config)
    defaults, where = file.data.get("defaults"), f"{file.path}: defaults"
    defaults = check_layer(defaults, "defaults", where, lambda key: file.locate("defaults", key), assets, mistakes)
    default_checkpoints = list(config.checkpoints)
    with mistakes.collect():
        default_checkpoints = _choose_checkpoints(file, default_checkpoints, config, "checkpoints")
    settings = overlay(overlay({}, render, "config render"), defaults, where)
    pictures: list[PlannedPicture] = []
    ids: dict[str, str] = {}
    for number, entry in enumerate(file.data["prompts"]):
        with mistakes.collect():
            where = f"{file.path}: prompt {number + 1}"
            prompt = _read_prompt(file, number, entry)
            slug = _choose_id(file, number, prompt, ids, where)
            chosen = _choose_checkpoints(file, default_checkpoints, config, "prompts", number, "checkpoints")
            own = {key: value for key, value in prompt.items() if key not in ("id", "checkpoints")}
            requests = _make_requests(file, number, settings, own, assets, f"{where} ({slug})", mistakes)
            pictures += [PlannedPicture(name, checkpoint, slug, r.seed, r) for checkpoint in chosen for r in requests]
    return pictures


def _make_requests(
    file: SheetFile,
    number: int,
    settings: dict[str, Any],
    own: dict[str, Any],
    assets: AssetNames,
    where: str,
    mistakes: Mistakes,
) -> list[RenderRequest]:
    """The requests of a prompt with its `own` settings; none if something in them is wrong, which goes to `mistakes`."""
    try:
        return make_requests(overlay(settings, own, where), assets, where)
    except InputError as error:
        if not find_wrong_keys(own, where, lambda key: file.locate("prompts", number, key), assets, mistakes):
            mistakes.add(placed(error, file.locate("prompts", number)))
        return []


def _open_sheet(path: Path, mistakes: Mistakes) -> SheetFile:
    """A sheet with a list of `prompts` that isn't empty, and no unknown keys. Raises SheetError, ConfigError."""
    suffix = path.suffix.lower()
    if path.is_dir():
        raise SheetError("prompt sheet", path, "is a folder", "list the files in it under 'sheets'")
    if not path.exists():
        hint = "correct 'sheets' in the configuration, or write the file"
        if re.search(r"[*?\[]", str(path)):
            hint = "list the files one by one under 'sheets'"
        raise SheetError("prompt sheet", path, "does not exist", hint)
    if suffix == ".txt":
        before = len(mistakes.errors)
        lines = tuple(read_lines(path, mistakes))
        if not lines and len(mistakes.errors) == before:
            raise SheetError("prompt sheet", path, "has no prompts", "write a prompt a line")
        return SheetFile(path, {"prompts": [line.settings for line in lines]}, lines=lines)
    if suffix not in (".yaml", ".yml"):
        raise SheetError("prompt sheet", path, "is neither .yaml nor .txt", "rename it, or convert it")
    yaml = read_yaml(path, mistakes=mistakes)
    data = {"prompts": yaml.data} if isinstance(yaml.data, list) else yaml.data
    if not isinstance(data, dict) or not isinstance(data.get("prompts"), list) or not data["prompts"]:
        raise SheetError("prompt sheet", path, "has no list of prompts", "write 'prompts:' and a list below it")
    with mistakes.collect():
        check_keys(data, SHEET_KEYS, "", lambda key: yaml.locate([key]))
    return SheetFile(path, data, yaml)


def _read_prompt(file: SheetFile, number: int, entry: object) -> dict[str, Any]:
    keys = ("prompts", number)
    place = file.locate(*keys)
    if isinstance(entry, str) or entry is None:
        file.refuse_loss(*keys)
        if entry is None:
            raise SheetError("prompt", place, "is empty", "write a text, or delete the '-'")
        return {"prompt": entry}
    if not isinstance(entry, dict) or not entry.keys() & set(PROMPT_KEYS):
        file.refuse_no_text(entry, *keys)
    assert isinstance(entry, dict)
    check_keys(entry, PROMPT_KEYS, f"prompts.{number}", lambda key: file.locate(*keys, key))
    for key in _TEXT_KEYS:
        if key in entry:
            file.refuse_loss(*keys, key)
            file.refuse_no_text(entry[key], *keys, key)
    if entry.get("prompt") is None:
        raise SheetError("prompt", place, "has no text", "write prompt: and the text")
    return entry


def _choose_id(file: SheetFile, number: int, prompt: dict[str, Any], ids: dict[str, str], where: str) -> str:
    """The prompt's id as a file name; `ids` holds those of the prompts before, and gets it."""
    if file.lines:
        return file.lines[number].id
    given = prompt.get("id")
    place = file.locate("prompts", number, "id")
    slug = derive_id(prompt["prompt"]) if given is None else make_id(given, place)
    if slug in ids:
        why = f"is the same file name as '{ids[slug]}' ({place})"
        raise BadNameError("prompt id", given or slug, why, "give one of the two prompts another id")
    ids[slug] = str(given or slug)
    return slug


def _choose_checkpoints(file: SheetFile, default: list[str], config: Config, *keys: str | int) -> list[str]:
    """The checkpoints that the sheet or one of its prompts names by `keys`; `default` if there are none."""
    wanted: Any = file.data
    for key in keys:
        wanted = wanted[key] if not isinstance(key, str) else wanted.get(key) if isinstance(wanted, dict) else None
    if wanted is None:
        return default
    names = [str(name) for name in wanted] if isinstance(wanted, list) else [str(wanted)]
    place = file.locate(*keys)
    if not names:
        raise ConfigError("checkpoints", "[]", f"name none ({place})", "leave checkpoints out for all of them")
    for name in names:
        if name not in config.checkpoints:
            hint = did_you_mean(name, config.checkpoints, f"known are {', '.join(config.checkpoints)}", most=1)
            raise ConfigError("checkpoint", name, f"is none that the configuration knows ({place})", hint)
    return list(dict.fromkeys(names))
