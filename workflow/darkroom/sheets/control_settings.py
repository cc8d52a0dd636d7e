"""`control`: the ControlNets that lead a sheet's pictures, as a list of mappings; of a stage in `then` too.

    control:
      - {model: union-promax, image: poses/run.png, type: openpose, weight: 0.8}

The picture is a path here and the SHA256 of its bytes in the request. Axes change single settings under the key
`control.SETTING`, or `control.2.SETTING` where there are several.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from darkroom.base.text import did_you_mean, shorten
from darkroom.base.validation import Mistakes, Problem, all_problems
from darkroom.config_mistakes import unknown_key
from darkroom.errors import ImageError, InputError, SheetError
from darkroom.pictures.inputs import InputPictures
from darkroom.request.control import MAX_CONTROLS, Control

CONTROL = "control"
_IMAGE = "image"
_KEY = re.compile(r"control\.(?:(\d+)\.)?([a-z][a-z_]*)", re.ASCII)
_EXAMPLE = "write control: [{model: NAME, image: picture.png}]"
_ANY_SHA256 = "0" * 64
_BESIDE: dict[str, dict[str, Any]] = {
    "low_threshold": {"preprocessor": "canny", "high_threshold": 1000},
    "high_threshold": {"preprocessor": "canny", "low_threshold": 0},
    "sigma": {"preprocessor": "blur"},
    "processor_res": {"preprocessor": "canny"},
}
"""What a control has to have for a setting to be one that can be."""

Locate = Callable[..., str]
"""`FILE:LINE` of the value that the keys below `control` lead to."""


def is_control_key(name: object) -> bool:
    """True for `control.SETTING`, the name of an axis or a patched setting."""
    return isinstance(name, str) and _KEY.fullmatch(name) is not None


def check_controls(given: Any, locate: Locate, inputs: InputPictures, mistakes: Mistakes) -> list[dict[str, Any]]:
    """The controls that can be; what is wrong in the others goes to `mistakes`, each with its line."""
    if not isinstance(given, list) or len(given) > MAX_CONTROLS:
        why = f"has more than {MAX_CONTROLS} controls" if isinstance(given, list) else "is no list of controls"
        mistakes.add(SheetError(CONTROL, shorten(given), f"{why} ({locate()})", _EXAMPLE))
        return []
    found = []
    for number, each in enumerate(given):
        before = len(mistakes.errors)
        if not isinstance(each, Mapping):
            why = f"is no mapping of settings to values ({locate(number)})"
            mistakes.add(SheetError(CONTROL, shorten(each), why, _EXAMPLE))
            continue
        own = {str(key): value for key, value in each.items() if value is not None}
        mistakes.add(*_wrong_settings(own, lambda *keys, number=number: locate(number, *keys), inputs))
        if len(mistakes.errors) == before:
            found.append(own)
    return found


def check_control_key(key: str, value: Any, place: str, inputs: InputPictures, mistakes: Mistakes) -> None:
    """Add to `mistakes` what is wrong with an axis' value for `control.SETTING`, whatever the controls are."""
    setting = key.rpartition(".")[2]
    # What it contradicts may stand in the sheet's `control`, and be changed by another axis.
    alone = {"model": "x", **_BESIDE.get(setting, {}), setting: value}
    mistakes.add(*_wrong_settings(alone, lambda *_: place, inputs))


def _wrong_settings(given: Mapping[str, Any], place: Locate, inputs: InputPictures) -> list[InputError]:
    wrong: list[InputError] = []
    if _IMAGE in given:
        try:
            read_file(given[_IMAGE], f"{CONTROL}: {_IMAGE}", place(_IMAGE), inputs)
        except SheetError as error:
            wrong.append(error)
    try:
        Control.model_validate({**given, **({_IMAGE: _ANY_SHA256} if _IMAGE in given else {})})
    except ValidationError as error:
        wrong += [_describe(problem, given, place) for problem in all_problems(error, unknown_keys_first=True)]
    return wrong


def _describe(problem: Problem, given: Mapping[str, Any], place: Locate) -> InputError:
    """What is wrong with a control; `given` are its settings as the sheet has them."""
    key = problem.name
    if problem.is_unknown_key:
        return unknown_key(f"{CONTROL}.{key}", list(Control.model_fields), place(key))
    if problem.is_missing:
        return SheetError(CONTROL, key, f"is missing ({place()})", f"write {key}: and its value")
    where = place(key) if key else place()
    what = f"{CONTROL}: {key}" if key else CONTROL
    return SheetError(
        what, _value_of(problem, given), f"{problem.reason} ({where})", f"give {key or 'it'} another value"
    )


def _value_of(problem: Problem, given: Mapping[str, Any]) -> str:
    """The value that is wrong, or all settings of the sheet that contradict one another, with paths of pictures."""
    if problem.name:
        return shorten(problem.value)
    return shorten(", ".join(f"{key}: {value}" for key, value in given.items() if key != "model"))


def read_file(path: object, what: str, place: str, inputs: InputPictures) -> tuple[str, str]:
    """SHA256 and path of a picture that a sheet names. Raises SheetError (E-SHEET) for one that can't be used."""
    if not isinstance(path, str) or not path.strip():
        raise SheetError(what, shorten(path), f"is no path of a picture ({place})", "write the file's path")
    try:
        return inputs.read(path).sha256, path
    except ImageError as error:
        raise SheetError(what, path, f"{error.why} ({place})", error.hint) from None


def apply_control_patches(settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The settings with each `control.SETTING` in `control`, and without these keys.

    Raises SheetError (E-SHEET) for a control that isn't there, or that it could be several of.
    """
    patches = {key: value for key, value in settings.items() if is_control_key(key)}
    plain = {key: value for key, value in settings.items() if key not in patches}
    if not patches:
        return plain
    controls = [dict(each) for each in plain.get(CONTROL) or []]
    for key, value in patches.items():
        found = _KEY.fullmatch(key)
        assert found is not None
        number, setting = found.groups()
        place = int(number) - 1 if number else 0
        if not number and len(controls) > 1:
            why = f"could be any of its {len(controls)} controls"
            raise SheetError(f"{where}: axis", key, why, f"write control.1.{setting}")
        if not 0 <= place < len(controls):
            why = f"is about control {place + 1}, and there are {len(controls)}"
            raise SheetError(f"{where}: axis", key, why, "correct the number, or add the control")
        controls[place][setting] = value
    return {**plain, CONTROL: controls}


def build_controls(given: Any, where: str, inputs: InputPictures) -> tuple[tuple[Control, ...], dict[str, str]]:
    """The controls as a request has them, and the paths of their pictures by their SHA256. Raises SheetError (E-SHEET)."""
    controls, files = [], dict[str, str]()
    for number, each in enumerate(given, 1):
        settings = dict(each)
        if _IMAGE in settings:
            what = f"{where}: {CONTROL}: {_IMAGE}"
            settings[_IMAGE], path = read_file(settings[_IMAGE], what, f"control {number}", inputs)
            files[settings[_IMAGE]] = path
        try:
            controls.append(Control.model_validate(settings))
        except ValidationError as error:
            problem = all_problems(error)[0]
            what = f"{where}: {CONTROL} {number}{problem.name and f': {problem.name}'}"
            hint = did_you_mean(problem.name, Control.model_fields, "change the control")
            raise SheetError(what, _value_of(problem, each), problem.reason, hint) from None
    return tuple(controls), files
