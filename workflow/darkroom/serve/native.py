"""Darkroom's own routes: health, readiness, metrics, `/render`, and the pictures behind links.

`POST /render` takes `{"request": {…}, "model": NAME, "pictures": {…}}` (see `named_pictures`) and gives a PNG, or the
file that `output` names, with its facts as JSON in the header `Darkroom-Facts`. With `Accept: text/event-stream` it tells of each step
first (server-sent events, HTML standard 9.2): `progress` and `preview`, then `picture` or `error`.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Coroutine
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException

from darkroom.errors import DarkroomError, RequestError
from darkroom.pictures.formats import FORMATS
from darkroom.request.render_request import RenderRequest
from darkroom.serve.answers import Rendered, as_error
from darkroom.serve.exchange import note_error
from darkroom.serve.http import (
    ASKS_FOR_KEY,
    EVENTS,
    answer_error,
    error_body,
    stream_events,
    wants_fresh,
    while_connected,
    write_event,
)
from darkroom.serve.named_pictures import Order, document_body, receive_order
from darkroom.serve.output_files import OutputFile
from darkroom.serve.service import Progress, Service

_TEXT = {"schema": {"type": "string"}}
_FILE = {"schema": {"type": "string", "format": "binary"}}
_FILES = {kind.mime_type: _FILE for kind in FORMATS.values()}


class EngineNow(BaseModel):
    """An engine of the server at this moment."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    device: str
    state: Literal["starting", "idle", "loading", "rendering", "cancelling", "hung", "broken"]
    models: list[str]
    """The models in its memory."""


class Ready(BaseModel):
    """The default model of a server that is ready, and what its engines do."""

    model_config = ConfigDict(protected_namespaces=())

    status: Literal["ready"] = "ready"
    model: str
    model_hash: str | None
    engines: list[EngineNow]


def make_router(service: Service) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["darkroom"])
    _add_state(router, service)
    _add_pictures(router, service)
    return router


def _add_state(router: APIRouter, service: Service) -> None:
    """Add the routes for the server's state."""

    @router.get("/healthz")
    async def get_health() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "ok"}

    @router.get("/readyz", response_model=Ready)
    async def get_readiness() -> Ready | Response:
        """Waits until a model is loaded and has rendered one step; then whether an engine works now."""
        try:
            await service.dispatcher.wait_ready()
            service.dispatcher.check_ready()
        except DarkroomError as error:
            return answer_error(error, status=503)
        model = service.models.get()
        engines = [
            EngineNow.model_validate({"device": each.device, "state": each.state, "models": each.loaded})
            for each in service.dispatcher.engines
        ]
        return Ready(model=model.name, model_hash=model.model_hash, engines=engines)

    @router.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": _TEXT}}},
        dependencies=[ASKS_FOR_KEY],
    )
    async def get_metrics() -> Response:
        """Metrics in Prometheus' text format."""
        text = await asyncio.to_thread(service.metrics.render)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_pictures(router: APIRouter, service: Service) -> None:
    """Add the routes for finished and new pictures."""

    @router.get(
        "/pictures/{name}.{suffix}",
        response_class=Response,
        responses={200: {"content": _FILES}},
    )
    async def get_picture(name: str, suffix: str) -> Response:
        """A picture behind a link."""
        data = service.linked.get(f"{name}.{suffix}")
        if data is None:
            raise HTTPException(404, "there is no such picture (any more)")
        return Response(data, media_type=FORMATS[suffix].mime_type)

    @router.post(
        "/render",
        response_class=Response,
        responses={200: {"content": {**_FILES, EVENTS: _TEXT}}},
        dependencies=[ASKS_FOR_KEY],
        openapi_extra=document_body(),
    )
    async def post_render(request: Request, accept: Annotated[str, Header()] = "") -> Response:
        """One picture, made of a prompt or of pictures that are sent with it."""
        is_fresh, order = wants_fresh(request), await receive_order(request, service.images)
        if order.previews and EVENTS not in accept:
            hint = f"send Accept: {EVENTS}, or leave previews out"
            raise RequestError("request: previews", order.previews, "are told in a stream of events only", hint)
        if EVENTS in accept:
            return await stream_events(_events(service, order, is_fresh))
        work = _make(service, order, is_fresh)
        picture = (await while_connected(request, work))[0]
        headers = {"Darkroom-Facts": json.dumps(picture.facts), "Darkroom-Cached": str(picture.is_cached).lower()}
        data = await order.output.encode(picture.png)
        return Response(data, media_type=order.output.kind.mime_type, headers=headers)


def _make(service: Service, order: Order, is_fresh: bool, **told: Any) -> Coroutine[Any, Any, list[Rendered]]:
    """`told` are `previews` and the functions that are called meanwhile."""
    return service.make_pictures(
        [order.settings], model=order.model, pictures=order.pictures, is_fresh=is_fresh, **told
    )


async def _events(service: Service, order: Order, is_fresh: bool) -> AsyncIterator[str]:
    """Progress and previews, then the picture or the error. The picture is given up if the client disconnects.

    Raises an error that occurs before the request is queued.
    """
    news: asyncio.Queue[tuple[str, dict[str, Any]] | None] = asyncio.Queue()

    def on_progress(progress: Progress) -> None:
        news.put_nowait(("progress", asdict(progress)))

    def on_preview(_: RenderRequest, png: bytes) -> None:
        news.put_nowait(("preview", {"png": base64.b64encode(png).decode("ascii")}))

    told = {"on_progress": on_progress, "previews": order.previews, "on_preview": on_preview}
    task = asyncio.create_task(_make(service, order, is_fresh, **told))
    task.add_done_callback(lambda _: news.put_nowait(None))
    try:
        if (event := await news.get()) is None:
            task.result()
        while event is not None:
            yield write_event(*event)
            event = await news.get()
        yield await _last_event(task, order.output)
    finally:
        task.cancel()


async def _last_event(task: asyncio.Task[list[Rendered]], output: OutputFile) -> str:
    try:
        picture = task.result()[0]
        data = await output.encode(picture.png)
    except Exception as error:
        shown = as_error(error)
        note_error(shown.code)
        return write_event("error", error_body(shown))
    answer = {
        output.kind.name: base64.b64encode(data).decode("ascii"),
        "request": picture.request.model_dump(mode="json"),
        "facts": picture.facts,
        "model": picture.model,
        "model_hash": picture.model_hash,
        "cached": picture.is_cached,
        "infotext": picture.infotext,
    }
    return write_event("picture", answer)
