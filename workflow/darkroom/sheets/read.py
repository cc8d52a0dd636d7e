"""Reads prompt sheets: YAML, or plain text with a prompt a line, into the pictures they ask for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from darkroom.base.strict_yaml import locate
from darkroom.base.text import did_you_mean
from darkroom.base.validation import Mistakes
from darkroom.config import Config
from darkroom.errors import BadNameError, ConfigError, InputError, SheetError
from darkroom.pictures.formats import PNG
from darkroom.request.assets import AssetNames
from darkroom.request.render_request import RenderRequest
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
from darkroom.sheets.sheet_file import SheetFile, check_path, open_sheet

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
    def name(self) -> str:
        """`SHEET/CHECKPOINT/ID-SEED`: its place below results/ without the suffix."""
        return f"{self.sheet}/{self.checkpoint}/{self.id}-{self.seed}"

    @property
    def path(self) -> str:
        """Its place below results/."""
        return self.name + PNG.suffix

    def as_dict(self) -> dict[str, Any]:
        """As JSON-ready data with the fields of `darkroom.pictures.picture.GalleryPicture`."""
        data = {name: getattr(self, name) for name in ("sheet", "checkpoint", "id", "seed", "path")}
        return {**data, "request": self.request.model_dump(mode="json")}


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
    settings = overlay({}, read_render(config, mistakes), "config render")
    assets = _assets(config)
    sheets: dict[str, list[PlannedPicture]] = {}
    paths: list[str] = []
    for listed in config.sheets:
        with mistakes.collect():
            check_path(Path(listed))
            paths.append(listed)
    for name, path in name_sheets(paths, mistakes).items():
        sheets[name] = []
        with mistakes.collect():
            file = open_sheet(path, PROMPT_KEYS, mistakes)
            sheets[name] = _Reader(file, name, config, assets, mistakes, settings).read()
    return sheets


def read_render(config: Config, mistakes: Mistakes) -> dict[str, Any]:
    """The configuration's `render` without what is wrong in it, which goes to `mistakes`."""

    def find(key: str) -> str:
        return locate(config.path, ["render", key])

    return check_layer(config.render, "render", "config render", find, _assets(config), mistakes)


def _assets(config: Config) -> AssetNames:
    return AssetNames(config.vaes, config.loras, config.embeddings)


@dataclass(slots=True)
class _Reader:
    """Reads the prompts of one sheet; what is wrong goes to `mistakes`. `ids` holds the ids so far, by file name."""

    file: SheetFile
    name: str
    config: Config
    assets: AssetNames
    mistakes: Mistakes
    settings: dict[str, Any]
    ids: dict[str, str] = field(default_factory=dict)

    def read(self) -> list[PlannedPicture]:
        """The pictures of the sheet."""
        data, where = self.file.data, f"{self.file.path}: defaults"

        with self.mistakes.collect():
            check_keys(data, SHEET_KEYS, "", self.file.locate)

        def locate_default(key: str) -> str:
            return self.file.locate("defaults", key)

        defaults = check_layer(data.get("defaults"), "defaults", where, locate_default, self.assets, self.mistakes)
        self.settings = overlay(self.settings, defaults, where)
        checkpoints = list(self.config.checkpoints)
        with self.mistakes.collect():
            checkpoints = self.choose_checkpoints(data.get("checkpoints"), checkpoints, "checkpoints")
        pictures: list[PlannedPicture] = []
        for number, entry in enumerate(data["prompts"]):
            with self.mistakes.collect():
                pictures += self.read_prompt(number, _as_prompt(self.file, number, entry), checkpoints)
        return pictures

    def read_prompt(self, number: int, prompt: dict[str, Any], checkpoints: list[str]) -> list[PlannedPicture]:
        """The pictures of a prompt. Raises an InputError for its id or its checkpoints."""
        where = f"{self.file.path}: prompt {number + 1}"
        slug = self.choose_id(number, prompt)
        chosen = self.choose_checkpoints(prompt.get("checkpoints"), checkpoints, "prompts", number, "checkpoints")
        own = {key: value for key, value in prompt.items() if key not in ("id", "checkpoints")}
        requests = self.make_requests(number, own, f"{where} ({slug})")
        return [PlannedPicture(self.name, checkpoint, slug, r.seed, r) for checkpoint in chosen for r in requests]

    def make_requests(self, number: int, own: dict[str, Any], where: str) -> list[RenderRequest]:
        """The requests of a prompt with its `own` settings; none if something in them is wrong."""
        try:
            return make_requests(overlay(self.settings, own, where), self.assets, where)
        except InputError as error:

            def locate_own(key: str) -> str:
                return self.file.locate("prompts", number, key)

            if not find_wrong_keys(own, where, locate_own, self.assets, self.mistakes):
                self.mistakes.add(placed(error, self.file.locate("prompts", number)))
            return []

    def choose_id(self, number: int, prompt: dict[str, Any]) -> str:
        """The prompt's id as a file name. Raises BadNameError (E-NAME)."""
        if self.file.lines:
            return self.file.lines[number].id
        given = prompt.get("id")
        slug = derive_id(prompt["prompt"]) if given is None else self.make_id(given, number)
        if slug in self.ids:
            why = f"is the same file name as '{self.ids[slug]}' ({self.file.locate('prompts', number, 'id')})"
            raise BadNameError("prompt id", given or slug, why, "give one of the two prompts another id")
        self.ids[slug] = str(given or slug)
        return slug

    def make_id(self, given: object, number: int) -> str:
        """The file name of a given id. Raises BadNameError (E-NAME)."""
        try:
            return make_id(given)
        except BadNameError as error:
            raise placed(error, self.file.locate("prompts", number, "id")) from None

    def choose_checkpoints(self, wanted: object, default: list[str], *keys: str | int) -> list[str]:
        """The checkpoints that are named at `keys`, or the default. Raises ConfigError (E-CONFIG)."""
        if wanted is None:
            return default
        names = [str(name) for name in wanted] if isinstance(wanted, list) else [str(wanted)]
        known = self.config.checkpoints
        if not names:
            why = f"names none ({self.file.locate(*keys)})"
            raise ConfigError("checkpoints", "[]", why, "leave checkpoints out for all of them")
        for name in names:
            if name not in known:
                hint = did_you_mean(name, known, f"known are {', '.join(known)}", most=1)
                why = f"is none that the configuration knows ({self.file.locate(*keys)})"
                raise ConfigError("checkpoint", name, why, hint)
        return list(dict.fromkeys(names))


def _as_prompt(file: SheetFile, number: int, entry: object) -> dict[str, Any]:
    keys = ("prompts", number)
    if isinstance(entry, str) or entry is None:
        file.refuse_loss(*keys)
        if entry is None:
            file.refuse_no_text(entry, *keys)
            raise SheetError("prompt", file.locate(*keys), "is empty", "write a text, or delete the '-'")
        return {"prompt": entry}
    if not isinstance(entry, dict) or not entry.keys() & set(PROMPT_KEYS):
        file.refuse_no_text(entry, *keys)
    assert isinstance(entry, dict)
    check_keys(entry, PROMPT_KEYS, f"prompts.{number}", lambda key: file.locate(*keys, key))
    for key in _TEXT_KEYS:
        if key in entry:
            file.refuse_loss(*keys, key)
            if key == "prompt" or entry[key] is not None:
                file.refuse_no_text(entry[key], *keys, key)
    if entry.get("prompt") is None:
        raise SheetError("prompt", file.locate(*keys), "has no text", "write prompt: and the text")
    return entry
