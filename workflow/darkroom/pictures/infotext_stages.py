"""What an infotext says of a picture of stages: A1111's own fields, as it writes them where the same is done by hand.

Its text describes the last picture that was made in txt2img or img2img, with what was done to that afterwards: Hires. fix
(modules/processing.py, StableDiffusionProcessingTxt2Img.init) and an upscaler of the Extras tab
(scripts/postprocessing_upscale.py). So the settings of an img2img pass, its prompt and its size among them, take the place
of those of the passes before it. The whole chain is in the picture's `darkroom` text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from darkroom.request.lora_tags import name_weights
from darkroom.request.render_request import RenderRequest
from darkroom.request.samplers import A1111_AUTOMATIC, MODELS_OWN
from darkroom.request.stages import DenoisingStage, Hires, Inpaint, Outpaint, Refine, Stage, Tile, Upscale

_EDGES = ("left", "right", "up", "down")


@dataclass(frozen=True, slots=True)
class Told:
    """`request` has the settings that are told, `size` is the one of that pass; `strength` is None without any stage that
    denoises, and `settings` are further fields in A1111's order. `checkpoint` is the name of that pass's, None for the
    picture's own.
    """

    request: RenderRequest
    size: str
    strength: float | None = None
    settings: dict[str, str] = field(default_factory=dict)
    checkpoint: str | None = None


def tell_stages(request: RenderRequest, titles: Mapping[str | None, str]) -> Told:
    """What the infotext of a request says, and that of a request without stages says of itself.

    `titles` are the checkpoints' by their names, None for the picture's own.
    """
    if not request.stages:
        return Told(request, _size(request.width, request.height))
    first = max((n for n, stage in enumerate(request.stages) if _is_img2img(stage)), default=-1)
    stage = request.stages[first] if first >= 0 else None
    base = request if stage is None else _with(request, stage)
    size, settings, strength = (request.width, request.height), dict[str, str](), None
    checkpoint = None
    if isinstance(stage, DenoisingStage):
        checkpoint = stage.checkpoint
        size = stage.work_size(*request.sizes[first])
        settings, strength = _tell_img2img(stage), stage.denoising_strength
    for number, later in enumerate(request.stages[first + 1 :], first + 1):
        if isinstance(later, Hires):
            other = {} if later.checkpoint == checkpoint else _tell_checkpoint(later, titles)
            settings |= other | _tell_hires(later, _with(request, later), base)
            strength = later.denoising_strength
        elif isinstance(later, Refine):
            settings |= _tell_refiner(later, titles)
        elif isinstance(later, Upscale):
            settings |= _tell_upscale(later, request.sizes[number + 1])
    if len(request.stages) > 1:
        settings["Stages"] = ", ".join(each.name for each in request.stages)
    return Told(base, _size(*size), strength, settings, checkpoint)


def written_schedule(request: RenderRequest) -> str:
    """The schedule in A1111's words, whose Automatic is a schedule of its own for some samplers."""
    is_other = request.schedule == "Automatic" and request.sampler in A1111_AUTOMATIC
    return MODELS_OWN if is_other else request.schedule


def write_number(value: float) -> str:
    """A number without needless digits."""
    return str(int(value)) if value == int(value) else repr(value)


def _is_img2img(stage: Stage) -> bool:
    """Whether A1111 does it in its img2img tab, with a text of its own."""
    is_within = isinstance(stage, Refine) and stage.switch_at is not None
    return isinstance(stage, DenoisingStage) and not isinstance(stage, Hires) and not is_within


def _with(request: RenderRequest, stage: Stage) -> RenderRequest:
    """The request with a stage's own settings. Not validated: a stage's size may be none that a first pass can have."""
    if not isinstance(stage, DenoisingStage):
        return request
    changes = {"schedule": "Automatic", "eta": None} if stage.sampler is not None else {}
    return request.model_copy(update={**changes, **stage.settings()})


def _tell_img2img(stage: DenoisingStage) -> dict[str, str]:
    """As StableDiffusionProcessingImg2Img.init, and scripts/sd_upscale.py. A1111 has no field for an extended canvas."""
    settings: dict[str, str] = {}
    if isinstance(stage, Inpaint) and stage.invert:
        settings["Mask mode"] = "Inpaint not masked"
    if isinstance(stage, Inpaint | Outpaint) and stage.mask_blur:
        settings["Mask blur"] = str(stage.mask_blur)
    if isinstance(stage, Inpaint) and stage.only_masked:
        settings |= {"Inpaint area": "Only masked", "Masked area padding": str(stage.padding)}
    if isinstance(stage, Inpaint | Outpaint) and stage.masked_content != "original":
        settings["Masked content"] = stage.masked_content
    if isinstance(stage, Outpaint):
        edges = ((name, getattr(stage, name)) for name in _EDGES)
        settings["Outpaint"] = ", ".join(f"{name} {pixels}" for name, pixels in edges if pixels)
    if isinstance(stage, Tile):
        settings |= {"SD upscale overlap": str(stage.overlap), "SD upscale upscaler": stage.upscaler}
    return settings


def _tell_hires(stage: Hires, own: RenderRequest, base: RenderRequest) -> dict[str, str]:
    """As StableDiffusionProcessingTxt2Img.init; "Hires CFG Scale" is Forge's. `own` are its settings, `base` those told."""
    settings: dict[str, str] = {}
    if own.sampler != base.sampler:
        settings["Hires sampler"] = own.sampler
    for key, text, other in (
        ("Hires prompt", own.prompt, base.prompt),
        ("Hires negative prompt", own.negative_prompt, base.negative_prompt),
    ):
        if text != other:
            settings[key] = name_weights(text)
    if written_schedule(own) != written_schedule(base):
        settings["Hires schedule type"] = written_schedule(own)
    if own.cfg_scale != base.cfg_scale:
        settings["Hires CFG Scale"] = write_number(own.cfg_scale)
    if stage.width is None and stage.height is None:
        settings["Hires upscale"] = write_number(stage.scale)
    else:
        settings["Hires resize"] = _size(stage.width or 0, stage.height or 0)
    if own.steps != base.steps:
        settings["Hires steps"] = str(own.steps)
    return {**settings, "Hires upscaler": stage.upscaler}


def _tell_checkpoint(stage: Hires, titles: Mapping[str | None, str]) -> dict[str, str]:
    return {"Hires checkpoint": titles.get(stage.checkpoint, stage.checkpoint or "")}


def _tell_refiner(stage: Refine, titles: Mapping[str | None, str]) -> dict[str, str]:
    """As apply_refiner (modules/sd_samplers_common.py), of a refiner that goes on where the pass before it is told to stop."""
    title = titles.get(stage.checkpoint, stage.checkpoint)
    return {"Refiner": title, "Refiner switch at": write_number(stage.switch_at or 0.0)}


def _tell_upscale(stage: Upscale, size: tuple[int, int]) -> dict[str, str]:
    is_by_scale = stage.width is None and stage.height is None
    how = (
        {"Postprocess upscale by": write_number(stage.scale)}
        if is_by_scale
        else {"Postprocess upscale to": _size(*size)}
    )
    return {**how, "Postprocess upscaler": stage.upscaler}


def _size(width: int, height: int) -> str:
    return f"{width}x{height}"
