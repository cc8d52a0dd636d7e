"""Reads prompt sheets: YAML, or plain text with a prompt a line, into the pictures they ask for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from darkroom.base.strict_yaml import locate
from darkroom.base.text import did_you_mean, format_count
from darkroom.base.validation import Mistakes
from darkroom.config import Config
from darkroom.errors import BadNameError, ConfigError, InputError, SheetError
from darkroom.pictures.formats import PNG
from darkroom.request.assets import AssetNames
from darkroom.request.render_request import RenderRequest
from darkroom.sheets.axes import Value
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
from darkroom.sheets.sheet_file import SheetFile, check_path, find_files, open_sheet
from darkroom.sheets.study import TEXTS, Cell, Expansion, Study, merge_lora_weights
from darkroom.sheets.study_keys import STUDY_KEYS, read_study, read_variables
from darkroom.sheets.styles import Style, apply_styles, read_styles

SHEET_KEYS = ["checkpoints", "defaults", "prompts", "styles_file", *STUDY_KEYS]
PROMPT_KEYS = ["id", "prompt", "checkpoints", "styles", "variables", *SETTING_KEYS]


@dataclass(frozen=True, slots=True)
class PlannedPicture:
    """A picture that a sheet asks for: its place, and the request that decides it."""

    sheet: str
    checkpoint: str
    id: str
    seed: int
    request: RenderRequest
    study: dict[str, Any] | None = None
    """The cell of a study: its prompt's id, the axes' labels, the draw and the template."""

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
        study = {} if self.study is None else {"study": self.study}
        return {**data, "request": self.request.model_dump(mode="json"), **study}


@dataclass(frozen=True, slots=True)
class PromptCount:
    """How many pictures a prompt becomes: the number of values of each thing that multiplies, and of cells left out or added."""

    id: str
    factors: Mapping[str, int]
    excluded: int
    included: int
    pictures: int

    def describe(self) -> str:
        """`sailor: 2 age × 3 look × 2 checkpoints = 12, 2 excluded, 10 pictures`."""
        factors = " × ".join(f"{number} {name}" for name, number in self.factors.items() if number > 1) or "1 cell"
        parts = [f"{self.id}: {factors} = {math.prod(self.factors.values()):,}"]
        parts += [f"{self.excluded:,} excluded"] if self.excluded else []
        parts += [f"{self.included:,} included"] if self.included else []
        return ", ".join([*parts, format_count(self.pictures, "picture")])


class PlannedSheet(list[PlannedPicture]):
    """The pictures of a sheet in its order; `counts` says how they come about.

    `study` is `Study.table()`, None for a sheet that is no study.
    """

    def __init__(
        self,
        pictures: Iterable[PlannedPicture] = (),
        counts: Sequence[PromptCount] = (),
        study: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(pictures)
        self.counts = tuple(counts)
        self.study = study


def load_pictures(config: Config) -> dict[str, PlannedSheet]:
    """All pictures of all sheets, by sheet name, in the sheets' order.

    Raises the first of all mistakes, with the others as its notes: SheetError (E-SHEET), ConfigError (E-CONFIG),
    BadNameError (E-NAME), RequestError (E-REQUEST), LoraError (E-LORA) or EmbeddingError (E-EMBEDDING).
    """
    mistakes = Mistakes()
    sheets = read_sheets(config, mistakes)
    mistakes.raise_all()
    return sheets


def read_sheets(config: Config, mistakes: Mistakes) -> dict[str, PlannedSheet]:
    """As `load_pictures`, without the pictures that have something wrong, which goes to `mistakes`."""
    settings = overlay({}, read_render(config, mistakes), "config render")
    assets = _assets(config)
    sheets: dict[str, PlannedSheet] = {}
    paths: list[str] = []
    for listed in config.sheets:
        with mistakes.collect():
            found = find_files(listed)
            for path in found:
                check_path(path)
            paths += map(str, found)
    for name, path in name_sheets(paths, mistakes).items():
        sheets[name] = PlannedSheet()
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
    """Reads the prompts of one sheet; what is wrong goes to `mistakes`.

    `ids` holds the ids so far, by file name; `names` and `counts` are those of the pictures and prompts so far.
    """

    file: SheetFile
    name: str
    config: Config
    assets: AssetNames
    mistakes: Mistakes
    settings: dict[str, Any]
    study: Study = field(default_factory=Study)
    styles: dict[str, Style] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    counts: list[PromptCount] = field(default_factory=list)

    def read(self) -> PlannedSheet:
        """The pictures of the sheet."""
        data, where = self.file.data, f"{self.file.path}: defaults"

        with self.mistakes.collect():
            check_keys(data, SHEET_KEYS, "", self.file.locate)

        def locate_default(key: str) -> str:
            return self.file.locate("defaults", key)

        defaults, styles = _without_styles(data.get("defaults"))
        defaults = check_layer(defaults, "defaults", where, locate_default, self.assets, self.mistakes)
        self.settings = overlay(self.settings, {**defaults, **styles}, where)
        if (path := data.get("styles_file")) is not None:
            with self.mistakes.collect():
                self.styles = read_styles(Path(str(path)))
        checkpoints = list(self.config.checkpoints)
        with self.mistakes.collect():
            checkpoints = self.choose_checkpoints(data.get("checkpoints"), checkpoints, "checkpoints")
        study = read_study(data, self.texts(), self.file.locate, self.mistakes)
        self.study = study.without(self.is_wrong)
        pictures: list[PlannedPicture] = []
        for number, entry in enumerate(data["prompts"]):
            with self.mistakes.collect():
                pictures += self.read_prompt(number, _as_prompt(self.file, number, entry), checkpoints)
        self.study.check(len(pictures), self.file.locate, self.mistakes)
        return PlannedSheet(pictures, self.counts, None if self.study.is_plain else self.study.table())

    def texts(self) -> list[str]:
        """All texts of the sheet that may have places to fill."""
        entries = (entry if isinstance(entry, dict) else {"prompt": entry} for entry in self.file.data["prompts"])
        found = [layer[key] for layer in (self.settings, *entries) for key in TEXTS if isinstance(layer.get(key), str)]
        return [*found, *(text for style in self.styles.values() for text in (style.prompt, style.negative_prompt))]

    def is_wrong(self, value: Value) -> bool:
        """True for an axis' value whose settings can't be, whatever the prompt; told here once, not for each cell."""
        before = len(self.mistakes.errors)
        patch = dict(value.patch.settings)
        with self.mistakes.collect():
            if "checkpoints" in patch:
                self.known_checkpoints(patch.pop("checkpoints"), value.place)
            where = f"axis value {value.label} ({value.place})"
            patch = apply_styles(patch, self.styles, where) if "styles" in patch else patch
            patch = merge_lora_weights(patch, where)
            find_wrong_keys(patch, where, lambda _: value.place, self.assets, self.mistakes)
        return len(self.mistakes.errors) > before

    def read_prompt(self, number: int, prompt: dict[str, Any], checkpoints: list[str]) -> list[PlannedPicture]:
        """The pictures of a prompt: those of its cells. Raises an InputError for its id or its checkpoints."""
        where = f"{self.file.path}: prompt {number + 1}"
        slug = self.choose_id(number, prompt)
        chosen = self.choose_checkpoints(prompt.get("checkpoints"), checkpoints, "prompts", number, "checkpoints")
        keys = ("prompts", number, "variables")
        variables = read_variables(prompt.get("variables"), self.file.locate, self.mistakes, *keys)
        own = {key: value for key, value in prompt.items() if key not in ("id", "checkpoints", "variables")}
        return self.with_mistakes(
            number, own, f"{where} ({slug})", lambda: self.cells(slug, own, variables, chosen, where)
        )

    def cells(
        self, slug: str, own: dict[str, Any], variables: Mapping[str, str], chosen: list[str], where: str
    ) -> list[PlannedPicture]:
        """The pictures of a prompt's cells. Raises an InputError."""
        base = overlay(self.settings, own, f"{where} ({slug})")
        whole = apply_styles(base, self.styles, f"{where} ({slug})")
        expansion = self.study.expand(slug, whole, variables, f"{where} ({slug})")
        cells = [list(self.pictures_of(cell, slug, base, chosen, f"{where} ({cell.stem})")) for cell in expansion.cells]
        if not self.study.is_plain:
            self.counts.append(_count(slug, expansion, cells))
        return [picture for pictures in cells for picture in pictures]

    def pictures_of(
        self, cell: Cell, slug: str, base: Mapping[str, Any], chosen: list[str], where: str
    ) -> Iterator[PlannedPicture]:
        patch = dict(cell.settings)
        if "checkpoints" in patch:
            chosen = self.known_checkpoints(patch.pop("checkpoints"), where)
        merged = cell.fill(apply_styles(overlay(base, patch, where) if patch else base, self.styles, where))
        facts = None if self.study.is_plain else cell.facts(slug, str(merged["prompt"]), str(base["prompt"]))
        requests = make_requests(merged, self.assets, where)
        for checkpoint in chosen:
            for request in requests:
                picture = PlannedPicture(self.name, checkpoint, cell.stem, request.seed, request, facts)
                if picture.name in self.names:
                    why = "is the name of two pictures of the sheet"
                    raise BadNameError("picture", picture.name, why, "give an axis' value or a prompt another name")
                self.names.add(picture.name)
                yield picture

    def with_mistakes(
        self, number: int, own: dict[str, Any], where: str, read: Callable[[], list[PlannedPicture]]
    ) -> list[PlannedPicture]:
        """The pictures that `read` gives; none if something in the prompt's `own` settings or in a cell is wrong."""
        try:
            return read()
        except InputError as error:

            def locate_own(key: str) -> str:
                return self.file.locate("prompts", number, key)

            if not find_wrong_keys(_without_styles(own)[0], where, locate_own, self.assets, self.mistakes):
                self.mistakes.add(placed(error, self.file.locate("prompts", number)))
            return []

    def choose_id(self, number: int, prompt: dict[str, Any]) -> str:
        """The prompt's id as a file name. Raises BadNameError (E-NAME)."""
        if self.file.lines and (made := self.file.lines[number].id) is not None:
            return made
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
        return default if wanted is None else self.known_checkpoints(wanted, self.file.locate(*keys))

    def known_checkpoints(self, wanted: object, place: str) -> list[str]:
        """The checkpoints that are named. Raises ConfigError (E-CONFIG), with the place, for one that isn't configured."""
        names = [str(name) for name in wanted] if isinstance(wanted, list) else [str(wanted)]
        known = self.config.checkpoints
        if not names:
            why = f"names none ({place})"
            raise ConfigError("checkpoints", "[]", why, "leave checkpoints out for all of them")
        for name in names:
            if name not in known:
                hint = did_you_mean(name, known, f"known are {', '.join(known)}", most=1)
                why = f"is none that the configuration knows ({place})"
                raise ConfigError("checkpoint", name, why, hint)
        return list(dict.fromkeys(names))


def _without_styles(layer: Any) -> tuple[Any, dict[str, Any]]:
    """A layer without `styles`, which is no setting of a picture, and `styles` alone."""
    if not isinstance(layer, dict) or "styles" not in layer:
        return layer, {}
    return {key: value for key, value in layer.items() if key != "styles"}, {"styles": layer["styles"]}


def _count(slug: str, expansion: Expansion, cells: Sequence[Sequence[PlannedPicture]]) -> PromptCount:
    models, seeds = (len({getattr(p, of) for p in cells[0]}) if cells else 1 for of in ("checkpoint", "seed"))
    factors = {**expansion.factors, "checkpoints": models, "seeds": seeds}
    each = expansion.factors["draws"] * models * seeds
    return PromptCount(slug, factors, expansion.excluded * each, expansion.included * each, sum(map(len, cells)))


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
    for key in TEXTS:
        if key in entry:
            file.refuse_loss(*keys, key)
            if key == "prompt" or entry[key] is not None:
                file.refuse_no_text(entry[key], *keys, key)
    if entry.get("prompt") is None:
        raise SheetError("prompt", file.locate(*keys), "has no text", "write prompt: and the text")
    return entry
