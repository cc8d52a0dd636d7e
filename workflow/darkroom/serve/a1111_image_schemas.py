"""Bodies and answers of A1111's routes that take pictures, after its modules/api/models.py and modules/processing.py."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from darkroom.serve.a1111_schemas import Processing, describe_body
from darkroom.serve.adapters import describe_wishes

PICTURE = "In base64, bare or as a `data:` URI."
MASKED_CONTENT = ("fill", "original", "latent noise", "latent nothing")
"""What `inpainting_fill` counts through."""
NEUTRAL_OF_IMAGES: dict[str, tuple[Any, ...]] = {"initial_noise_multiplier": (1,), "latent_mask": ("",)}
"""As `a1111_schemas.NEUTRAL`, of Img2Img alone."""
NEUTRAL_OF_EXTRAS: dict[str, tuple[Any, ...]] = {"gfpgan_visibility": (0,), "codeformer_visibility": (0,)}
"""As `a1111_schemas.NEUTRAL`, of Extras."""
_MODEL = ConfigDict(use_attribute_docstrings=True, protected_namespaces=())


def _describe(schema: dict[str, Any]) -> None:
    describe_body(schema)
    describe_wishes(schema, NEUTRAL_OF_IMAGES)


class Img2Img(Processing):
    """A1111's StableDiffusionProcessingImg2Img. Other fields are ignored, and named in the answer's `info`."""

    model_config = ConfigDict(**_MODEL, extra="allow", json_schema_extra=_describe)

    init_images: list[str] | None = None
    """PNG, JPEG or WebP in base64, bare or as `data:` URIs: one for all pictures, or one for each of `batch_size`."""
    denoising_strength: float | None = 0.75
    """How much is made anew: 0 nothing, 1 all of it. Of the steps, `int(denoising_strength * steps) + 1` are run."""
    resize_mode: int | None = Field(0, ge=0, le=3)
    """To `width` and `height`: 0 stretches, 1 crops, 2 fills the sides; 3 (in the latents) is refused. Without them the picture keeps its size."""
    image_cfg_scale: float | None = None
    """Ignored: only models for instruct-pix2pix have it."""
    mask: str | None = None
    """White is made anew; of a picture with transparency, what is opaque. The fields below have no effect without it."""
    mask_blur: int | None = None
    """Of the mask's edge, in pixels, in place of the two below."""
    mask_blur_x: int | None = 4
    """Other values than `mask_blur_y` are refused."""
    mask_blur_y: int | None = 4
    mask_round: bool | None = True
    """False is refused."""
    inpainting_fill: int | None = Field(0, ge=0, le=3)
    """What the masked part holds before: 0 colours of its surroundings, 1 the picture, 2 latent noise, 3 latent nothing."""
    inpaint_full_res: bool | int | None = True
    """Work on the masked part alone, at `width` by `height`, and paste it back."""
    inpaint_full_res_padding: int | None = 0
    """How many pixels around the mask belong to the part."""
    inpainting_mask_invert: bool | int | None = 0
    """1: make anew what the mask leaves out."""
    initial_noise_multiplier: float | None = None
    latent_mask: str | None = None
    include_init_images: bool | None = False
    """Repeat `init_images` and `mask` in the answer's `parameters`."""


def _describe_extras(schema: dict[str, Any]) -> None:
    describe_wishes(schema, NEUTRAL_OF_EXTRAS)


class Extras(BaseModel):
    """A1111's ExtrasBaseRequest: pictures are enlarged."""

    model_config = ConfigDict(**_MODEL, extra="allow", json_schema_extra=_describe_extras)

    resize_mode: int | None = Field(0, ge=0, le=1)
    """0: by `upscaling_resize`; 1: to `upscaling_resize_w` by `upscaling_resize_h`."""
    upscaling_resize: float | None = Field(2, gt=0)
    """How much larger: 1 to 8."""
    upscaling_resize_w: int | None = Field(512, ge=1)
    upscaling_resize_h: int | None = Field(512, ge=1)
    upscaling_crop: bool | None = True
    """Crop what is too much; otherwise the picture covers the size."""
    upscaler_1: str | None = Field("None", max_length=200)
    """A name of `/sdapi/v1/upscalers`; with `None` the picture stays as it is."""
    upscaler_2: str | None = Field("None", max_length=200)
    """Blended over the first one's picture."""
    extras_upscaler_2_visibility: float | None = Field(0, ge=0, le=1)
    """The share of the second one's picture."""
    gfpgan_visibility: float | None = Field(0, ge=0, le=1)
    codeformer_visibility: float | None = Field(0, ge=0, le=1)
    codeformer_weight: float | None = Field(0, ge=0, le=1)
    """Has no effect without `codeformer_visibility`; nor has `upscale_first`."""
    upscale_first: bool | None = False
    show_extras_results: bool | None = True
    """Has no effect, as in A1111: the pictures are always sent."""


class ExtrasSingle(Extras):
    image: str = Field("", description=f"PNG, JPEG or WebP. {PICTURE}")


class FileData(BaseModel):
    data: str = Field(description=f"PNG, JPEG or WebP. {PICTURE}")
    name: str = Field("", description="Not used.")


class ExtrasBatch(Extras):
    imageList: list[FileData]


class ExtrasSingleAnswer(BaseModel):
    html_info: str
    image: str


class ExtrasBatchAnswer(BaseModel):
    html_info: str
    images: list[str]


class Upscaler(BaseModel):
    """An upscaler; those that need no model have no `model_name`."""

    model_config = _MODEL

    name: str
    model_name: str | None = None
    model_path: None = None
    model_url: None = None
    scale: float | None = None


class LatentUpscaleMode(BaseModel):
    name: str
