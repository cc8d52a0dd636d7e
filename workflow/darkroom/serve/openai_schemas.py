"""Bodies and answers of OpenAI's images API, with the names of the package `openai` 3.57.

From types/image_generate_params.py, types/image_edit_params.py, types/images_response.py and types/model.py. Null stands for a missing field. A missing
setting gets the server's default.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from darkroom.request.control import ResizeMode
from darkroom.request.render_request import MAX_SEED
from darkroom.request.stages.inpaint import MaskedContent
from darkroom.serve.adapters import SETTINGS, describe_wishes, refuse_unknown

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "background": ("opaque", "auto"),
    "svg": (),
    "frame_count": (),
    "frame_duration_ms": (),
}
"""Fields for features that Darkroom doesn't have, with the values that don't use the feature."""
_MODEL = ConfigDict(use_attribute_docstrings=True, protected_namespaces=())


def _describe(schema: dict[str, Any]) -> None:
    describe_wishes(schema, NEUTRAL)
    schema["properties"] = {**SETTINGS, **schema["properties"]}
    schema["additionalProperties"] = False


class ImageGeneration(BaseModel):
    """What to draw: OpenAI's fields, and every setting of a picture."""

    model_config = ConfigDict(**_MODEL, extra="allow", json_schema_extra=_describe)

    prompt: str = Field(examples=["a lighthouse in a storm, (oil painting:1.2)"])
    """What to draw. Any length; A1111 weights such as `(red:1.3)` and `[less]`."""
    model: str | None = Field(None, max_length=200)
    """A name of `/v1/models`; the server's default if left out."""
    n: int | None = Field(1, ge=1)
    """How many pictures, with consecutive seeds."""
    size: str | None = Field("auto", pattern=r"^(auto|\d{2,5}x\d{2,5})$", examples=["1024x1024", "832x1216"])
    """`WIDTHxHEIGHT` in multiples of 8; `auto` is 1024x1024, or `width` and `height`."""
    response_format: Literal["b64_json", "url"] | None = None
    """`url` keeps the picture on the server for an hour; `serve.default_response_format` if left out."""
    seed: int | None = Field(None, ge=-1, le=MAX_SEED)
    """The first picture's seed; -1 or none draws one."""
    output_format: Literal["png", "webp", "jpeg"] | None = "png"
    """All have the same metadata: `png` in text chunks, the others in EXIF's UserComment and XMP."""
    output_compression: int | None = Field(None, ge=0, le=100)
    """The encoder's quality for `webp` and `jpeg`; 100 if left out."""
    stream: bool | None = False
    """Send the pictures as events, in base64."""
    partial_images: int | None = Field(0, ge=0, le=3)
    """How many previews of each picture a stream has; fewer for one of few steps."""
    background: str | None = "auto"
    """Pictures are never transparent."""
    svg: Any = None
    """Not supported."""
    frame_count: Any = None
    """Not supported."""
    frame_duration_ms: Any = None
    """Not supported."""
    quality: Literal["auto", "standard", "hd", "low", "medium", "high", "xhigh", "max"] | None = None
    """Has no effect: set `steps` instead."""
    style: Literal["vivid", "natural"] | None = None
    """Has no effect: describe it in the prompt."""
    complexity: Literal["low", "medium", "high"] | None = None
    """Has no effect."""
    moderation: Literal["low", "auto"] | None = None
    """Has no effect: nothing is moderated."""
    user: str | None = None
    """Has no effect."""
    safety_identifier: str | None = None
    """Has no effect."""

    @model_validator(mode="before")
    @classmethod
    def _known(cls, body: Any) -> Any:
        if isinstance(body, dict):
            refuse_unknown(body, [*cls.model_fields, *SETTINGS])
        return body


def _describe_edit(schema: dict[str, Any]) -> None:
    _describe(schema)
    files = {
        "image": "The picture's file: PNG, JPEG or WebP.",
        "mask": "A PNG or WebP: its transparent part is made anew.",
    }
    names = files if "input_fidelity" in schema["properties"] else {"image": files["image"]}
    binary = {name: {"type": "string", "format": "binary", "description": files[name]} for name in names}
    schema["properties"] = {**binary, **schema["properties"]}
    schema["required"] = ["image", *schema.get("required", [])]


class ImageEdit(ImageGeneration):
    """What to make of a picture: OpenAI's fields, every setting of a picture, and those of the stages img2img and inpaint."""

    model_config = ConfigDict(**_MODEL, extra="allow", json_schema_extra=_describe_edit)

    size: str | None = Field("auto", pattern=r"^(auto|\d{2,5}x\d{2,5})$", examples=["1024x1024", "832x1216"])
    """`WIDTHxHEIGHT` in multiples of 8; `auto` is the picture's own size."""
    denoising_strength: float | None = None
    """How much is made anew: 0 nothing, 1 all of it; 0.75 if left out."""
    resize_mode: ResizeMode | None = None
    """How the picture is brought to another `size` before; `crop` if left out."""
    mask_blur: int | None = None
    """Of the mask's edge, in pixels; 4 if left out."""
    masked_content: MaskedContent | None = None
    """What the masked part holds before; `original`, or `fill` where it is transparent in the picture itself."""
    only_masked: bool | None = None
    """Work on the masked part alone, at `size`, and paste it back: the picture keeps its own size."""
    padding: int | None = None
    """With `only_masked`: how many pixels around the mask belong to the part; 32 if left out."""
    input_fidelity: Literal["high", "low"] | None = None
    """Has no effect: set `denoising_strength` instead."""


class ImageVariation(ImageEdit):
    """A picture like another one. Without a prompt, that of the picture's own metadata is taken, if it has any."""

    prompt: str = Field("", examples=["a lighthouse in a storm"])
    """What to draw; the prompt in the picture's metadata if left out."""


class ImageItem(BaseModel):
    """A picture with its metadata, and facts about it."""

    model_config = _MODEL

    b64_json: str | None = None
    url: str | None = None
    revised_prompt: None = None
    """The prompt is used as it was sent."""
    seed: int
    width: int
    height: int
    cached: bool
    """Whether it comes from results/."""
    warnings: list[str]
    facts: dict[str, Any]
    """Tokens, chunks, seconds of each stage; empty for a cached picture."""


class ImagesAnswer(BaseModel):
    """OpenAI's answer; `model`, `model_hash` and `ignored` are ours."""

    model_config = _MODEL

    created: int
    """In seconds since 1970."""
    data: list[ImageItem]
    background: Literal["opaque"] = "opaque"
    output_format: Literal["png", "webp", "jpeg"] = "png"
    size: str
    model: str
    model_hash: str | None
    """Civitai's AutoV2 of the checkpoint."""
    ignored: dict[str, str]
    """The fields that had no effect, with the reasons."""


class ModelItem(BaseModel):
    """A model of this server."""

    model_config = _MODEL

    id: str
    object: Literal["model"] = "model"
    created: int
    """When it was converted, in seconds since 1970."""
    owned_by: Literal["darkroom"] = "darkroom"
    model_hash: str | None


class ModelList(BaseModel):
    """All models of this server."""

    object: Literal["list"] = "list"
    data: list[ModelItem]
