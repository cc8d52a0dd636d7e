"""A1111's Hires. fix: the fields of txt2img for a second pass as the stage `hires` (modules/processing.py)."""

from __future__ import annotations

from collections.abc import Collection

from darkroom.base.text import loose, shorten, unknown_name
from darkroom.errors import RequestError, UnsupportedError
from darkroom.request.lora_tags import name_weights
from darkroom.request.stages import Hires
from darkroom.request.stages.hires import LATENT_UPSCALERS
from darkroom.serve.a1111_samplers import ignore_schedule_of, read_sampler
from darkroom.serve.a1111_schemas import Txt2Img
from darkroom.serve.adapters import make_stage

NONE, LANCZOS = "None", "Lanczos"
"""A1111's upscaler that is none; where it has to resize nevertheless, it resizes with Lanczos."""
_STRENGTH = 0.75
_SAME = ("", "usesamesampler", "usesamescheduler", "usesamecheckpoint", "usesamechoices")
_FIELDS = {
    "scale": "hr_scale",
    "width": "hr_resize_x",
    "height": "hr_resize_y",
    "upscaler": "hr_upscaler",
    "steps": "hr_second_pass_steps",
    "prompt": "hr_prompt",
    "negative_prompt": "hr_negative_prompt",
    "cfg_scale": "hr_cfg",
    "checkpoint": "hr_checkpoint_name",
}
"""A1111's fields of the stage's settings, where the names differ."""


def read_first_size(body: Txt2Img) -> dict[str, int]:
    """Width and height of the first pass, as far as they are given: `firstphase_…` count more than `width` and `height`."""
    width, height = body.firstphase_width or 0, body.firstphase_height or 0
    if bool(width) != bool(height):
        name = "firstphase_height" if width else "firstphase_width"
        raise RequestError(f"request: {name}", 0, "the other one of the two is given", "send both, or none")
    given = {"width": width or body.width, "height": height or body.height}
    return {name: value for name, value in given.items() if value is not None}


def read_hires(body: Txt2Img) -> Hires:
    """The second pass. Raises RequestError (E-REQUEST) and UnsupportedError (E-UNSUPPORTED), which name the field."""
    for module in body.hr_additional_modules or []:
        if not _is_same(module):
            why = "Darkroom takes the first pass's"
            raise UnsupportedError("request: hr_additional_modules", shorten(module), why, "leave it out")
    width, height = body.hr_resize_x or None, body.hr_resize_y or None
    settings = {
        "scale": None if width or height else body.hr_scale,
        "width": width,
        "height": height,
        "upscaler": resizer_of(body.hr_upscaler) if body.hr_upscaler else LATENT_UPSCALERS[0],
        "denoising_strength": _STRENGTH if body.denoising_strength is None else body.denoising_strength,
        "steps": body.hr_second_pass_steps or None,
        "checkpoint": None if _is_same(body.hr_checkpoint_name) else body.hr_checkpoint_name,
        "prompt": name_weights(body.hr_prompt, te_first=True) if body.hr_prompt else None,
        "negative_prompt": body.hr_negative_prompt or None,
        "cfg_scale": body.hr_cfg,
        **_read_sampler(body),
    }
    return make_stage(Hires, settings, _FIELDS)


def resizer_of(name: str) -> str:
    """The upscaler that A1111 takes where it has to resize."""
    return LANCZOS if name == NONE else name


def check_upscaler(name: str, known: Collection[str], field: str) -> None:
    """Raise RequestError (E-REQUEST) for an upscaler that the server doesn't have."""
    if name not in known:
        why = str(unknown_name("upscaler", name, known))
        raise RequestError(f"request: {field}", shorten(name), why, "name one of /sdapi/v1/upscalers")


def _is_same(name: object) -> bool:
    """Whether a choice of the second pass is the first pass's."""
    return name is None or loose(name) in _SAME


def _read_sampler(body: Txt2Img) -> dict[str, str]:
    """Sampler and schedule of the second pass, where one of them is another than the first pass's."""
    if _is_same(body.hr_sampler_name) and _is_same(body.hr_scheduler):
        return {}
    first = body.sampler_name or body.sampler_index
    sampler = first if _is_same(body.hr_sampler_name) else body.hr_sampler_name
    schedule = body.scheduler if _is_same(body.hr_scheduler) else body.hr_scheduler
    if ignore_schedule_of(sampler, schedule):
        schedule = None
    return read_sampler(sampler, schedule, "hr_")
