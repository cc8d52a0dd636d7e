"""Bodies and answers of AUTOMATIC1111's API, with the names of its modules/api/models.py and modules/processing.py.

Null stands for a missing field, as in A1111. A missing setting gets the server's default.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from darkroom.request.render_request import MAX_SEED
from darkroom.serve.adapters import SETTINGS, describe_wishes

_MODEL = ConfigDict(use_attribute_docstrings=True, protected_namespaces=())

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "restore_faces": (False,),
    "tiling": (False,),
    "styles": ([],),
    "script_name": ("", "None"),
    "disable_extra_networks": (False,),
    "seed_resize_from_h": (-1, 0),
    "seed_resize_from_w": (-1, 0),
    "firstpass_image": ("",),
    "s_churn": (0,),
    "s_noise": (1,),
    "s_min_uncond": (0,),
}
"""Fields of Processing for features that Darkroom doesn't have, with the values that don't use the feature."""
SAME = ("negative_prompt", "steps", "cfg_scale", "width", "height", "clip_skip")
"""Fields that are RenderRequest's settings of the same name."""


def describe_body(schema: dict[str, Any]) -> None:
    """Have a body's JSON Schema show the ranges of settings, and what is refused."""
    describe_wishes(schema, {name: values for name, values in NEUTRAL.items() if name in schema["properties"]})
    schema["properties"] |= {name: SETTINGS[name] for name in SAME}


class Processing(BaseModel):
    """A1111's StableDiffusionProcessing, with `clip_skip`, which other servers accept: what txt2img and img2img share.

    Other fields are ignored, and named in the answer's `info`.
    """

    model_config = ConfigDict(**_MODEL, extra="allow", json_schema_extra=describe_body)

    prompt: str | None = Field("", examples=["a lighthouse in a storm, (oil painting:1.2)"])
    """Any length. The weights in a LoRA tag are in A1111's order: the text encoders' first."""
    negative_prompt: str | None = None
    seed: int | None = Field(-1, ge=-1, le=MAX_SEED)
    """-1 draws one. The pictures of one request have consecutive seeds."""
    subseed: int | None = Field(-1, ge=-1, le=MAX_SEED)
    """The variation seed; consecutive in place of `seed` where `subseed_strength` is above 0."""
    subseed_strength: float | None = Field(0, ge=0, le=1)
    """How much of the variation seed's noise: 0 keeps the picture of `seed`."""
    sampler_name: str | None = Field(None, max_length=200)
    """May end in the schedule, as in `DPM++ 2M Karras`."""
    sampler_index: str | None = Field(None, max_length=200)
    """An older name of `sampler_name`."""
    scheduler: str | None = Field(None, max_length=200)
    """`automatic` is what A1111 takes for the sampler: Karras for DPM++ 2M, Exponential for DPM++ 2M SDE."""
    steps: int | None = None
    cfg_scale: float | None = None
    width: int | None = None
    height: int | None = None
    batch_size: int | None = Field(1, ge=1)
    """See `n_iter`."""
    n_iter: int | None = Field(1, ge=1)
    """`n_iter` times `batch_size` pictures are made, one at a time or as many as `serve.batch` says."""
    clip_skip: int | None = None
    override_settings: dict[str, Any] | None = None
    """Options for this request: sd_model_checkpoint, sd_vae, CLIP_stop_at_last_layers, emphasis, samples_format, jpeg_quality."""
    override_settings_restore_afterwards: bool | None = True
    """If false, `sd_model_checkpoint` becomes the server's default."""
    send_images: bool | None = True
    """If false, the answer has no pictures, only how they were made."""

    eta: float | None = None
    """0 to 1 for DDIM, 0 or 1 for others that add noise; has no effect on the rest, as in A1111."""
    restore_faces: bool | None = False
    tiling: bool | None = False
    styles: list[str] | None = None
    script_name: str | None = None
    script_args: list[Any] | None = None
    """Ignored without `script_name`."""
    alwayson_scripts: dict[str, Any] | None = None
    """ControlNet's units lead the pictures. Other scripts that are switched off or have no arguments are ignored, and refused otherwise."""
    refiner_checkpoint: str | None = Field(None, max_length=200)
    """SDXL's refiner, by its name among the models: it makes the rest of the steps, with Hires. fix of the second pass; `None` for none."""
    infotext: str | None = Field(None, max_length=200_000)
    """A picture's metadata, as in its PNG: what it says holds where the request leaves a field out."""
    disable_extra_networks: bool | None = False
    seed_resize_from_h: int | None = -1
    seed_resize_from_w: int | None = -1
    firstpass_image: str | None = None
    s_churn: float | None = None
    s_noise: float | None = None
    s_min_uncond: float | None = None
    refiner_switch_at: float | None = None
    """Above 0: the part of the noise levels that the model keeps; at 1 the refiner is never used. Has no effect without `refiner_checkpoint`;
    nor have s_tmin and s_tmax without `s_churn`."""
    s_tmin: float | None = None
    s_tmax: float | None = None
    save_images: bool | None = False
    """The server never writes pictures to its disk."""
    do_not_save_samples: bool | None = False
    do_not_save_grid: bool | None = False
    force_task_id: str | None = None
    comments: dict[str, Any] | None = None


class Txt2Img(Processing):
    """A1111's StableDiffusionProcessingTxt2Img, with Forge's `hr_cfg` and `hr_additional_modules`.

    Other fields are ignored, and named in the answer's `info`.
    """

    enable_hr: bool | None = False
    """Hires. fix: the picture is enlarged, and a second pass denoises it again at its new size."""
    denoising_strength: float | None = None
    """Of the second pass; 0.75 if left out. Has no effect without `enable_hr`, as in A1111; nor have the `hr_…` below."""
    hr_scale: float | None = None
    """How much larger; 2 if left out. Has no effect with `hr_resize_x` or `hr_resize_y`."""
    hr_upscaler: str | None = Field(None, max_length=200)
    """A name of `/sdapi/v1/latent-upscale-modes` or `/sdapi/v1/upscalers`; `Latent` if left out."""
    hr_second_pass_steps: int | None = None
    """0 or none: as many as `steps`. All of them are run, whatever the strength."""
    hr_resize_x: int | None = None
    """The new width. 0 or none is in proportion to `hr_resize_y`; with both, what is too much is cropped."""
    hr_resize_y: int | None = None
    """The new height; see `hr_resize_x`."""
    hr_checkpoint_name: str | None = Field(None, max_length=200)
    """Another checkpoint for the second pass, one of `/sdapi/v1/sd-models`."""
    hr_sampler_name: str | None = Field(None, max_length=200)
    """As the first pass if left out, or `Use same sampler`."""
    hr_scheduler: str | None = Field(None, max_length=200)
    """As the first pass if left out, or `Use same scheduler`."""
    hr_prompt: str | None = None
    """As the first pass if left out or empty."""
    hr_negative_prompt: str | None = None
    """As the first pass if left out or empty."""
    hr_cfg: float | None = None
    """The CFG scale; as the first pass if left out."""
    hr_additional_modules: list[Any] | None = None
    """Only `["Use same choices"]`."""
    firstphase_width: int | None = 0
    """In place of `width`, as in A1111."""
    firstphase_height: int | None = 0
    """In place of `height`, as in A1111."""


class Txt2ImgAnswer(BaseModel):
    """`info` is a JSON text, as A1111 has it: the seeds, the infotexts and what the pictures were made with."""

    images: list[str]
    """PNG in base64, with A1111's metadata."""
    parameters: dict[str, Any]
    info: str


class PngInfoBody(BaseModel):
    model_config = _MODEL

    image: str
    """A PNG, JPEG or WebP in base64, bare or as a `data:` URL."""


class PngInfo(BaseModel):
    """A picture's metadata."""

    model_config = _MODEL

    info: str
    """The infotext; empty for a picture without one."""
    items: dict[str, str]
    """The other text chunks."""
    parameters: dict[str, str]
    """The infotext's settings by their names in it."""


class ProgressState(BaseModel):
    skipped: bool = False
    interrupted: bool = False
    stopping_generation: bool = False
    job: str = ""
    job_count: int = 0
    job_timestamp: str = "0"
    job_no: int = 0
    sampling_step: int = 0
    sampling_steps: int = 0


class ProgressAnswer(BaseModel):
    """How far the oldest request is."""

    model_config = _MODEL

    progress: float = Field(0.0, ge=0, le=1)
    eta_relative: float = 0.0
    """In seconds."""
    state: ProgressState = ProgressState()
    current_image: None = None
    textinfo: str | None = None


class SdModel(BaseModel):
    model_config = _MODEL

    title: str
    model_name: str
    hash: str | None
    """Civitai's AutoV2."""
    sha256: str | None
    filename: str
    """A name, never a path."""
    config: None = None


class SdVae(BaseModel):
    model_config = _MODEL

    model_name: str
    filename: str


class Lora(BaseModel):
    name: str
    alias: str
    path: str
    metadata: dict[str, Any]


class Sampler(BaseModel):
    name: str
    aliases: list[str]
    options: dict[str, str]


class Scheduler(BaseModel):
    name: str
    label: str
    aliases: list[str] | None = None
    default_rho: float | None = None
    need_inner_model: bool | None = None
