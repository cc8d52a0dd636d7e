"""Axes of a study: each a named, ordered list of labelled patches of settings or variables.

    age: [young, old]                                  a variable of the prompts
    cfg_scale: {from: 4, to: 8, step: 1}               a setting
    light: {noon: harsh midday sun, dusk: soft light}  label: value
    look: {plain: ~, crisp: {sampler: Heun, steps: 9}} label: settings and variables that belong together
    grain: {loras: {film-grain: [~, 0.5, 1.0]}}        one LoRA's weight
    quality: {steps: [10, 20]}                         a setting, under another name
    hair: {swap: {red hair: [~, blue hair]}}           a text of the prompts
    then.hires.denoising_strength: [0.3, 0.5]          a stage's setting
    finish: {then: {plain: [], big: [upscale]}}        whole lists of stages

`~` is the prompt as it is without the axis.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any

from darkroom.base.text import did_you_mean
from darkroom.errors import BadNameError, SheetError
from darkroom.sheets.then import THEN, is_part_key, is_stage_key, setting_of

Place = Callable[[Sequence[str | int]], str]
"""`FILE:LINE` of the keys that lead to a value."""

AXIS_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
RESERVED = ("draw", "id", "prompts")
"""Names that `include`, `exclude` and `grid` use for something else."""
MAX_SLUG = 40
MAX_VALUES = 1000
_RANGE = {"from", "to", "step", "count"}
LORA_WEIGHT = "loras."
"""The prefix of a patched setting that is one LoRA's weight: `loras.NAME`."""


@dataclass(frozen=True, slots=True)
class Patch:
    """What a value changes: settings by name, `loras.NAME` for one LoRA's weight; variables; and texts in the prompts."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    swap: tuple[str, str] | None = None

    @property
    def is_empty(self) -> bool:
        return not (self.settings or self.variables or self.swap)

    @property
    def is_of_stages(self) -> bool:
        """True if it changes no setting and no text of a first pass, whatever its variables do."""
        return not self.swap and all(key == THEN or is_stage_key(key) for key in self.settings)


@dataclass(frozen=True, slots=True)
class Value:
    """A value of an axis; its slug is its part of a file's name, empty for `~`."""

    label: str
    slug: str
    patch: Patch
    place: str


@dataclass(frozen=True, slots=True)
class Axis:
    """A named list of values; at least one."""

    name: str
    values: tuple[Value, ...]
    place: str
    patch_of: Callable[[Any], Patch] | None = field(default=None, compare=False, repr=False)
    """Makes a further value's patch, for an axis of one setting, variable or text."""

    @property
    def in_file(self) -> str:
        """Its name in the names of files."""
        return (setting_of(self.name) if is_part_key(self.name) else self.name).lower()

    def keys(self) -> set[str]:
        """What its values set: names of settings, `${name}` for variables, and the texts that are swapped."""
        found: set[str] = set()
        for value in self.values:
            found |= set(value.patch.settings) | {f"${{{name}}}" for name in value.patch.variables}
            if value.patch.swap:
                found.add(f"text '{value.patch.swap[0]}'")
        return found

    @property
    def setting(self) -> str | dict[str, str] | None:
        """The setting that it changes, `height,width` for both; `{"swap": TEXT}` for a text; None for anything else."""
        swaps = {value.patch.swap[0] for value in self.values if value.patch.swap}
        keys = self.keys()
        if len(keys) == len(swaps) == 1:
            return {"swap": min(swaps)}
        if any(not key[0].isalpha() or key.startswith(LORA_WEIGHT) for key in keys) or swaps:
            return None
        return ",".join(sorted(keys)) if len(keys) == 1 or keys == {"height", "width"} else None

    @property
    def variables(self) -> set[str]:
        return {name for value in self.values for name in value.patch.variables}

    def find(self, wanted: object) -> Value | None:
        """The value of this label, or whose label it would be; None is `~`."""
        label = label_of(wanted)
        for value in self.values:
            if value.label == label or (wanted is None and not value.slug):
                return value
        return None

    def further(self, wanted: Any, place: str) -> Value:
        """A value that isn't one of the axis'. Raises SheetError (E-SHEET) for an axis of labelled mappings."""
        if self.patch_of is None or isinstance(wanted, list | Mapping):
            known = [value.label for value in self.values]
            hint = did_you_mean(label_of(wanted), known, f"known are {', '.join(known[:20])}")
            raise SheetError(f"axis {self.name}: value", label_of(wanted), f"is none of its values ({place})", hint)
        label = label_of(wanted)
        return Value(label, slug_of(label), self.patch_of(wanted), place)

    def is_only_variables(self) -> bool:
        """True if a prompt that uses none of its variables stays the same whatever the value."""
        return bool(self.variables) and not any(value.patch.settings or value.patch.swap for value in self.values)


@dataclass(frozen=True, slots=True)
class Names:
    """What an axis may be about: the settings' names, and the variables that the sheet's prompts use."""

    settings: Collection[str]
    variables: Collection[str]

    def kind(self, name: str) -> str | None:
        if self.is_setting(name):
            return "setting"
        return "variable" if name in self.variables else None

    def is_setting(self, name: object) -> bool:
        """True for a setting of a picture, of one of its stages or of one of its controls."""
        return name in self.settings or is_part_key(name)


def read_axes(data: Any, names: Names, place: Place) -> Iterator[Axis | SheetError | BadNameError]:
    """A sheet's `axes`, each as an axis or as the first error in it: E-SHEET, or E-NAME for labels of the same file name."""
    if not isinstance(data, Mapping):
        yield SheetError(
            "axes", place(["axes"]), "is no mapping of names to values", "write 'axes:' and 'name: [a, b]' below"
        )
        return
    for name, values in data.items():
        try:
            yield _read_axis(str(name), values, names, place)
        except (SheetError, BadNameError) as error:
            yield error


def _read_axis(name: str, data: Any, names: Names, place: Place) -> Axis:
    keys: list[str | int] = ["axes", name]
    where = place(keys)
    if not (AXIS_NAME.fullmatch(name) or is_part_key(name)) or name.lower() in RESERVED:
        raise BadNameError("axis", name, f"can't be an axis' name ({where})", "use letters, digits, '-' and '_'")
    kind = names.kind(name)
    if kind is None and name != "swap" and isinstance(data, Mapping) and len(data) == 1:
        ((inner, values),) = data.items()
        if inner == "swap" or (
            names.is_setting(inner) and (_is_values(values) or (inner == THEN and _is_lists(values)))
        ):
            return _of_setting(name, str(inner), values, [*keys, str(inner)], place)
    if kind == "setting" or name == "swap":
        return _of_setting(name, name, data, keys, place)
    if kind == "variable":
        return _uniform(name, data, keys, place, lambda value: Patch(variables=_given(name, _text(value, where))))
    return _of_patches(name, data, keys, names, place)


def _is_values(values: Any) -> bool:
    return isinstance(values, list) or (isinstance(values, Mapping) and ("from" in values or _lists_weights(values)))


def _is_lists(values: Any) -> bool:
    """True for `{plain: [], big: [upscale]}`: labels, and whole lists of stages."""
    return isinstance(values, Mapping) and all(each is None or isinstance(each, list) for each in values.values())


def _lists_weights(values: Any) -> bool:
    """True for `{film-grain: [~, 0.5, 1.0]}`: one LoRA, and its weights."""
    if not isinstance(values, Mapping) or len(values) != 1:
        return False
    (only,) = values.values()
    return _is_range(only) or (isinstance(only, list) and not any(isinstance(one, str) for one in only))


def _of_setting(name: str, setting: str, data: Any, keys: list[str | int], place: Place) -> Axis:
    where = place(keys)
    if setting == "swap":
        if not isinstance(data, Mapping) or len(data) != 1:
            hint = "write 'name: {swap: {red hair: [~, blue hair]}}' for each text"
            raise SheetError(f"axis {name}", where, "doesn't name one text to swap and its values", hint)
        ((text, values),) = data.items()

        def swap(value: Any) -> Patch:
            return Patch(swap=None if value is None else (str(text), _text(value, where)))

        return _uniform(name, values, [*keys, str(text)], place, swap)
    if setting == "loras" and _lists_weights(data):
        ((lora, weights),) = data.items()
        key = f"{LORA_WEIGHT}{lora}"
        return _uniform(name, weights, [*keys, str(lora)], place, lambda value: Patch(_given(key, value)))

    def patch_of(value: Any) -> Patch:
        is_seed = setting == "seeds" and value is not None and not isinstance(value, list)
        return Patch(_given(setting, [value] if is_seed else value))

    return _uniform(name, data, keys, place, patch_of)


def _uniform(name: str, data: Any, keys: list[str | int], place: Place, patch_of: Callable[[Any], Patch]) -> Axis:
    """An axis of one setting, variable or text."""
    values = [(label, patch_of(value), where) for label, value, where in _pairs(name, data, keys, place, label_of)]
    return _axis(name, values, place(keys), patch_of)


def _of_patches(name: str, data: Any, keys: list[str | int], names: Names, place: Place) -> Axis:
    known = [*names.settings, *names.variables, "swap"]
    patches = data.values() if isinstance(data, Mapping) else data if isinstance(data, list) else []
    mappings = [patch for patch in patches if patch is not None]
    if not mappings or not all(isinstance(patch, Mapping) for patch in mappings):
        why = f"is neither a setting's name nor a variable that a prompt uses as ${{{name}}} ({place(keys)})"
        raise SheetError("axis", name, why, did_you_mean(name, known, "write 'label: {setting: value}' as its values"))
    found = []
    for label, patch, where in _pairs(name, data, keys, place, _label_of_patch):
        settings, variables, swap = {}, {}, None
        for key, value in (patch or {}).items():
            if value is None:
                continue
            if key in names.variables and not names.is_setting(key):
                variables[key] = _text(value, where)
            elif names.is_setting(key):
                settings[str(key)] = value
            elif key == "swap" and isinstance(value, Mapping) and len(value) == 1:
                ((text, other),) = value.items()
                swap = (str(text), _text(other, where))
            else:
                why = f"is neither a setting's name nor a variable of a prompt ({where})"
                raise SheetError(
                    f"axis {name}: key", key, why, did_you_mean(key, known, "see docs/reference/sheets.md")
                )
        found.append((label, Patch(settings, variables, swap), where))
    return _axis(name, found, place(keys))


def _pairs(
    name: str, data: Any, keys: list[str | int], place: Place, describe: Callable[[Any], str]
) -> list[tuple[str, Any, str]]:
    """Labels, values and places of a list, a mapping of labels or a range. `~` has the value None."""
    where = place(keys)
    if _is_range(data):
        return [(str(number), number, where) for number in read_range(data, f"axis {name} ({where})")]
    if isinstance(data, Mapping) and data:
        return [(str(label), value, place([*keys, str(label)])) for label, value in data.items()]
    if isinstance(data, list) and data:
        return [(describe(value), value, place([*keys, number])) for number, value in enumerate(data)]
    raise SheetError(
        f"axis {name}", data, f"has no values ({where})", "write a list, 'label: value', or {from: 1, to: 3, step: 1}"
    )


def _axis(
    name: str, values: list[tuple[str, Patch, str]], where: str, patch_of: Callable[[Any], Patch] | None = None
) -> Axis:
    """Raises BadNameError (E-NAME) for two labels that are one file name, on any file system."""
    if len(values) > MAX_VALUES:
        raise SheetError(f"axis {name}", len(values), f"has more than {MAX_VALUES} values ({where})", "leave some out")
    read, taken = [], dict[str, str]()
    for label, patch, place in values:
        slug = "" if patch.is_empty else slug_of(label)
        if slug in taken:
            what = f"the same as '{taken[slug]}' in a file's name" if slug else f"no value, as '{taken[slug]}' is"
            hint = "give one of the two another label" if slug else "leave one of the two out"
            raise BadNameError(f"axis {name}: label", label, f"is {what} ({place})", hint)
        taken[slug] = label
        read.append(Value(label, slug, patch, place))
    return Axis(name, tuple(read), where, patch_of)


def _given(name: str, value: Any) -> dict[str, Any]:
    return {} if value is None else {name: value}


def _text(value: Any, where: str) -> Any:
    """A variable's value as text; None is `~`."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return label_of(value)
    raise SheetError("value", value, f"is no text ({where})", "put it in quotes")


def label_of(value: Any) -> str:
    """How a value is shown: numbers without trailing zeros, lists and mappings in a row."""
    if value is None:
        return "~"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float | Decimal):
        number = Decimal(str(value)).normalize()
        return f"{number:f}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {label_of(one)}" for key, one in value.items())
    if isinstance(value, list):
        return ", ".join(map(label_of, value))
    return str(value)


def _label_of_patch(patch: Any) -> str:
    """A patch without a label is shown by its values alone."""
    return ", ".join(map(label_of, patch.values())) if isinstance(patch, Mapping) else label_of(patch)


def slug_of(label: str) -> str:
    """The label in a file's name: lower-case ASCII letters, digits, `_`, `.` and `-`.

    A label of which nothing would be left, or too long a one, is or ends in 8 hex digits of its SHA256.
    """
    slug = re.sub(r"[^a-z0-9_.+-]+", "-", label.casefold()).strip("-.") if label.isascii() else ""
    slug = re.sub(r"\.{2,}", ".", slug.replace("++", "pp").replace("+", "plus"))
    if label.startswith("-") and slug:
        slug = f"-{slug}"
    if slug and len(slug) <= MAX_SLUG:
        return slug
    words = "-".join(re.findall(r"[a-z0-9]+", label.casefold()))[: MAX_SLUG - 9].strip("-")
    digest = hashlib.sha256(label.encode()).hexdigest()[:8]
    return f"{words}-{digest}" if words else digest


def _is_range(data: Any) -> bool:
    return isinstance(data, Mapping) and "from" in data and set(data) <= _RANGE


def read_range(data: Mapping[str, Any], where: str) -> list[int | float]:
    """`{from, to, step}` or `{from, to, count}`: numbers with both ends, by decimal arithmetic.

    Raises SheetError (E-SHEET) if `to` isn't hit, and for what is no number.
    """
    numbers: dict[str, Decimal] = {}
    for key, value in data.items():
        try:
            numbers[key] = Decimal(str(value)) if not isinstance(value, bool) else Decimal("nan")
        except InvalidOperation:
            numbers[key] = Decimal("nan")
        if not numbers[key].is_finite():
            raise SheetError(f"{where}: {key}", value, "is no number", f"write a number, such as {key}: 1")
    if set(numbers) not in ({"from", "to", "step"}, {"from", "to", "count"}):
        raise SheetError(
            where, dict(data), "isn't from, to and either step or count", "write {from: 4, to: 8, step: 1}"
        )
    first, last = numbers["from"], numbers["to"]
    if "step" in numbers:
        return _by_step(first, last, numbers["step"], where)
    count = numbers["count"]
    if count != int(count) or not 2 <= count <= MAX_VALUES:
        raise SheetError(
            f"{where}: count", label_of(count), f"is no whole number from 2 to {MAX_VALUES}", "write count: 5"
        )
    step = (last - first) / (count - 1)
    if first + step * (count - 1) != last:
        raise SheetError(where, dict(data), "has no decimal step that ends at 'to'", "write the values as a list")
    return [_number(first + step * place) for place in range(int(count))]


def _by_step(first: Decimal, last: Decimal, step: Decimal, where: str) -> list[int | float]:
    if step == 0 or (last - first) / step < 0:
        raise SheetError(f"{where}: step", label_of(step), "leads away from 'to'", "change its sign, or 'to'")
    steps = (last - first) / step
    if steps > MAX_VALUES:
        raise SheetError(where, label_of(steps), f"has more than {MAX_VALUES} values", "take a larger step")
    if steps != int(steps):
        near = label_of(first + step * int(steps))
        why = f"isn't hit by steps of {label_of(step)} from {label_of(first)}"
        raise SheetError(
            f"{where}: to", label_of(last), why, f"write to: {near}, or to: {label_of(first + step * (int(steps) + 1))}"
        )
    return [_number(first + step * place) for place in range(int(steps) + 1)]


def _number(value: Decimal) -> int | float:
    return int(value) if value == int(value) else float(value)
