"""OpenAI's images API: `POST /v1/images/generations`, `…/edits`, `…/variations`, `GET /v1/models`, `GET /v1/models/{model}`.

Fields and answers are those of the package `openai` 3.57 (types/image_generate_params.py, types/images_response.py).
Every setting of a picture is accepted too, which OpenAI's clients send with `extra_body`. As with OpenAI, what is wrong with a
request is answered with 400 and names the field in `param`.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from darkroom.serve.adapters import check_count, final_size
from darkroom.serve.http import EVENTS, stream_events, wants_fresh, while_connected
from darkroom.serve.openai_edits import read_edit, receive_edit, receive_variation
from darkroom.serve.openai_schemas import (
    ImageEdit,
    ImageGeneration,
    ImageItem,
    ImagesAnswer,
    ImageVariation,
    ModelItem,
    ModelList,
)
from darkroom.serve.openai_settings import find_model, ignored_fields, in_openais_words, output_of, read_settings
from darkroom.serve.openai_stream import stream_images

if TYPE_CHECKING:
    from darkroom.serve.answers import Rendered
    from darkroom.serve.catalog import Model
    from darkroom.serve.service import Service

PREFIX = "/v1"
_EVENTS: dict[int | str, dict[str, Any]] = {200: {"content": {EVENTS: {"schema": {"type": "string"}}}}}


def make_router(service: Service) -> APIRouter:
    """The routes below `/v1`."""
    router = APIRouter(prefix=PREFIX, tags=["OpenAI"])

    @router.post("/images/generations", response_model=ImagesAnswer, responses=_EVENTS)
    async def create_images(body: ImageGeneration, request: Request) -> ImagesAnswer | Response:
        """Make pictures of a prompt."""
        with in_openais_words(body):
            check_count(body.n or 1, service.config)
            return await _answer(service, body, read_settings(body), {}, request)

    @router.post("/images/edits", response_model=ImagesAnswer, responses=_EVENTS, openapi_extra=_form_of(ImageEdit))
    async def edit_images(request: Request) -> ImagesAnswer | Response:
        """Make pictures of a picture: all of it anew, or what the mask leaves transparent."""
        body, sent = await receive_edit(request, service.images)
        with in_openais_words(body):
            check_count(body.n or 1, service.config)
            return await _answer(service, body, read_edit(body, sent), sent.files, request)

    @router.post(
        "/images/variations", response_model=ImagesAnswer, responses=_EVENTS, openapi_extra=_form_of(ImageVariation)
    )
    async def vary_images(request: Request) -> ImagesAnswer | Response:
        """Make pictures like a picture."""
        body, sent = await receive_variation(request, service.images)
        with in_openais_words(body):
            check_count(body.n or 1, service.config)
            return await _answer(service, body, read_edit(body, sent), sent.files, request)

    @router.get("/models")
    async def list_models() -> ModelList:
        """All models of this server, the default first."""
        names = sorted(service.models.names, key=lambda name: name != service.models.default)
        return ModelList(data=[_model_item(service.models.get(name)) for name in names])

    @router.get("/models/{model}")
    async def get_model(model: str) -> ModelItem:
        """One model."""
        return _model_item(find_model(service, model))

    return router


async def _answer(
    service: Service,
    body: ImageGeneration,
    settings: list[dict[str, Any]],
    files: Mapping[str, bytes],
    request: Request,
) -> ImagesAnswer | Response:
    """Make the pictures, and answer with them, links to them or events."""
    options: dict[str, Any] = {
        "model": find_model(service, body.model).name,
        "pictures": files,
        "is_fresh": wants_fresh(request),
    }
    if body.stream:
        return await stream_events(stream_images(service, body, settings, **options))
    pictures = await while_connected(request, service.make_pictures(settings, **options))
    encoded = await output_of(body).encode_all(picture.png for picture in pictures)
    if (body.response_format or service.config.default_response_format) != "url":
        return write_answer(body, pictures, encoded)
    base = (service.config.public_url or str(request.base_url)).rstrip("/")
    names = [service.keep(file, body.output_format or "png") for file in encoded]
    return write_answer(body, pictures, encoded, [f"{base}/pictures/{name}" for name in names])


def _form_of(body: type[ImageEdit]) -> dict[str, Any]:
    """The OpenAPI description of a request whose fields come in a form."""
    content = {"multipart/form-data": {"schema": body.model_json_schema()}}
    return {"requestBody": {"content": content, "required": True}}


def write_answer(
    body: ImageGeneration, pictures: Sequence[Rendered], files: Sequence[bytes], links: Sequence[str] = ()
) -> ImagesAnswer:
    """OpenAI's answer, with `links` to the pictures or, without them, the `files` in base64."""
    first = pictures[0]
    urls: Sequence[str | None] = links or [None] * len(pictures)
    items = [_write_item(*each) for each in zip(pictures, files, urls, strict=True)]
    return ImagesAnswer(
        created=int(time.time()),
        data=items,
        output_format=body.output_format or "png",
        size="{}x{}".format(*final_size(first.request)),
        model=first.model,
        model_hash=first.model_hash,
        ignored=ignored_fields(body),
    )


def _write_item(picture: Rendered, file: bytes, url: str | None) -> ImageItem:
    width, height = final_size(picture.request)
    return ImageItem(
        b64_json=None if url else base64.b64encode(file).decode(),
        url=url,
        seed=picture.request.seed,
        width=width,
        height=height,
        cached=picture.is_cached,
        warnings=list(picture.warnings),
        facts=picture.facts,
    )


def _model_item(model: Model) -> ModelItem:
    created = int(model.files.model_dir.stat().st_mtime)
    return ModelItem(id=model.name, created=created, model_hash=model.model_hash)
