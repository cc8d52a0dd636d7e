"""OpenAI's images API: `POST /v1/images/generations`, `GET /v1/models`, `GET /v1/models/{model}`.

Fields and answers are those of the package `openai` 3.57 (types/image_generate_params.py, types/images_response.py).
Every setting of a picture is accepted too, which OpenAI's clients send with `extra_body`.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, model_validator

from darkroom.errors import RequestError, UnsupportedError
from darkroom.request.render_request import MAX_SEED
from darkroom.serve.adapters import SETTINGS, check_count, choose_seed, describe_wishes, refuse_unknown, refuse_wishes
from darkroom.serve.http import wants_fresh, while_connected

if TYPE_CHECKING:
    from darkroom.serve.answers import Rendered
    from darkroom.serve.catalog import Model
    from darkroom.serve.service import Service

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "stream": (False,),
    "partial_images": (0,),
    "background": ("opaque", "auto"),
    "svg": (),
    "frame_count": (),
    "frame_duration_ms": (),
}
_MODEL = ConfigDict(use_attribute_docstrings=True, protected_namespaces=())


def _describe(schema: dict[str, Any]) -> None:
    describe_wishes(schema, _NEUTRAL)
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
    response_format: Literal["b64_json", "url"] | None = "b64_json"
    """`url` keeps the picture on the server for an hour."""
    seed: int | None = Field(None, ge=-1, le=MAX_SEED)
    """The first picture's seed; -1 or none draws one."""
    output_format: Literal["png"] | None = "png"
    stream: bool | None = False
    """Only false: pictures aren't streamed."""
    partial_images: int | None = 0
    """Only 0."""
    background: str | None = "auto"
    """Pictures are never transparent."""
    svg: Any = None
    """Not supported."""
    frame_count: Any = None
    """Not supported."""
    frame_duration_ms: Any = None
    """Not supported."""
    quality: Any = None
    """Has no effect: set `steps` instead."""
    style: Any = None
    """Has no effect: describe it in the prompt."""
    complexity: Any = None
    """Has no effect."""
    moderation: Any = None
    """Has no effect: nothing is moderated."""
    output_compression: Any = None
    """Has no effect: PNG loses nothing."""
    user: Any = None
    """Has no effect."""
    safety_identifier: Any = None
    """Has no effect."""

    @model_validator(mode="before")
    @classmethod
    def _known(cls, body: Any) -> Any:
        if isinstance(body, dict):
            refuse_unknown(body, [*cls.model_fields, *SETTINGS])
        return body


class ImageItem(BaseModel):
    """A picture as PNG with metadata, and facts about it."""

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
    """OpenAI's answer; `model` and `model_hash` are ours."""

    model_config = _MODEL

    created: int
    """In seconds since 1970."""
    data: list[ImageItem]
    background: Literal["opaque"] = "opaque"
    output_format: Literal["png"] = "png"
    size: str
    model: str
    model_hash: str | None
    """Civitai's AutoV2 of the checkpoint."""


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


def make_router(service: Service) -> APIRouter:
    """The routes below `/v1`."""
    router = APIRouter(prefix="/v1", tags=["OpenAI"])

    @router.post("/images/generations")
    async def create_images(body: ImageGeneration, request: Request) -> ImagesAnswer:
        """Make pictures of a prompt."""
        check_count(body.n or 1, service.config)
        work = service.make_pictures(read_settings(body), model=body.model, is_fresh=wants_fresh(request))
        pictures = await while_connected(request, work)
        if body.response_format != "url":
            return write_answer(pictures)
        base = (service.config.public_url or str(request.base_url)).rstrip("/")
        return write_answer(pictures, [f"{base}/pictures/{service.keep(picture.png)}.png" for picture in pictures])

    @router.post("/images/edits")
    @router.post("/images/variations")
    async def edit_images() -> ImagesAnswer:
        """Not supported: there is no image input."""
        raise UnsupportedError("image input", None, "pictures are made of prompts alone", "use /v1/images/generations")

    @router.get("/models")
    async def list_models() -> ModelList:
        """All models of this server, the default first."""
        names = sorted(service.models.names, key=lambda name: name != service.models.default)
        return ModelList(data=[_model_item(service.models.get(name)) for name in names])

    @router.get("/models/{model}")
    async def get_model(model: str) -> ModelItem:
        """One model."""
        return _model_item(service.models.get(model))

    return router


def read_settings(body: ImageGeneration) -> list[dict[str, Any]]:
    """The settings of each requested picture.

    Raises UnsupportedError (E-UNSUPPORTED), and RequestError (E-REQUEST) for a size that is set twice.
    """
    refuse_wishes(body.model_dump(), _NEUTRAL)
    settings = {name: value for name, value in (body.model_extra or {}).items() if value is not None}
    if body.size not in (None, "auto"):
        if "width" in settings or "height" in settings:
            raise RequestError("request: size", body.size, "width or height is given too", "leave one of them out")
        settings["width"], settings["height"] = map(int, str(body.size).split("x"))
    count = body.n or 1
    seed = choose_seed(body.seed, count)
    return [{**settings, "prompt": body.prompt, "seed": seed + number} for number in range(count)]


def write_answer(pictures: Sequence[Rendered], links: Sequence[str] | None = None) -> ImagesAnswer:
    """OpenAI's answer, with `links` to the pictures or, without them, the pictures in base64."""
    first = pictures[0]
    urls: Sequence[str | None] = links or [None] * len(pictures)
    return ImagesAnswer(
        created=int(time.time()),
        data=[_write_item(picture, url) for picture, url in zip(pictures, urls, strict=True)],
        size=f"{first.request.width}x{first.request.height}",
        model=first.model,
        model_hash=first.model_hash,
    )


def _write_item(picture: Rendered, url: str | None) -> ImageItem:
    return ImageItem(
        b64_json=None if url else base64.b64encode(picture.png).decode(),
        url=url,
        seed=picture.request.seed,
        width=picture.request.width,
        height=picture.request.height,
        cached=picture.is_cached,
        warnings=list(picture.warnings),
        facts=picture.facts,
    )


def _model_item(model: Model) -> ModelItem:
    created = int(model.files.model_dir.stat().st_mtime)
    return ModelItem(id=model.name, created=created, model_hash=model.model_hash)
