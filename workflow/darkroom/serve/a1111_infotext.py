"""A picture's infotext as fields of a request to AUTOMATIC1111's routes, by A1111's names (modules/infotext_utils.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from darkroom.base.text import shorten
from darkroom.errors import RequestError, UnsupportedError
from darkroom.pictures.infotext import read_infotext
from darkroom.request.lora_tags import name_weights
from darkroom.serve.a1111_image_schemas import MASKED_CONTENT, Img2Img
from darkroom.serve.a1111_schemas import Processing

Body = TypeVar("Body", bound=Processing)
_Readers = dict[str, tuple[str, Callable[[str], Any]]]

_FIELDS: _Readers = {
    "Steps": ("steps", int),
    "Sampler": ("sampler_name", str),
    "Schedule type": ("scheduler", str),
    "CFG scale": ("cfg_scale", float),
    "Seed": ("seed", int),
    "Clip skip": ("clip_skip", int),
    "Variation seed": ("subseed", int),
    "Variation seed strength": ("subseed_strength", float),
    "Eta": ("eta", float),
    "Refiner": ("refiner_checkpoint", str),
    "Refiner switch at": ("refiner_switch_at", float),
    "Eta DDIM": ("eta", float),
}
_SCALES = ("Hires upscale", "Hires resize")
"""One of these says that there was a second pass."""
_HIRES: _Readers = {
    "Denoising strength": ("denoising_strength", float),
    "Hires upscale": ("hr_scale", float),
    "Hires steps": ("hr_second_pass_steps", int),
    "Hires upscaler": ("hr_upscaler", str),
    "Hires checkpoint": ("hr_checkpoint_name", str),
    "Hires sampler": ("hr_sampler_name", str),
    "Hires schedule type": ("hr_scheduler", str),
    "Hires prompt": ("hr_prompt", str),
    "Hires negative prompt": ("hr_negative_prompt", str),
    "Hires CFG Scale": ("hr_cfg", float),
    "Hires CFG scale": ("hr_cfg", float),
}
_IMG2IMG: _Readers = {
    "Denoising strength": ("denoising_strength", float),
    "Mask blur": ("mask_blur", int),
    "Inpaint area": ("inpaint_full_res", lambda text: ("Whole picture", "Only masked").index(text) == 1),
    "Masked area padding": ("inpaint_full_res_padding", int),
    "Mask mode": ("inpainting_mask_invert", ("Inpaint masked", "Inpaint not masked").index),
    "Masked content": ("inpainting_fill", MASKED_CONTENT.index),
}
_LEFT_OUT = {
    "Inpaint area": "Whole picture",
    "Masked area padding": "32",
    "Mask mode": "Inpaint masked",
    "Masked content": "original",
}
"""What img2img's infotexts leave out, whatever the fields' defaults are (A1111's parse_generation_parameters)."""
_OPTIONS = {"Model": "sd_model_checkpoint", "VAE": "sd_vae", "Emphasis": "emphasis"}
_ONLY_OURS: _Readers = {
    "CFG rescale": ("cfg_rescale", float),
    "FreeU": ("freeu", lambda text: {key: float(value) for key, value in map(str.split, text.split(","))}),
    "Prompt 2": ("prompt_2", lambda text: name_weights(text, te_first=True)),
    "Negative prompt 2": ("negative_prompt_2", str),
}
_ABOUT = ("Model hash", "VAE hash", "Init image hash", "Lora hashes", "TI hashes", "Hashes", "TI", "Version", "User")
_DEFAULTS = {"emphasis": "lpw", "cfg_rescale": 0.0, "freeu": False, "clip_skip": 0}
"""What Darkroom's infotexts leave out, whatever the server's defaults are."""


def with_infotext(body: Body) -> tuple[Body, dict[str, Any]]:
    """The request with what its `infotext` says in the fields that it leaves out, and settings that A1111 has no field for.

    Raises RequestError (E-REQUEST) for a value that can't be read, UnsupportedError (E-UNSUPPORTED) for a name that
    Darkroom doesn't know.
    """
    if not body.infotext:
        return body, {}
    fields, settings = _read_fields(body.infotext, is_img2img=isinstance(body, Img2Img))
    given = {name for name in body.model_fields_set if getattr(body, name) is not None}
    options = {**fields.pop("override_settings"), **(body.override_settings or {})}
    left_out = {name: value for name, value in fields.items() if name not in given}
    return body.model_copy(update={**left_out, "override_settings": options}), settings


def _read_fields(text: str, *, is_img2img: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields that an infotext sets, and settings that A1111 has no field for. Raises as `with_infotext`."""
    known = read_infotext(text)
    written = dict(known["settings"])
    if is_img2img:
        blur = {"Mask blur": "0"} if written.keys() & _LEFT_OUT.keys() else {}
        written = {**_LEFT_OUT, **blur, **written}
    fields: dict[str, Any] = {"prompt": known["prompt"], "negative_prompt": known["negative_prompt"]}
    fields["override_settings"] = {option: written.pop(name) for name, option in _OPTIONS.items() if name in written}
    settings: dict[str, Any] = dict(_DEFAULTS) if written.get("Version", "").startswith("darkroom ") else {}
    fields |= _read_size(written, "Size", ("width", "height"))
    has_hires = not is_img2img and any(name in written for name in _SCALES)
    if has_hires:
        fields |= {"enable_hr": True, **_read_size(written, "Hires resize", ("hr_resize_x", "hr_resize_y"))}
    readers = {**_FIELDS, **(_IMG2IMG if is_img2img else _HIRES if has_hires else {})}
    for name, value in written.items():
        if name in readers:
            field, read = readers[name]
            fields[field] = _read_value(name, value, read)
        elif name in _ONLY_OURS:
            setting, read = _ONLY_OURS[name]
            settings[setting] = _read_value(name, value, read)
        elif name not in _ABOUT and (name, value) != ("RNG", "CPU"):
            raise _refusal(name, value, is_img2img)
    return fields, settings


def _refusal(name: str, value: str, is_img2img: bool) -> UnsupportedError:
    why, hint = "Darkroom doesn't do that", "take it out of the infotext"
    if name.startswith("ControlNet"):
        why = "its picture is not in it"
    if not is_img2img and name in _IMG2IMG:
        why, hint = "was made from another picture", "send that one to /sdapi/v1/img2img"
    return UnsupportedError(f"request: infotext: {shorten(name)}", shorten(value), why, hint)


def _read_size(written: dict[str, str], name: str, fields: tuple[str, str]) -> dict[str, Any]:
    """Take a size such as `512x768` out of what is written."""
    width, cross, height = written.pop(name, "").partition("x")
    if not cross:
        return {}
    return {field: _read_value(name, text, int) for field, text in zip(fields, (width, height), strict=True)}


def _read_value(name: str, value: str, read: Callable[[str], Any]) -> Any:
    try:
        return read(value)
    except ValueError:
        raise RequestError(f"request: infotext: {name}", shorten(value), "can't be read", "correct it") from None
