"""A1111's extension sd-webui-controlnet: its units in `alwayson_scripts` as controls.

The meanings are those of version 1.1 of the extension: scripts/enums.py, internal_controlnet/args.py.
Detected maps aren't sent along with pictures; `/controlnet/detect` makes them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from darkroom.base.text import loose, shorten, unknown_name
from darkroom.base.validation import first_problem
from darkroom.errors import RequestError, UnsupportedError
from darkroom.request.control import MAX_CONTROLS, UNION_TYPES, Control
from darkroom.request.stages import Hires
from darkroom.serve.a1111_ignored import Ignored, is_off
from darkroom.serve.a1111_schemas import Processing, Txt2Img
from darkroom.serve.a1111_settings import PictureSettings
from darkroom.serve.images import ImageReader

if TYPE_CHECKING:
    from darkroom.serve.service import Service

SCRIPT = "controlnet"
B = TypeVar("B", bound=Processing)
_WHERE = "alwayson_scripts.controlnet.args"
_LINES = "(from white bg & black line)"
RESOLUTIONS = (64, 2048, 512)
"""Least, most and usual shorter edge of what a preprocessor works on, in pixels."""


@dataclass(frozen=True, slots=True)
class Module:
    """A preprocessor of the extension: ours, its longer name, whether it has a resolution, and its control type.

    A slider is its label, least, most and usual value.
    """

    preprocessor: str
    alias: str
    has_resolution: bool
    sliders: tuple[tuple[str, float, float, float], ...] = ()
    control_type: str = "All"


MODULES = {
    "none": Module("none", "none", False),
    "canny": Module(
        "canny",
        "canny",
        True,
        (("Canny Low Threshold", 1, 255, 100), ("Canny High Threshold", 1, 255, 200)),
        "Canny",
    ),
    "lineart_standard": Module("lineart", f"lineart_standard {_LINES}", True, (), "Lineart"),
    "softedge": Module("softedge", "softedge", True, (), "SoftEdge"),
    "blur_gaussian": Module("blur", "blur_gaussian", True, (("Sigma", 0.01, 64, 9),), "Tile"),
    "grayscale": Module("grayscale", "grayscale", True, (), "Recolor"),
    "invert": Module("invert", f"invert {_LINES}", False, (), "Lineart"),
}
"""The preprocessors; `softedge` and `grayscale` are our own, the others those of the extension that need no weights."""
_RESIZE_MODES = {
    "justresize": "stretch",
    "cropandresize": "crop",
    "resizeandfill": "fill",
    "innerfitscaletofit": "crop",
    "scaletofitinnerfit": "crop",
    "outerfitshrinktofit": "fill",
    "envelopeouterfit": "fill",
    "0": "stretch",
    "1": "crop",
    "2": "fill",
    "3": "stretch",
}
_MODES = {
    "balanced": "balanced",
    "mypromptismoreimportant": "prompt",
    "controlnetismoreimportant": "control",
    "0": "balanced",
    "1": "prompt",
    "2": "control",
}
_PASSES = {"both": (True, True), "lowresonly": (True, False), "highresonly": (False, True)}
"""Whether a unit acts in the first pass and in that of Hires. fix."""
_UNION_TYPES = {"hardedge": "canny", "unknown": None}
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "mask": (None, "", []),
    "mask_image": (None, ""),
    "effective_region_mask": (None, ""),
    "advanced_weighting": (None, []),
    "ipadapter_input": (None, []),
    "pulid_mode": (None, "Fidelity"),
    "batch_images": (None, "", []),
    "batch_mask_dir": (None, ""),
    "input_mode": (None, "simple"),
    "loopback": (None, False),
    "use_preview_as_input": (None, False),
    "inpaint_crop_input_image": (None, True),
    "guess_mode": (None, False),
    "guessmode": (None, False),
}
"""Fields for what Darkroom doesn't do, with the values that don't ask for it."""
_ALIASES = {"input_image": "image", "guidance": "guidance_end", "lowvram": "low_vram"}
_KNOWN = (
    *("enabled", "module", "model", "weight", "image", "resize_mode", "low_vram", "processor_res", "threshold_a"),
    *("threshold_b", "guidance_start", "guidance_end", "pixel_perfect", "control_mode", "hr_option"),
    *("save_detected_map", "union_control_type"),
)
_FIELDS = {"start": "guidance_start", "end": "guidance_end", "type": "union_control_type"}


@dataclass(slots=True)
class Units:
    """The units of a request: controls of the first pass and of Hires. fix, the pictures that they name, and what is ignored."""

    first: list[Control] = field(default_factory=list)
    hires: list[Control] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    ignored: Ignored = field(default_factory=dict)

    def lead(self, read: PictureSettings, *, has_hires: bool) -> PictureSettings:
        """The settings with the controls; `has_hires` if there is a second pass among their stages."""
        read = replace(read, ignored=read.ignored | self.ignored)
        if has_hires and self.first != self.hires:
            hires = {"control": tuple(self.hires)}
            stages = [
                stage.model_copy(update=hires) if isinstance(stage, Hires) else stage
                for stage in read.settings[0]["stages"]
            ]
            read = read.with_settings(stages=stages)
        controls = self.first if has_hires else [*self.first, *(one for one in self.hires if one not in self.first)]
        return read.with_settings(control=controls) if controls else read


async def receive_units(body: B, service: Service) -> tuple[B, Units]:
    """The request without the extension's units, and these.

    Raises RequestError (E-REQUEST), UnsupportedError (E-UNSUPPORTED), which name unit and field, and what
    `ImageReader.read` raises.
    """
    scripts = dict(body.alwayson_scripts or {})
    names = [name for name in scripts if name.lower() == SCRIPT]
    units = Units()
    for name in names:
        args = _args_of(scripts.pop(name))
        if is_off(args):
            continue
        if not isinstance(args, list) or not all(isinstance(unit, dict | None) for unit in args):
            raise RequestError(f"request: {_WHERE}", shorten(args), "is no list of units", "send mappings of fields")
        known = list(service.asset_names().controlnets)
        for number, unit in enumerate(args):
            if unit and unit.get("enabled") is not False:
                where = f"{_WHERE}.{number}"
                has_picture = await _add_unit(units, where, unit, known, service.images)
                if not has_picture and isinstance(body, Txt2Img):
                    raise RequestError(f"request: {where}.image", None, "has no picture", "send one, in base64")
    if max(len(units.first), len(units.hires)) > MAX_CONTROLS:
        why = f"has more than {MAX_CONTROLS} units that are enabled"
        raise RequestError(f"request: {_WHERE}", None, why, "send fewer")
    return body.model_copy(update={"alwayson_scripts": scripts}) if names else body, units


def _args_of(script: Any) -> Any:
    return script.get("args") if isinstance(script, dict) else script


async def _add_unit(units: Units, where: str, given: Mapping[str, Any], models: list[str], reader: ImageReader) -> bool:
    """Read a unit; whether it has a picture of its own."""
    unit = dict(given)
    for alias, name in _ALIASES.items():
        if alias in unit:
            if name in unit:
                raise RequestError(f"request: {where}.{alias}", None, f"{name} is given too", "leave one of them out")
            unit[name] = unit.pop(alias)
    text = _picture_of(unit, where)
    for name, neutral in _NEUTRAL.items():
        if unit.get(name) not in neutral:
            why = "Darkroom doesn't do that"
            raise UnsupportedError(f"request: {where}.{name}", shorten(unit[name]), why, f"leave {name} out")
    control, passes = read_unit(unit, where, models)
    if text:
        picture = await reader.read(text, f"{where}.image")
        units.files[picture.sha256] = picture.png
        control = control.model_copy(update={"image": picture.sha256})
    for is_in, controls in zip(passes, (units.first, units.hires), strict=True):
        controls += [control] if is_in else []
    if unit.get("save_detected_map"):
        units.ignored[f"{where}.save_detected_map"] = "detected maps are made by /controlnet/detect"
    if unit.get("low_vram"):
        units.ignored[f"{where}.low_vram"] = "the server decides by the card's memory"
    for name in unit.keys() - {*_KNOWN, *_NEUTRAL}:
        units.ignored[f"{where}.{shorten(name)}"] = "unknown field"
    return bool(text)


def _picture_of(unit: dict[str, Any], where: str) -> str:
    """The picture in base64, empty for none; a mask beside it goes to the unit's field."""
    image = unit.get("image")
    if isinstance(image, list) and len(image) == 1:
        image = image[0]
    if isinstance(image, dict):
        unit["mask"] = image.get("mask") or unit.get("mask")
        image = image.get("image")
    if image is not None and not isinstance(image, str):
        raise RequestError(f"request: {where}.image", shorten(image), "is no picture", "send one picture in base64")
    return image or ""


def read_unit(unit: Mapping[str, Any], where: str, models: list[str]) -> tuple[Control, tuple[bool, bool]]:
    """A unit as a control without its picture, and whether it acts in the first pass and in Hires. fix.

    Raises RequestError (E-REQUEST), which names the field.
    """
    name = str(unit.get("model") or "None")
    if name == "None":
        raise RequestError(f"request: {where}.model", None, "names no ControlNet", "name one of /controlnet/model_list")
    settings: dict[str, Any] = {"model": _model_of(name, models), **read_preprocessor(unit, where)}
    for ours, theirs in (("weight", "weight"), ("start", "guidance_start"), ("end", "guidance_end")):
        if unit.get(theirs) is not None:
            settings[ours] = unit[theirs]
    settings["resize_mode"] = _choice(unit, "resize_mode", "crop", _RESIZE_MODES, where)
    settings["mode"] = _choice(unit, "control_mode", "balanced", _MODES, where)
    union = _UNION_TYPES | {loose(each): each for each in UNION_TYPES} | {"normalmap": "normal"}
    union["segmentation"] = "segment"
    settings["type"] = _choice(unit, "union_control_type", None, union, where)
    try:
        control = Control.model_validate(settings)
    except ValidationError as error:
        problem = first_problem(error)
        known_as = _FIELDS.get(problem.name, problem.name)
        what = f"request: {where}{known_as and f'.{known_as}'}"
        shown = shorten(problem.value) if known_as else None
        raise RequestError(what, shown, problem.reason, "correct the unit") from None
    return control, _choice(unit, "hr_option", (True, True), _PASSES, where)


def _model_of(name: str, models: list[str]) -> str:
    """The name without the hash that the extension writes after it, unless the whole is a name."""
    plain = re.sub(r" \[[0-9a-fA-F]{8,10}\]$", "", name)
    return name if name in models else plain


def _choice(unit: Mapping[str, Any], name: str, otherwise: Any, choices: Mapping[str, Any], where: str) -> Any:
    value = unit.get(name)
    if value is None:
        return otherwise
    key = re.sub(r"[\W_]", "", str(value)).lower()
    if isinstance(value, bool) or key not in choices:
        why = str(unknown_name(name, str(value), choices))
        raise RequestError(f"request: {where}.{name}", shorten(value), why, "send a value of the extension's")
    return choices[key]


def find_module(name: object, where: str) -> Module:
    """The preprocessor of either name. Raises UnsupportedError (E-UNSUPPORTED) for one that Darkroom doesn't have."""
    text = str(name or "none")
    for key, module in MODULES.items():
        if text.lower() in (key.lower(), module.alias.lower()):
            return module
    why = f"Darkroom has no such preprocessor, only {', '.join(MODULES)}"
    raise UnsupportedError(f"request: {where}", shorten(text), why, "send the picture that it makes, with module none")


def read_preprocessor(unit: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Our settings of a unit's `module`, sliders and resolution; as there, a value out of a slider's range is its usual one."""
    module = find_module(unit.get("module"), f"{where}.module")
    settings: dict[str, Any] = {"preprocessor": module.preprocessor}
    values = [
        _within(unit, name, slider[1:], where)
        for name, slider in zip(("threshold_a", "threshold_b"), module.sliders, strict=False)
    ]
    if module.preprocessor == "canny":  # OpenCV rounds down, and takes the lower one as the low threshold
        settings["low_threshold"], settings["high_threshold"] = sorted(map(int, values))
    elif values:
        (settings["sigma"],) = values
    if module.has_resolution and not unit.get("pixel_perfect"):
        resolution = _within(unit, "processor_res", RESOLUTIONS, where)
        settings["processor_res"] = int(resolution)
    return settings


def _within(unit: Mapping[str, Any], name: str, ends: tuple[float, float, float], where: str) -> float:
    value, (least, most, usual) = unit.get(name), ends
    if value is None:
        return usual
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RequestError(f"request: {where}.{name}", shorten(value), "is no number", "send a number")
    return value if least <= value <= most else usual
