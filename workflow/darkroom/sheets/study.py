"""Studies: a sheet's axes, wildcards, variables and draws, and the cells that a prompt becomes.

A cell is a prompt patched by one value of each axis, once for each draw. Its name is made of the prompt's id and the
labels, never of positions: a further value, or a further axis that begins with `~`, leaves the names of all other cells.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

from darkroom.base.text import did_you_mean
from darkroom.base.validation import Mistakes
from darkroom.errors import SheetError
from darkroom.request.lora_tags import read_short_forms, take_out_loras
from darkroom.sheets.axes import LORA_WEIGHT, Axis, Value
from darkroom.sheets.control_settings import apply_control_patches
from darkroom.sheets.templates import Filling, Template, parse_dynamic_prompt, parse_template
from darkroom.sheets.then import (
    STAGE_TEXTS,
    THEN,
    apply_patches,
    find_stage,
    is_stage_key,
    map_texts,
    setting_of,
    texts_of,
)
from darkroom.sheets.wildcards import Draw, Entry

TEXTS = ("prompt", "negative_prompt", "prompt_2", "negative_prompt_2")
"""The settings that are templates."""
MAX_STEM = 180  # with a seed of 19 digits, a suffix and a temporary name's prefix below the 255 bytes of file systems
MAX_CELLS = 1_000_000
DYNAMIC_PROMPTS = "dynamic-prompts"
OTHER_DIMENSIONS = ("prompts", "checkpoints", "draw", "seeds")
"""What multiplies pictures besides axes, by the names that `grid` and the study's table use."""

Locate = Callable[..., str]
"""`FILE:LINE` of the value that the keys lead to."""
Pair = tuple[Axis, Value]
Assignment = tuple[Pair, ...]


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a prompt: its name in the pictures' names, what patches the prompt, and how its texts are filled."""

    stem: str
    assignment: Assignment
    draw: int | None
    settings: Mapping[str, Any]
    fill: Callable[[Mapping[str, Any]], dict[str, Any]] = field(repr=False)
    later: tuple[Pair, ...] = ()
    """Those of the assignment that change stages only, so that they aren't in the stem; `draws_later` is about the draw."""
    draws_later: bool = False

    def labels(self, stages: Sequence[str], count: int) -> dict[str, str]:
        """The labels that decide a picture of the first `count` of these stages, by the axes' names in alphabetical order."""
        found = [pair for pair in self.assignment if pair[1].slug and self._enters(pair, stages) <= count]
        return {axis.name: value.label for axis, value in sorted(found, key=_name)}

    def labels_at(self, stages: Sequence[str], place: int) -> list[str]:
        """The labels in a file's name, `AXIS-LABEL`, that stand before the stage of this number, from 1 on."""
        found = [
            (pair[0].in_file, pair[1].slug)
            for pair in self.later
            if pair[1].slug and self._enters(pair, stages) == place
        ]
        found += [("draw", str(self.draw + 1))] if self.draws_later and self.draw and place == 1 else []
        return [f"{name}-{label}" for name, label in sorted(found)]

    def _enters(self, pair: Pair, stages: Sequence[str]) -> int:
        """The first stage, from 1 on, that a value changes; 0 for the first pass."""
        if not any(pair is each for each in self.later):
            return 0
        keys = [key for key in pair[1].patch.settings if is_stage_key(key)]
        is_of_some = len(keys) == len(pair[1].patch.settings) and keys and not pair[1].patch.variables
        return min(find_stage(key, stages, self.stem) + 1 for key in keys) if is_of_some else 1

    def facts(self, prompt_id: str, prompt: str, template: str, stages: Sequence[str], count: int) -> dict[str, Any]:
        """What the manifest and a picture of `count` stages say of the cell, as JSON-ready data.

        The template stands there if it isn't the prompt.
        """
        facts: dict[str, Any] = {"prompt": prompt_id, "axes": self.labels(stages, count)}
        if self.draw is not None:
            facts["draw"] = 1 if self.draws_later and not count else self.draw + 1
        return facts if template == prompt else {**facts, "template": template}


@dataclass(frozen=True, slots=True)
class Expansion:
    """The cells that a prompt becomes, the number of values of each axis and of draws, and cells left out or added."""

    cells: Sequence[Cell]
    factors: Mapping[str, int]
    excluded: int
    included: int


@dataclass(frozen=True)
class Study:
    """What a sheet says about cells, read and checked."""

    axes: tuple[Axis, ...] = ()
    wildcards: Mapping[str, tuple[Entry, ...]] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    draws: int = 1
    seed: int = 0
    exclude: tuple[Mapping[str, frozenset[str]], ...] = ()
    include: tuple[Assignment, ...] = ()
    limit: int | None = None
    grid: Mapping[str, str] = field(default_factory=dict)
    template: str | None = None
    excluded: set[int] = field(default_factory=set)
    """The numbers of the `exclude` entries that have matched a cell."""

    @cached_property
    def parse(self) -> Callable[[str, str], Template]:
        return parse_dynamic_prompt if self.template == DYNAMIC_PROMPTS else parse_template

    @cached_property
    def _in_path(self) -> frozenset[str]:
        """The axes of checkpoints or seeds alone, which are in a picture's path in any case."""
        alone = ({"checkpoints"}, {"seed", "seeds"})
        return frozenset(axis.name for axis in self.axes if any(axis.keys() <= keys for keys in alone))

    @property
    def is_plain(self) -> bool:
        """True for a sheet without anything of a study."""
        return not (self.axes or self.wildcards or self.variables or self.template or self.include or self.grid)

    def table(self) -> dict[str, Any]:
        """How the study's table is laid out, as JSON-ready data: `axes` with their labels in the sheet's order, and `grid`.

        `plain` is the label of an axis' value that changes nothing (`~`), which no picture's facts name. `setting` is the setting
        that an axis changes, `height,width` for both, `{swap: TEXT}` for a text of the prompts; None for anything else.
        """
        axes = [
            {
                "name": axis.name,
                "labels": [value.label for value in axis.values],
                "plain": next((value.label for value in axis.values if not value.slug or _has_no_stages(value)), None),
                "setting": axis.setting,
            }
            for axis in self.axes
        ]
        return {"axes": axes, "grid": dict(self.grid)}

    def expand(
        self,
        slug: str,
        own: Mapping[str, Any],
        variables: Mapping[str, str],
        where: str,
        *,
        in_stem: bool = True,
    ) -> Expansion:
        """The cells of a prompt with this id and these settings, all layers merged, and `variables` of its own.

        Without `in_stem` the stems have no labels: every value counts as one of stages.
        Raises SheetError (E-SHEET) for a variable that nothing defines and for a text to swap that isn't there.
        """
        first = [self.parse(str(own[key]), f"{where}: {key}") for key in TEXTS if own.get(key)]
        later = [self.parse(text, f"{where}: then") for text in texts_of(own.get(THEN))]
        in_first = self._used([*first, *self._templates_of_axes(TEXTS)])
        used = in_first | self._used([*later, *self._templates_of_axes(())])
        constant = {**self.variables, **variables}
        self._check_variables(used, constant, where)
        axes = [axis for axis in self.axes if not axis.is_only_variables() or axis.variables & used]
        draws_first = in_stem and self._is_drawn(first, in_first)
        draws = range(self.draws) if self._is_drawn([*first, *later], used) else (None,)
        _check_count(math.prod(len(axis.values) for axis in axes) * len(draws), where)
        product = list(self._product(axes))
        kept = [assignment for assignment in product if not self._is_excluded(assignment, slug)]
        names = {axis.name for axis in axes}
        more = [tuple(pair for pair in assignment if pair[0].name in names) for assignment in self.include]
        later_axes = {axis.name for axis in axes if not axis.variables & in_first}

        def is_later(pair: Pair) -> bool:
            return not in_stem or (pair[0].name in later_axes and pair[1].patch.is_of_stages)

        cells = [
            self._cell(slug, each, number, constant, where, is_later, draws_first=draws_first)
            for each in [*kept, *more]
            for number in draws
        ]
        factors = {**{axis.name: len(axis.values) for axis in axes}, "draws": len(draws)}
        return Expansion(cells, factors, excluded=len(product) - len(kept), included=len(more))

    def _is_drawn(self, templates: Sequence[Template], used: set[str]) -> bool:
        """True for templates that use a wildcard, or that draws differ in by themselves."""
        return any(template.is_drawn for template in templates) or bool(used & set(self.wildcards))

    def without(self, is_wrong: Callable[[Value], bool]) -> Study:
        """The study without the values that are wrong, and without axes that have no others."""
        axes = [replace(axis, values=tuple(v for v in axis.values if not is_wrong(v))) for axis in self.axes]
        include = [assignment for assignment in self.include if not any(is_wrong(value) for _, value in assignment)]
        return replace(self, axes=tuple(axis for axis in axes if axis.values), include=tuple(include))

    def check(self, count: int, locate: Locate, mistakes: Mistakes) -> None:
        """Add to `mistakes` what only all cells show: an `exclude` that matches none, and more pictures than `limit`."""
        for number in range(len(self.exclude)):
            if number not in self.excluded:
                place = locate("exclude", number)
                mistakes.add(SheetError("exclude", place, "matches no cell", "correct its values, or delete it"))
        if self.limit is not None and count > self.limit:
            why = f"is passed by the {count:,} pictures that the sheet asks for ({locate('limit')})"
            mistakes.add(SheetError("limit", self.limit, why, "leave values out, or raise limit"))

    def _templates_of_axes(self, keys: Sequence[str]) -> list[Template]:
        """The templates in the axes' values: of the settings `keys` and texts that are swapped in, else those of stages."""
        found = []
        for value in (value for axis in self.axes for value in axis.values):
            settings, swap = value.patch.settings, value.patch.swap
            texts = [settings.get(key) for key in keys] + ([swap[1]] if swap and keys else [])
            if not keys:
                texts += texts_of(settings.get(THEN))
                texts += [
                    text for key, text in settings.items() if is_stage_key(key) and setting_of(key) in STAGE_TEXTS
                ]
            found += [self.parse(str(text), value.place) for text in filter(None, texts)]
        return found

    def _used(self, templates: Sequence[Template]) -> set[str]:
        """The variables in the templates, and in the entries of the wildcards that these use."""
        open_names = {name for template in templates for name in template.variables() | template.wildcards()}
        found: set[str] = set()
        while open_names:
            name = open_names.pop()
            found.add(name)
            for entry in self.wildcards.get(name, ()):
                template = self.parse(entry.text, f"wildcard {name}")
                open_names |= (template.variables() | template.wildcards()) - found
        return found

    def _check_variables(self, used: set[str], constant: Mapping[str, str], where: str) -> None:
        known = {*constant, *self.wildcards, *(name for axis in self.axes for name in axis.variables)}
        for name in sorted(used - known):
            hint = did_you_mean(
                name, known, "define it under axes, wildcards or variables, or write $${ for a plain ${"
            )
            raise SheetError(f"{where}: variable", name, "is defined nowhere", hint)

    def _product(self, axes: Sequence[Axis]) -> Iterator[Assignment]:
        for values in itertools.product(*(axis.values for axis in axes)):
            yield tuple(zip(axes, values, strict=True))

    def _is_excluded(self, assignment: Assignment, slug: str) -> bool:
        labels = {"id": slug, **{axis.name: value.label for axis, value in assignment}}
        for number, wanted in enumerate(self.exclude):
            if all(labels.get(name) in values for name, values in wanted.items()):
                self.excluded.add(number)
                return True
        return False

    def _cell(
        self,
        slug: str,
        assignment: Assignment,
        number: int | None,
        constant: Mapping[str, str],
        where: str,
        is_later: Callable[[Pair], bool],
        *,
        draws_first: bool,
    ) -> Cell:
        settings: dict[str, Any] = {}
        variables = dict(constant)
        for _, value in assignment:
            settings.update(value.patch.settings)
            variables.update(value.patch.variables)
        filling = Filling(variables, self.wildcards, Draw(self.seed, number or 0), self.parse)
        swaps = [value.patch.swap for _, value in assignment if value.patch.swap]

        def fill(merged: Mapping[str, Any]) -> dict[str, Any]:
            return self._fill(merged, swaps, filling, where)

        first = tuple(pair for pair in assignment if not is_later(pair))
        later = tuple(pair for pair in assignment if is_later(pair))
        stem = self._stem(slug, first, number if draws_first else None)
        return Cell(stem, assignment, number, settings, fill, later, draws_later=not draws_first)

    def _fill(
        self, merged: Mapping[str, Any], swaps: Sequence[tuple[str, str]], filling: Filling, where: str
    ) -> dict[str, Any]:
        """The settings with their texts filled and swapped, one LoRA's weights among the others, and `then` patched."""
        merged = apply_control_patches(apply_patches(merged, where), where)
        texts = {key: str(merged[key]) for key in TEXTS if merged.get(key)}
        stages = merged.get(THEN) or []
        for old, new in swaps:
            if not any(old in text for text in (*texts.values(), *texts_of(stages))):
                raise SheetError(f"{where}: swap", old, "isn't in the prompt", "write it as the prompt does")
            texts = {key: text.replace(old, new) for key, text in texts.items()}
            stages = map_texts(stages, partial(_swap, old, new))

        def fill(text: str) -> str:
            return filling.fill(self.parse(text, where))

        filled: dict[str, Any] = {key: fill(text) for key, text in texts.items()}
        filled |= {THEN: map_texts(stages, fill)} if stages else {}
        return merge_lora_weights({**merged, **filled}, where)

    def _stem(self, slug: str, assignment: Assignment, number: int | None) -> str:
        """The id and the labels: `sailor.age-old.look-crisp`; too long a one ends in a hash of all of it."""
        in_path = self._in_path
        named = [(axis.in_file, value.slug) for axis, value in assignment if value.slug and axis.name not in in_path]
        if number:
            named.append(("draw", str(number + 1)))
        stem = ".".join([slug, *(f"{name}-{label}" for name, label in sorted(named))])
        if len(stem) <= MAX_STEM:
            return stem
        whole = json.dumps([slug, sorted((axis.name, value.label) for axis, value in assignment if value.slug), number])
        return f"{stem[: MAX_STEM - 11].rstrip('.')}.{hashlib.sha256(whole.encode()).hexdigest()[:10]}"


def _check_count(cells: int, where: str) -> None:
    if cells > MAX_CELLS:
        why = f"has {cells:,} cells; at most {MAX_CELLS:,} can be planned, before any are excluded"
        raise SheetError("prompt", where, why, "leave values out, or split the sheet")


def merge_lora_weights(settings: dict[str, Any], where: str) -> dict[str, Any]:
    """The settings with each `loras.NAME` in `loras`, in place of the LoRA's weights there.

    Raises SheetError (E-SHEET) for a LoRA that a tag of the prompt uses too: the weights would add up.
    """
    weights = {
        key.removeprefix(LORA_WEIGHT): settings.pop(key) for key in list(settings) if key.startswith(LORA_WEIGHT)
    }
    if not weights:
        return settings
    for text in (str(settings.get(key) or "") for key in TEXTS):
        for use in take_out_loras(text)[1]:
            if use.name in weights:
                why = "is in a tag of the prompt and in an axis, and their weights would add up"
                raise SheetError(f"{where}: LoRA", use.name, why, "take the tag out of the prompt")
    others = read_short_forms(settings.get("loras") or [])
    if not isinstance(others, list):  # validating the request will report it
        return settings
    kept = [use for use in others if (use["name"] if isinstance(use, Mapping) else use.name) not in weights]
    return {**settings, "loras": [*kept, *read_short_forms(weights)]}


def _name(pair: tuple[Axis, Value]) -> str:
    return pair[0].name


def _swap(old: str, new: str, text: str) -> str:
    return text.replace(old, new)


def _has_no_stages(value: Value) -> bool:
    return dict(value.patch.settings) == {THEN: []} and not value.patch.variables and not value.patch.swap
