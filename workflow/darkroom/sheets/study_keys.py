"""What a sheet says about its study: axes, wildcards, variables, draws, `exclude`, `include`, `grid` and `limit`, checked.

What is wrong is added to the mistakes of the sheet, each with its line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from darkroom.base.text import did_you_mean, read_text
from darkroom.base.validation import Mistakes
from darkroom.errors import BadNameError, SheetError
from darkroom.request.render_request import MAX_SEED, separate_schedule
from darkroom.sheets.axes import LORA_WEIGHT, Axis, Names, Value, label_of, read_axes
from darkroom.sheets.control_settings import CONTROL
from darkroom.sheets.settings import RIVALS, SETTING_KEYS, placed
from darkroom.sheets.study import DYNAMIC_PROMPTS, OTHER_DIMENSIONS, Assignment, Locate, Study
from darkroom.sheets.templates import NAME, Template, parse_dynamic_prompt, parse_template
from darkroom.sheets.then import THEN, is_part_key, is_stage_key, texts_of
from darkroom.sheets.wildcards import Entry, check_entries, read_entry

MAX_DRAWS = 10_000
STUDY_KEYS = ["axes", "draw", "exclude", "grid", "include", "limit", "template", "variables", "wildcards"]
AXIS_SETTINGS = [*SETTING_KEYS, "prompt", "checkpoints", "styles", CONTROL, THEN]
"""What an axis may set."""


def read_study(data: Mapping[str, Any], texts: Sequence[str], locate: Locate, mistakes: Mistakes) -> Study:
    """A sheet's study; `texts` are all texts that may hold `${name}`. What is wrong is added to `mistakes`."""
    template = None
    with mistakes.collect():
        template = _read_template(data.get("template"), locate)
    parse = parse_dynamic_prompt if template else parse_template
    wildcards = _read_wildcards(data.get("wildcards"), locate, mistakes)
    variables = read_variables(data.get("variables"), locate, mistakes, "variables")
    used: set[str] = set()
    for text in texts:
        with suppress(SheetError):  # told where the prompt is read
            used |= _names_in(parse(text, ""))
    for name, entries in wildcards.items():
        for entry in entries:
            with mistakes.collect():
                used |= _names_in(parse(entry.text, f"wildcard {name}"))
    axes = _read_axes(data.get("axes"), used, locate, mistakes)
    _check_names(axes, wildcards, variables, used, locate, mistakes)
    _check_own_variables(data["prompts"], used, locate, mistakes)
    draws, seed = 1, 0
    with mistakes.collect():
        draws, seed = _read_draw(data.get("draw"), wildcards, template, locate)
    return Study(
        axes=tuple(axes),
        wildcards=wildcards,
        variables=variables,
        draws=draws,
        seed=seed,
        exclude=tuple(_read_exclude(data.get("exclude"), axes, locate, mistakes)),
        include=tuple(_read_include(data.get("include"), axes, locate, mistakes)),
        limit=_read_number(data.get("limit"), "limit", locate, mistakes),
        grid=_read_grid(data.get("grid"), axes, locate, mistakes),
        template=template,
    )


def _names_in(template: Template) -> set[str]:
    return template.variables() | template.wildcards()


def _read_template(value: Any, locate: Locate) -> str | None:
    if value is None:
        return None
    if value == DYNAMIC_PROMPTS:
        return DYNAMIC_PROMPTS
    hint = f"write template: {DYNAMIC_PROMPTS}, or leave it out"
    raise SheetError("template", value, f"is no notation that is read ({locate('template')})", hint)


def read_variables(data: Any, locate: Locate, mistakes: Mistakes, *keys: str | int) -> dict[str, str]:
    """A mapping of variables to texts. What is wrong is added to `mistakes`."""
    found: dict[str, str] = {}
    with mistakes.collect():
        if data is not None and not isinstance(data, Mapping):
            raise SheetError("variables", locate(*keys), "is no mapping of names to texts", "write 'name: text' below")
        for name, value in (data or {}).items():
            place = locate(*keys, name)
            if not NAME.fullmatch(str(name)):
                why = f"can't be a variable's name ({place})"
                raise BadNameError("variable", name, why, "use letters, digits, '-' and '_', a letter first")
            if isinstance(value, list | Mapping | bool) or value is None:
                raise SheetError(f"variable {name}", value, f"is no text ({place})", "put it in quotes")
            found[str(name)] = value if isinstance(value, str) else label_of(value)
    return found


def _read_wildcards(data: Any, locate: Locate, mistakes: Mistakes) -> dict[str, tuple[Entry, ...]]:
    if data is None:
        return {}
    if isinstance(data, str):
        folder = Path(data)
        files = {
            path.relative_to(folder).with_suffix("").as_posix(): str(path) for path in sorted(folder.rglob("*.txt"))
        }
        if not files:
            mistakes.add(
                SheetError("wildcards", data, f"is no folder with text files ({locate('wildcards')})", "check the path")
            )
        data = files
    if not isinstance(data, Mapping):
        hint = "write 'name: FILE', or 'name: [a, b]', below it"
        mistakes.add(SheetError("wildcards", locate("wildcards"), "is no mapping of names to files or lists", hint))
        return {}
    found: dict[str, tuple[Entry, ...]] = {}
    for name, value in data.items():
        found[str(name)] = (Entry(""),)  # known, whatever is wrong in it
        place = locate("wildcards", name)
        try:
            found[str(name)] = _read_wildcard(str(name), value, place)
        except SheetError as error:
            mistakes.add(placed(error, place))
    return found


def _read_wildcard(name: str, value: Any, place: str) -> tuple[Entry, ...]:
    if isinstance(value, str):
        lines = read_text(Path(value), what="wildcard file", error=SheetError).split("\n")
        numbered = [(f"{value}:{number}", line) for number, line in enumerate(lines, 1)]
        read = [
            (read_entry(line, at), at) for at, line in numbered if line.strip() and not line.lstrip().startswith("#")
        ]
        return check_entries(read, value)
    if not isinstance(value, list):
        raise SheetError(f"wildcard {name}", value, f"is neither a file nor a list ({place})", "write [a, b] or a path")
    if wrong := [one for one in value if isinstance(one, list | Mapping | bool) or one is None]:
        raise SheetError(f"wildcard {name}", wrong[0], f"is no text ({place})", "put it in quotes")
    return check_entries([(read_entry(label_of(one), place), place) for one in value], place)


def _read_axes(data: Any, used: set[str], locate: Locate, mistakes: Mistakes) -> list[Axis]:
    if data is None:
        return []
    axes: list[Axis] = []
    for axis in read_axes(data, Names(AXIS_SETTINGS, used), lambda keys: locate(*keys)):
        if not isinstance(axis, Axis):
            mistakes.add(axis)
            continue
        for other in axes:
            if both := _shared(axis, other):
                why = f"is set by the axis {other.name} too ({axis.place})"
                hint = "put both into one axis, as 'label: {setting: value, …}'"
                mistakes.add(SheetError(f"axis {axis.name}: setting", both, why, hint))
            if axis.name.lower() == other.name.lower():
                why = f"is the same as {other.name} in a file's name ({axis.place})"
                mistakes.add(BadNameError("axis", axis.name, why, "rename one of the two"))
        axes.append(axis)
    return axes


def _shared(one: Axis, other: Axis) -> str | None:
    """A setting, variable or text that both set; a preset's settings don't count, since explicit ones win over them."""
    keys, others = _all_keys(one), _all_keys(other)
    both = keys & others
    for here, there in ((keys, others), (others, keys)):
        if "loras" in here:
            both |= {key for key in there if key.startswith(LORA_WEIGHT)}
        if THEN in here:
            both |= {key for key in there if is_part_key(key)}
    return min(both, default=None)


def _all_keys(axis: Axis) -> set[str]:
    """What an axis sets, with rival names and a schedule in a sampler's name."""
    keys = axis.keys()
    for value in axis.values:
        keys |= set(separate_schedule(dict(value.patch.settings)))
    for rivals in RIVALS:
        keys |= set(rivals) if keys & set(rivals) else set()
    return keys


def _check_names(
    axes: Sequence[Axis],
    wildcards: Mapping[str, Any],
    variables: Mapping[str, str],
    used: set[str],
    locate: Locate,
    mistakes: Mistakes,
) -> None:
    """Refuse names that are defined twice or that no prompt uses."""
    of_axes = {name for axis in axes for name in axis.variables}
    for name in wildcards:
        if name in of_axes or name in variables:
            why = f"is a variable too ({locate('wildcards', name)})"
            mistakes.add(SheetError("wildcard", name, why, "rename one of the two"))
        elif name not in used:
            mistakes.add(_unused("wildcard", name, used, locate("wildcards", name)))
    for name in variables:
        if name not in used:
            mistakes.add(_unused("variable", name, used, locate("variables", name)))


def _check_own_variables(prompts: Sequence[Any], used: set[str], locate: Locate, mistakes: Mistakes) -> None:
    """Refuse variables of prompts, or columns of a table, that no prompt uses; each is told once."""
    told = set(used)
    for number, prompt in enumerate(prompts):
        own = prompt.get("variables") if isinstance(prompt, Mapping) else None
        for name in own if isinstance(own, Mapping) else ():
            if name not in told:
                told.add(name)
                place = locate("prompts", number, "variables", name)
                mistakes.add(_unused("variable", str(name), used, place))


def _unused(what: str, name: str, used: set[str], place: str) -> SheetError:
    hint = did_you_mean(name, used, f"write ${{{name}}} into a prompt, or delete it")
    return SheetError(what, name, f"is used by no prompt ({place})", hint)


def _read_draw(data: Any, wildcards: Mapping[str, Any], template: str | None, locate: Locate) -> tuple[int, int]:
    """How many draws, and their seed."""
    if data is None:
        return 1, 0
    place = locate("draw")
    if not isinstance(data, Mapping) or not data.keys() <= {"count", "seed"}:
        raise SheetError("draw", label_of(data), f"isn't count and seed ({place})", "write {count: 3, seed: 7}")
    if not wildcards and template is None:
        raise SheetError("draw", label_of(data), f"has no wildcards to draw ({place})", "delete it")
    count, seed = data.get("count", 1), data.get("seed", 0)
    if type(count) is not int or not 1 <= count <= MAX_DRAWS:
        why = f"is no whole number from 1 to {MAX_DRAWS} ({locate('draw', 'count')})"
        raise SheetError("draw: count", count, why, "write count: 3")
    if type(seed) is not int or not 0 <= seed <= MAX_SEED:
        raise SheetError(
            "draw: seed", seed, f"is no whole number from 0 on ({locate('draw', 'seed')})", "write seed: 7"
        )
    return count, seed


def _read_number(value: Any, name: str, locate: Locate, mistakes: Mistakes) -> int | None:
    if value is None or (type(value) is int and value > 0):
        return value
    mistakes.add(SheetError(name, value, f"is no whole number from 1 on ({locate(name)})", f"write {name}: 2000"))
    return None


def _read_grid(data: Any, axes: Sequence[Axis], locate: Locate, mistakes: Mistakes) -> dict[str, str]:
    """What runs along the rows and the columns of the study's table, each an axis or one of OTHER_DIMENSIONS."""
    if data is None:
        return {}
    place = locate("grid")
    if not isinstance(data, Mapping) or not data or not data.keys() <= {"rows", "columns"}:
        mistakes.add(
            SheetError("grid", label_of(data), f"isn't rows and columns ({place})", "write {rows: AXIS, columns: AXIS}")
        )
        return {}
    names = [*(axis.name for axis in axes), *OTHER_DIMENSIONS]
    found: dict[str, str] = {}
    for key, name in data.items():
        with mistakes.collect():
            if name not in names:
                hint = did_you_mean(str(name), names, f"known are {', '.join(names)}")
                raise SheetError(f"grid: {key}", name, f"is no axis of this sheet ({locate('grid', key)})", hint)
            if name in found.values():
                hint = "write two different ones, or leave one out"
                raise SheetError("grid", name, f"is given for rows and columns ({place})", hint)
            found[key] = name
    return found


def _entries(data: Any, name: str, locate: Locate, mistakes: Mistakes) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if data is None:
        return
    if not isinstance(data, list) or not all(isinstance(one, Mapping) and one for one in data):
        hint = f"write {name}: [{{axis: value}}]"
        mistakes.add(SheetError(name, locate(name), "is no list of mappings of axes to values", hint))
        return
    yield from enumerate(data)


def _axis_named(axes: Sequence[Axis], name: object, place: str) -> Axis:
    for axis in axes:
        if axis.name == name:
            return axis
    known = [axis.name for axis in axes]
    hint = did_you_mean(name, known, f"known are {', '.join(known)}" if known else "write it under axes")
    raise SheetError("axis", name, f"is none of this sheet ({place})", hint)


def _read_exclude(
    data: Any, axes: Sequence[Axis], locate: Locate, mistakes: Mistakes
) -> Iterator[dict[str, frozenset[str]]]:
    for number, entry in _entries(data, "exclude", locate, mistakes):
        with mistakes.collect():
            wanted: dict[str, frozenset[str]] = {}
            for name, value in entry.items():
                place = locate("exclude", number, name)
                values = value if isinstance(value, list) else [value]
                if name == "id":
                    wanted["id"] = frozenset(map(label_of, values))
                    continue
                axis = _axis_named(axes, name, place)
                wanted[axis.name] = frozenset(_find_value(axis, one, place).label for one in values)
            yield wanted


def _find_value(axis: Axis, wanted: object, place: str) -> Value:
    value = axis.find(wanted)
    if value is None:
        known = [value.label for value in axis.values]
        hint = did_you_mean(label_of(wanted), known, f"known are {', '.join(known[:20])}")
        raise SheetError(f"axis {axis.name}: value", label_of(wanted), f"is none of its values ({place})", hint)
    return value


def _read_include(data: Any, axes: Sequence[Axis], locate: Locate, mistakes: Mistakes) -> Iterator[Assignment]:
    for number, entry in _entries(data, "include", locate, mistakes):
        with mistakes.collect():
            found: list[tuple[Axis, Value]] = []
            for name, wanted in entry.items():
                place = locate("include", number, name)
                axis = _axis_named(axes, name, place)
                found.append((axis, axis.find(wanted) or axis.further(wanted, place)))
            for axis in axes:
                if axis.variables and axis.name not in entry:
                    hint = f"write {axis.name}: {axis.values[0].label}"
                    why = f"is missing ({locate('include', number)})"
                    raise SheetError("include: axis", axis.name, why, hint)
            yield tuple(found)


def texts_of_axes(axes: object) -> list[str]:
    """The texts of stages in the axes' values."""
    values = [each for axis in axes.values() for each in _values_of(axis)] if isinstance(axes, dict) else []
    found = [text for value in values for text in texts_of(value)]
    patches = [value for value in values if isinstance(value, dict)]
    found += [text for patch in patches for key, text in patch.items() if is_stage_key(key) and isinstance(text, str)]
    return found


def _values_of(axis: object) -> list[Any]:
    return list(axis.values()) if isinstance(axis, dict) else axis if isinstance(axis, list) else []
