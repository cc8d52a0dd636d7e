"""`then`: the stages that a sheet applies to its pictures, as a list of `{NAME: {setting: value}}`.

    then:
      - hires: {scale: 2, denoising_strength: 0.4}
      - upscale: {upscaler: Lanczos}

Axes change single settings under the key `then.NAME.SETTING`, or `then.2-NAME.SETTING` where a stage is there twice. A picture
that a stage needs, such as a mask, is a path here and the SHA256 of its bytes in the request.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from darkroom.base.text import did_you_mean, shorten
from darkroom.base.validation import Mistakes, Problem, all_problems
from darkroom.config_mistakes import unknown_key
from darkroom.errors import ConfigError, InputError, SheetError
from darkroom.pictures.inputs import InputPictures
from darkroom.request.stages import STAGES, Refine, Stage
from darkroom.sheets.control_settings import (
    CONTROL,
    build_controls,
    check_control_key,
    check_controls,
    is_control_key,
    read_file,
)

THEN = "then"
STAGE_TEXTS = ("prompt", "negative_prompt")
"""The settings of a stage that are templates."""
_FILES = ("mask",)
"""The settings of stages that are paths of pictures."""
_CHECKPOINT = "checkpoint"
_KEY = re.compile(r"then\.(?:(\d+)-)?([a-z][a-z0-9]*)\.(\w+)", re.ASCII)
_EXAMPLE = "write then: [{hires: {scale: 2}}]"
_ANY_SHA256 = "0" * 64

Locate = Callable[..., str]
"""`FILE:LINE` of the value that the keys below `then` lead to."""


@dataclass(frozen=True, slots=True)
class Known:
    """What stages may name: pictures, which `inputs` reads, and the checkpoints; some of these are `refiners`."""

    inputs: InputPictures
    checkpoints: Collection[str]
    refiners: Collection[str] = ()


def is_stage_key(name: object) -> bool:
    """True for `then.NAME.SETTING`, the name of an axis or a patched setting."""
    return isinstance(name, str) and _KEY.fullmatch(name) is not None


def is_part_key(name: object) -> bool:
    """True for a setting of one stage or of one control, as axes name it."""
    return is_stage_key(name) or is_control_key(name)


def setting_of(key: str) -> str:
    """The setting in `then.NAME.SETTING` or `control.SETTING`."""
    return key.rpartition(".")[2]


def check_then(given: Any, locate: Locate, known: Known, mistakes: Mistakes) -> list[dict[str, dict[str, Any]]]:
    """The stages of a `then` that can be; what is wrong in the others goes to `mistakes`, each with its line."""
    if not isinstance(given, list):
        mistakes.add(SheetError(THEN, shorten(given), f"is no list of stages ({locate()})", _EXAMPLE))
        return []
    return [stage for number, each in enumerate(given) if (stage := _check(number, each, locate, known, mistakes))]


def _check(
    number: int, given: Any, locate: Locate, known: Known, mistakes: Mistakes
) -> dict[str, dict[str, Any]] | None:
    before = len(mistakes.errors)
    pair = _read_pair(number, given, locate, mistakes)
    if pair is None:
        return None
    name, settings = pair

    def place(key: str = "") -> str:
        return locate(number, name, key) if key else locate(number, name)

    for _, error in _wrong_settings(name, settings, place, known):
        mistakes.add(error)
    return {name: settings} if len(mistakes.errors) == before else None


def _read_pair(number: int, given: Any, locate: Locate, mistakes: Mistakes) -> tuple[str, dict[str, Any]] | None:
    known = f"known are {', '.join(STAGES)}"
    if isinstance(given, str):
        given = {given: None}
    if not isinstance(given, Mapping) or len(given) != 1:
        why = f"is no stage: a name with its settings ({locate(number)})"
        mistakes.add(SheetError(THEN, shorten(given), why, f"{_EXAMPLE}; {known}"))
        return None
    ((name, settings),) = given.items()
    if name not in STAGES:
        hint = did_you_mean(str(name), STAGES, known)
        mistakes.add(SheetError("stage", name, f"there is none of that name ({locate(number)})", hint))
        return None
    if settings is not None and not isinstance(settings, Mapping):
        why = f"is no mapping of settings to values ({locate(number)})"
        mistakes.add(SheetError(f"stage {name}", shorten(settings), why, _EXAMPLE))
        return None
    return str(name), {str(key): value for key, value in (settings or {}).items() if value is not None}


def _wrong_settings(
    name: str, settings: Mapping[str, Any], place: Callable[..., str], known: Known
) -> Iterator[tuple[str, InputError]]:
    """Each setting that can't be, whatever the picture before it is, and the error about it."""
    files = {key: settings[key] for key in _FILES if key in settings and key in STAGES[name].model_fields}
    for key, path in files.items():
        try:
            read_file(path, f"stage {name}: {key}", place(key), known.inputs)
        except SheetError as error:
            yield key, error
    if CONTROL in settings and CONTROL in STAGES[name].model_fields:
        mistakes = Mistakes()
        check_controls(settings[CONTROL], lambda *_: place(CONTROL), known.inputs, mistakes)
        yield from ((CONTROL, error) for error in mistakes.errors if isinstance(error, InputError))
        settings = {key: value for key, value in settings.items() if key != CONTROL}
    checkpoint = settings.get(_CHECKPOINT) if _CHECKPOINT in STAGES[name].model_fields else None
    if isinstance(checkpoint, str) and checkpoint not in known.checkpoints:
        yield _CHECKPOINT, unknown_checkpoint(checkpoint, known.checkpoints, place(_CHECKPOINT))
    elif isinstance(checkpoint, str) and (checkpoint in known.refiners) != (name == Refine.name):
        yield _CHECKPOINT, wrong_checkpoint(checkpoint, known.refiners, place(_CHECKPOINT))
    try:
        STAGES[name].model_validate({**settings, **dict.fromkeys(files, _ANY_SHA256)})
    except ValidationError as error:
        for problem in all_problems(error, unknown_keys_first=True):
            yield problem.name, _describe(name, problem, place)


def _describe(name: str, problem: Problem, place: Callable[..., str]) -> InputError:
    key = problem.name
    if problem.is_unknown_key:
        return unknown_key(f"{THEN}.{name}.{key}", list(STAGES[name].model_fields), place(key))
    if problem.is_missing:
        return SheetError(f"stage {name}", key, f"is missing ({place()})", f"write {key}: and its value")
    what = f"stage {name}: {key}" if key else f"stage {name}"
    return SheetError(
        what, shorten(problem.value), f"{problem.reason} ({place(key)})", f"give {key or name} other values"
    )


def unknown_checkpoint(name: str, known: Collection[str], place: str) -> ConfigError:
    """The error for a checkpoint that isn't among the known ones, with the nearest of them as its hint."""
    hint = did_you_mean(name, known, f"known are {', '.join(known)}" if known else "name one that is converted", most=1)
    return ConfigError("checkpoint", name, f"is none that the configuration knows ({place})", hint)


def wrong_checkpoint(name: str, refiners: Collection[str], place: str) -> ConfigError:
    """The error for a refiner where a base model is needed, or the other way about."""
    if name in refiners:
        why = f"is SDXL's refiner, which only goes on with pictures of others ({place})"
        return ConfigError("checkpoint", name, why, f"write then: [{{refine: {{checkpoint: {name}}}}}]")
    hint = f"name one of {', '.join(refiners)}" if refiners else f"if it is one, set checkpoints.{name}.refiner: true"
    return ConfigError("checkpoint", name, f"is no refiner ({place})", hint)


def check_part_key(key: str, value: Any, place: str, known: Known, mistakes: Mistakes) -> None:
    """Add to `mistakes` what is wrong with an axis' value for `then.NAME.SETTING`, or for `control.SETTING`, whatever the prompt has."""
    if is_control_key(key):
        check_control_key(key, value, place, known.inputs, mistakes)
        return
    found = _KEY.fullmatch(key)
    assert found is not None
    _, name, setting = found.groups()
    if name not in STAGES:
        hint = did_you_mean(name, STAGES, f"known are {', '.join(STAGES)}")
        mistakes.add(SheetError("stage", name, f"there is none of that name ({place})", hint))
        return
    # What it lacks, or what contradicts it, may stand in the sheet's `then`.
    wrong = _wrong_settings(name, {setting: value}, lambda *_: place, known)
    mistakes.add(*(error for of, error in wrong if of == setting))


def apply_patches(settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The settings with each `then.NAME.SETTING` in `then`, and without these keys.

    Raises SheetError (E-SHEET) for a stage that isn't in `then`, or is there twice.
    """
    patches = {key: value for key, value in settings.items() if is_stage_key(key)}
    plain = {key: value for key, value in settings.items() if key not in patches}
    if not patches:
        return plain
    stages = [dict(each) for each in plain.get(THEN) or []]
    done: set[tuple[int, str]] = set()
    for key, value in patches.items():
        place = find_stage(key, names_of(stages), where)
        setting = setting_of(key)
        if (place, setting) in done:
            raise SheetError(f"{where}: axes", key, "is set by two axes", "leave one of them out")
        done.add((place, setting))
        ((name, given),) = stages[place].items()
        stages[place] = {name: {**given, setting: value}}
    return {**plain, THEN: stages}


def names_of(stages: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of the stages in a `then`."""
    return [next(iter(each)) for each in stages]


def find_stage(key: str, names: Sequence[str], where: str) -> int:
    """The number, from 0 on, of the stage that `then.NAME.SETTING` is about. Raises SheetError (E-SHEET)."""
    found = _KEY.fullmatch(key)
    assert found is not None
    number, name, _ = found.groups()
    places = [place for place, each in enumerate(names) if each == name and number in (None, str(place + 1))]
    if len(places) == 1:
        return places[0]
    there = ", ".join(f"{place + 1}-{each}" for place, each in enumerate(names)) or "none"
    why = "is there twice" if places else "is none of its stages"
    wanted = f"{number}-{name}" if number else name
    raise SheetError(f"{where}: stage", wanted, f"{why}; they are {there} (axis {key})", f"write it as {there}")


def texts_of(stages: object) -> list[str]:
    """The templates in a `then`; none in anything else."""
    pairs = [each for each in stages if isinstance(each, Mapping)] if isinstance(stages, list) else []
    settings = [given for each in pairs for given in each.values() if isinstance(given, Mapping)]
    return [given[key] for given in settings for key in STAGE_TEXTS if isinstance(given.get(key), str)]


def map_texts(stages: Sequence[Mapping[str, Any]], change: Callable[[str], str]) -> list[dict[str, Any]]:
    """The stages with each template changed."""

    def changed(given: Mapping[str, Any]) -> dict[str, Any]:
        return {
            key: change(text) if key in STAGE_TEXTS and isinstance(text, str) else text for key, text in given.items()
        }

    return [{name: changed(given) for name, given in each.items()} for each in stages]


def build_stages(
    given: Sequence[Mapping[str, Any]], defaults: Mapping[str, Any], where: str, known: Known
) -> tuple[tuple[Stage, ...], tuple[dict[str, str], ...]]:
    """The stages as a request has them, and for each the paths of its pictures by their SHA256.

    `defaults` are settings for every stage that has them and leaves them out. Raises SheetError (E-SHEET).
    """
    stages, files = [], []
    for each in given:
        ((name, own),) = each.items()
        fields = STAGES[name].model_fields
        settings = {**{key: value for key, value in defaults.items() if key in fields}, **own}
        paths: dict[str, str] = {}
        for key in _FILES:
            if key in settings and key in fields:
                settings[key], path = read_file(settings[key], f"{where}: {name}: {key}", "then", known.inputs)
                paths[settings[key]] = path
        if CONTROL in settings and CONTROL in fields:
            settings[CONTROL], own_files = build_controls(settings[CONTROL], f"{where}: {name}", known.inputs)
            paths |= own_files
        try:
            stages.append(STAGES[name].model_validate(settings))
        except ValidationError as error:
            problem = all_problems(error)[0]
            what = f"{where}: {name}{problem.name and f': {problem.name}'}"
            raise SheetError(what, shorten(problem.value), problem.reason, "change the stage") from None
        files.append(paths)
    return tuple(stages), tuple(files)
