"""Reads one prompt sheet into its pictures: layers of settings, cells of studies, stages, and where chains begin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from darkroom.base.validation import Mistakes
from darkroom.config import Config
from darkroom.errors import BadNameError, ConfigError, InputError, SheetError
from darkroom.pictures.inputs import InputPictures
from darkroom.request.assets import AssetNames
from darkroom.sheets.axes import Value, label_of
from darkroom.sheets.beginnings import FROM, Beginning, SheetNamed, read_beginnings
from darkroom.sheets.chains import ChainFiles, Start, make_chain
from darkroom.sheets.continued import (
    check_chain,
    check_settings_of_stages,
    check_size,
    check_use,
    continued_requests,
    file_layer,
)
from darkroom.sheets.control_settings import CONTROL, build_controls, check_controls
from darkroom.sheets.names import derive_id, make_id
from darkroom.sheets.planned import PlannedPicture, PlannedSheet, PromptCount, prompt_id
from darkroom.sheets.settings import (
    SETTING_KEYS,
    check_keys,
    check_layer,
    find_wrong_keys,
    make_chains,
    overlay,
    placed,
)
from darkroom.sheets.sheet_file import SheetFile
from darkroom.sheets.study import TEXTS, Cell, Expansion, Study, merge_lora_weights
from darkroom.sheets.study_keys import STUDY_KEYS, read_study, read_variables, texts_of_axes
from darkroom.sheets.styles import Style, apply_styles, read_styles
from darkroom.sheets.then import (
    THEN,
    Known,
    build_stages,
    check_part_key,
    check_then,
    is_part_key,
    texts_of,
    unknown_checkpoint,
    wrong_checkpoint,
)

SHEET_KEYS = ["checkpoints", "defaults", FROM, "prompts", "styles_file", *STUDY_KEYS]
PROMPT_KEYS = ["id", "prompt", "checkpoints", CONTROL, FROM, "styles", THEN, "variables", *SETTING_KEYS]
_NO_SETTINGS = ("styles", CONTROL, THEN)
"""What a layer may have in addition to settings of a picture."""


@dataclass(frozen=True, slots=True)
class Context:
    """What the sheets of a configuration share; `settings` are those of `render`, and mistakes go to `mistakes`."""

    config: Config
    assets: AssetNames
    settings: Mapping[str, Any]
    inputs: InputPictures
    sheet_named: SheetNamed
    mistakes: Mistakes

    @property
    def known(self) -> Known:
        """What stages may name."""
        checkpoints = self.config.checkpoints
        return Known(self.inputs, checkpoints, [name for name, given in checkpoints.items() if given.refiner])


@dataclass(slots=True)
class SheetReader:
    """Reads the prompts of one sheet. `ids` holds the ids so far, by file name."""

    file: SheetFile
    name: str
    context: Context
    defaults: dict[str, Any] = field(default_factory=dict)
    study: Study = field(default_factory=Study)
    styles: dict[str, Style] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    files: ChainFiles = field(default_factory=ChainFiles)
    counts: list[PromptCount] = field(default_factory=list)

    @property
    def mistakes(self) -> Mistakes:
        return self.context.mistakes

    def read(self) -> PlannedSheet:
        """The pictures of the sheet."""
        data = self.file.data
        with self.mistakes.collect():
            check_keys(data, SHEET_KEYS, "", self.file.locate)
        self.defaults = self.read_defaults(data.get("defaults"))
        if (path := data.get("styles_file")) is not None:
            with self.mistakes.collect():
                self.styles = read_styles(Path(str(path)))
        checkpoints = [name for name, given in self.context.config.checkpoints.items() if not given.refiner]
        with self.mistakes.collect():
            checkpoints = self.choose_checkpoints(data.get("checkpoints"), checkpoints, "checkpoints")
        study = read_study(data, self.texts(), self.file.locate, self.mistakes)
        self.study = study.without(self.is_wrong)
        for number, entry in enumerate(data["prompts"]):
            with self.mistakes.collect():
                self.read_prompt(number, _as_prompt(self.file, number, entry), checkpoints)
        pictures = self.files.all()
        self.study.check(len(pictures), self.file.locate, self.mistakes)
        return PlannedSheet(pictures, self.counts, None if self.study.is_plain else self.study.table())

    def read_defaults(self, layer: object) -> dict[str, Any]:
        """The sheet's `defaults` without what is wrong in it."""

        def locate_default(key: str) -> str:
            return self.file.locate("defaults", key)

        plain, others = _apart(layer)
        where = f"{self.file.path}: defaults"
        plain = check_layer(plain, "defaults", where, locate_default, self.context.assets, self.mistakes)
        return {**plain, **self.check_stages(others, "defaults")}

    def check_stages(self, layer: Mapping[str, Any], *keys: str | int) -> dict[str, Any]:
        """The layer with the stages of its `then` and the controls that can be; what is wrong is told with its line."""
        found = {key: value for key, value in layer.items() if key not in (CONTROL, THEN)}
        if (given := layer.get(THEN)) is not None:
            found[THEN] = check_then(given, partial(self.file.locate, *keys, THEN), self.context.known, self.mistakes)
        if (given := layer.get(CONTROL)) is not None:
            locate = partial(self.file.locate, *keys, CONTROL)
            found[CONTROL] = check_controls(given, locate, self.context.inputs, self.mistakes)
        return found

    def texts(self) -> list[str]:
        """All texts of the sheet that may have places to fill."""
        entries = [entry if isinstance(entry, dict) else {"prompt": entry} for entry in self.file.data["prompts"]]
        layers = [self.context.settings, self.defaults, *entries]
        found = [layer[key] for layer in layers for key in TEXTS if isinstance(layer.get(key), str)]
        found += [text for layer in layers for text in texts_of(layer.get(THEN))]
        found += texts_of_axes(self.file.data.get("axes"))
        return [*found, *(text for style in self.styles.values() for text in (style.prompt, style.negative_prompt))]

    def is_wrong(self, value: Value) -> bool:
        """True for an axis' value whose settings can't be, whatever the prompt; told here once, not for each cell."""
        before = len(self.mistakes.errors)
        patch = {key: given for key, given in value.patch.settings.items() if not is_part_key(key)}
        known = self.context.known
        with self.mistakes.collect():
            if CONTROL in patch:
                check_controls(patch.pop(CONTROL), lambda *_: value.place, known.inputs, self.mistakes)
            if "checkpoints" in patch:
                self.known_checkpoints(patch.pop("checkpoints"), value.place)
            if THEN in patch:
                check_then(patch.pop(THEN), lambda *_: value.place, known, self.mistakes)
            for key in value.patch.settings.keys() - patch.keys():
                if is_part_key(key):
                    check_part_key(key, value.patch.settings[key], value.place, known, self.mistakes)
            where = f"axis value {value.label} ({value.place})"
            patch = apply_styles(patch, self.styles, where) if "styles" in patch else patch
            patch = merge_lora_weights(patch, where)
            find_wrong_keys(patch, where, lambda _: value.place, self.context.assets, self.mistakes)
        return len(self.mistakes.errors) > before

    def read_prompt(self, number: int, prompt: dict[str, Any], checkpoints: list[str]) -> None:
        """Read the pictures of a prompt: those of its cells. Raises an InputError for its id or its checkpoints."""
        where = f"{self.file.path}: prompt {number + 1}"
        chosen = self.choose_checkpoints(prompt.get("checkpoints"), checkpoints, "prompts", number, "checkpoints")
        keys = ("prompts", number, "variables")
        variables = read_variables(prompt.get("variables"), self.file.locate, self.mistakes, *keys)
        own = {key: value for key, value in prompt.items() if key not in ("id", "checkpoints", "variables", FROM)}
        own = self.check_stages(own, "prompts", number)
        given = prompt.get(FROM, self.file.data.get(FROM))
        if given is None:
            slug = self.choose_id(number, prompt)
            layers = (self.context.settings, self.defaults, own)
            prompts = [_Prompt(slug, slug, layers, f"{where} ({slug})", chosen, variables)]
        else:
            place = self.file.locate(*(("prompts", number, FROM) if FROM in prompt else (FROM,)))
            if isinstance(given, Mapping):
                check_settings_of_stages(overlay(self.defaults, own, where), place)
            else:
                check_size([self.defaults, own], place)
            prompts = []
            for beginning in self.beginnings(given, prompt.get("id"), number, place):
                with self.mistakes.collect():
                    prompts += self.prompt_of(beginning, own, chosen, variables, where, place)
            if not prompts and not self.mistakes.errors:
                why = f"names no picture of the checkpoints {', '.join(chosen)} ({place})"
                raise SheetError(FROM, label_of(given), why, "name its checkpoint under checkpoints")
        counted = [self.with_mistakes(number, own, each) for each in prompts]
        if not self.study.is_plain and any(counted):
            slug = prompts[0].id if given is None else str(prompt.get("id") or f"prompt {number + 1}")
            self.counts.append(_count(slug, [each for each in counted if each]))

    def beginnings(self, given: object, own_id: object, number: int, place: str) -> list[Beginning]:
        """The pictures that a prompt's `from` names. Raises SheetError (E-SHEET), or BadNameError (E-NAME)."""
        own = None if own_id is None else self.make_id(own_id, number)
        return read_beginnings(given, own, place, self.context.inputs, self.context.sheet_named)

    def prompt_of(
        self,
        beginning: Beginning,
        own: Mapping[str, Any],
        chosen: list[str],
        variables: Mapping[str, str],
        where: str,
        place: str,
    ) -> list[_Prompt]:
        """The prompt that begins with a picture, if it is of a chosen checkpoint.

        Raises BadNameError (E-NAME) for a second file of the same id.
        """
        where = f"{where} ({beginning.title})"
        if (picture := beginning.picture) is not None:
            models = [name for name in chosen if name == picture.checkpoint]
            layers: tuple[Mapping[str, Any], ...] = (self.defaults, own)
            prompt = _Prompt(picture.id, prompt_id(picture), layers, where, models, variables, beginning)
            return [prompt] if models else []
        self.take_id(beginning.id, beginning.title, beginning.title, place)
        said = file_layer(beginning, is_dynamic=bool(self.study.template))
        layers = (self.context.settings, said, self.defaults, own)
        return [_Prompt(beginning.id, beginning.id, layers, where, chosen, variables, beginning)]

    def with_mistakes(self, number: int, own: Mapping[str, Any], prompt: _Prompt) -> _Counted | None:
        """What came of a prompt; None if something in its `own` settings or in a cell is wrong."""
        try:
            return self.cells(prompt)
        except InputError as error:

            def locate_own(key: str) -> str:
                return self.file.locate("prompts", number, key)

            plain, assets = _apart(own)[0], self.context.assets
            if not find_wrong_keys(plain, prompt.where, locate_own, assets, self.mistakes):
                self.mistakes.add(placed(error, self.file.locate("prompts", number)))
            return None

    def cells(self, prompt: _Prompt) -> _Counted:
        """Read the pictures of a prompt's cells. Raises an InputError."""
        base: dict[str, Any] = {}
        for layer in prompt.layers:
            base = overlay(base, layer, prompt.where)
        whole = apply_styles(base, self.styles, prompt.where)
        in_stem = prompt.beginning is None or prompt.beginning.picture is None
        expansion = self.study.expand(prompt.id, whole, prompt.variables, prompt.where, in_stem=in_stem)
        return expansion, [self.pictures_of(cell, prompt, base) for cell in expansion.cells]

    def pictures_of(self, cell: Cell, prompt: _Prompt, base: Mapping[str, Any]) -> list[PlannedPicture]:
        """Read the chains of a cell, and return the picture at the end of each."""
        where, patch, chosen = prompt.where, dict(cell.settings), prompt.checkpoints
        if "checkpoints" in patch:
            named = self.known_checkpoints(patch.pop("checkpoints"), where)
            chosen = named if prompt.beginning is None else [name for name in chosen if name in named]
        patched = overlay(base, patch, where) if patch else base
        merged = cell.fill(apply_styles(patched, self.styles, where))
        texts = str(merged.get("prompt", "")), str(base.get("prompt", ""))

        def facts(stages: Sequence[str], count: int) -> dict[str, Any] | None:
            own = None if self.study.is_plain else cell.facts(prompt.prompt_id, *texts, stages, count)
            before = None if picture is None else picture.study
            return {**before, **own, "axes": {**before["axes"], **own["axes"]}} if before and own else own or before

        given = merged.pop(THEN, None) or []
        if prompt.beginning is not None:
            check_chain(given, merged, prompt.beginning)
        picture = None if prompt.beginning is None else prompt.beginning.picture
        assets, known = self.context.assets, self.context.known
        control_files: dict[str, str] = {}
        if picture is None:
            stages, files = build_stages(given, {}, where, known)
            controls, control_files = build_controls(merged.pop(CONTROL, None) or [], where, known.inputs)
            more = {name: made for name, made in (("stages", stages), (CONTROL, controls)) if made}
            chains = make_chains({**merged, **more}, assets, where)
        else:
            check_use(merged, given, where)
            stages, files = build_stages(given, merged, where, known)
            chains = [continued_requests(picture, stages, assets, where)]
        ends = []
        for checkpoint in chosen:
            for chain in chains:
                requests = [request.of_checkpoint(checkpoint) for request in chain]
                start = _start(cell.stem, requests[-1].seed, prompt.beginning, control_files)
                ends.append(self.files.add(make_chain(self.name, checkpoint, start, requests, files, cell, facts)))
        return ends

    def choose_id(self, number: int, prompt: dict[str, Any]) -> str:
        """The prompt's id as a file name. Raises BadNameError (E-NAME)."""
        if self.file.lines and (made := self.file.lines[number].id) is not None:
            return made
        given = prompt.get("id")
        slug = derive_id(prompt["prompt"]) if given is None else self.make_id(given, number)
        self.take_id(slug, str(given or slug), given or slug, self.file.locate("prompts", number, "id"))
        return slug

    def take_id(self, slug: str, title: str, value: object, place: str) -> None:
        """Keep others from having the same id. Raises BadNameError (E-NAME) if one has it already."""
        if slug in self.ids:
            why = f"is the same file name as '{self.ids[slug]}' ({place})"
            raise BadNameError("prompt id", value, why, "give one of the two prompts another id")
        self.ids[slug] = title

    def make_id(self, given: object, number: int) -> str:
        """The file name of a given id. Raises BadNameError (E-NAME)."""
        try:
            return make_id(given)
        except BadNameError as error:
            raise placed(error, self.file.locate("prompts", number, "id")) from None

    def choose_checkpoints(self, wanted: object, default: list[str], *keys: str | int) -> list[str]:
        """The checkpoints that are named at `keys`, or the default. Raises ConfigError (E-CONFIG)."""
        if wanted is None and not default:
            return self.known_checkpoints(list(self.context.config.checkpoints), str(self.file.path))
        return default if wanted is None else self.known_checkpoints(wanted, self.file.locate(*keys))

    def known_checkpoints(self, wanted: object, place: str) -> list[str]:
        """The checkpoints that are named. Raises ConfigError (E-CONFIG), with the place, for one that isn't configured."""
        names = [str(name) for name in wanted] if isinstance(wanted, list) else [str(wanted)]
        known = self.context.config.checkpoints
        if not names:
            why = f"names none ({place})"
            raise ConfigError("checkpoints", "[]", why, "leave checkpoints out for all of them")
        for name in names:
            if name not in known:
                raise unknown_checkpoint(name, known, place)
            if known[name].refiner:
                raise wrong_checkpoint(name, [name], place)
        return list(dict.fromkeys(names))


@dataclass(frozen=True, slots=True)
class _Prompt:
    """A prompt: its id in files' names, that of its study, the layers of its settings, and what it begins with."""

    id: str
    prompt_id: str
    layers: tuple[Mapping[str, Any], ...]
    where: str
    checkpoints: list[str]
    variables: Mapping[str, str]
    beginning: Beginning | None = None


_Counted = tuple[Expansion, list[list[PlannedPicture]]]
"""The cells of a prompt, and the pictures at the ends of each cell's chains."""


def _start(stem: str, seed: int, beginning: Beginning | None, files: Mapping[str, str]) -> Start:
    if beginning is None:
        return Start(stem, seed, files=files)
    if beginning.picture is None:
        return Start(stem, seed, files={**beginning.files, **files})
    return Start.of_picture(beginning.picture, beginning.id)


def _apart(layer: Any) -> tuple[Any, dict[str, Any]]:
    """A layer's settings of a picture, and what else it may have."""
    if not isinstance(layer, dict):
        return layer, {}
    others = {key: value for key, value in layer.items() if key in _NO_SETTINGS}
    return {key: value for key, value in layer.items() if key not in others}, others


def _count(slug: str, prompts: Sequence[_Counted]) -> PromptCount:
    """What came of a prompt, or of all pictures that it begins with."""
    expansion, cells = prompts[0]
    models, seeds = (len({getattr(p, of) for p in cells[0]}) if cells else 1 for of in ("checkpoint", "seed"))
    begun = {"pictures": len(prompts)} if len(prompts) > 1 else {}
    factors = {**begun, **expansion.factors, "checkpoints": models, "seeds": seeds}
    each = len(prompts) * expansion.factors["draws"] * models * seeds
    count = sum(len(pictures) for _, counted in prompts for pictures in counted)
    return PromptCount(slug, factors, expansion.excluded * each, expansion.included * each, count)


def _as_prompt(file: SheetFile, number: int, entry: object) -> dict[str, Any]:
    keys = ("prompts", number)
    if isinstance(entry, str) or entry is None:
        file.refuse_loss(*keys)
        if entry is None:
            file.refuse_no_text(entry, *keys)
            raise SheetError("prompt", file.locate(*keys), "is empty", "write a text, or delete the '-'")
        return {"prompt": entry}
    has_picture = FROM in file.data or (isinstance(entry, dict) and FROM in entry)
    if not isinstance(entry, dict) or not (has_picture or entry.keys() & set(PROMPT_KEYS)):
        file.refuse_no_text(entry, *keys)
    assert isinstance(entry, dict)
    check_keys(entry, PROMPT_KEYS, f"prompts.{number}", lambda key: file.locate(*keys, key))
    for key in TEXTS:
        if key in entry:
            file.refuse_loss(*keys, key)
            if (key == "prompt" and not has_picture) or entry[key] is not None:
                file.refuse_no_text(entry[key], *keys, key)
    if entry.get("prompt") is None and not has_picture:
        raise SheetError("prompt", file.locate(*keys), "has no text", "write prompt: and the text")
    return entry
