"""The HTTP application: health, readiness and rendering, as a thin adapter over a Worker.

`GET /healthz` says that the process answers. `GET /readyz` waits for the model. `POST /render` takes
`{"request": {…}}` and gives a PNG, its facts as JSON in the header `Darkroom-Facts`. Errors are
`{"error": {"code", "what", "value", "why", "hint"}}`. A 503 with `Retry-After` comes from a server about to end.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from darkroom import __version__
from darkroom.errors import DarkroomError, InputError, OutOfMemoryError, RequestError, ServerError
from darkroom.request import RenderRequest
from darkroom.serve.worker import Stopped, Worker, as_error

MAX_BODY_BYTES = 2**21  # four prompts of 30,000 characters, each written as two \uXXXX, and room for the rest
CLIENT_CLOSED_REQUEST = 499  # as nginx logs it; nobody is there to read it

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def create_app(worker: Worker, *, lifespan: Lifespan | None = None) -> FastAPI:
    """The application around a worker. Whoever runs it starts and stops the worker."""
    app = FastAPI(title="Darkroom", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)

    @app.get("/healthz")
    async def get_health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz")
    async def get_readiness() -> Response:
        try:
            engine = await worker.ready()
        except Exception as error:
            return answer_error(error, status=503)
        return JSONResponse({"status": "ready", "model": engine.name, "model_hash": engine.model_hash})

    @app.post("/render")
    async def post_render(request: Request) -> Response:
        try:
            await worker.ready()
        except Exception as error:
            return answer_error(error, status=503)
        try:
            wanted = await _read_request(request)
            png, facts = await _render_while_connected(worker, request, wanted)
        except Exception as error:
            return answer_error(error)
        return Response(png, media_type="image/png", headers={"Darkroom-Facts": json.dumps(facts)})

    return app


def answer_error(error: Exception, status: int | None = None) -> Response:
    """An error as an HTTP answer; `status` overrides the one that follows from its class."""
    if isinstance(error, Stopped):
        if not error.is_stopping:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        ending = ServerError("engine", None, "is about to end", "send the request again")
        return JSONResponse({"error": ending.as_dict()}, 503, {"Retry-After": "1"})
    shown = as_error(error)
    return JSONResponse({"error": shown.as_dict()}, status or _status(shown))


def _status(error: DarkroomError) -> int:
    statuses = {InputError: 422, ServerError: 503, OutOfMemoryError: 507}
    return next((status for kind, status in statuses.items() if isinstance(error, kind)), 500)


async def _read_request(request: Request) -> RenderRequest:
    """The picture asked for. Raises RequestError (E-REQUEST)."""
    body = bytearray()
    async for block in request.stream():
        body += block
        if len(body) > MAX_BODY_BYTES:
            raise RequestError("request body", None, f"is larger than {MAX_BODY_BYTES} bytes", "shorten it")
    try:
        data: Any = json.loads(bytes(body))
    except (ValueError, RecursionError):
        raise RequestError("request body", None, "is not JSON", "send JSON") from None
    if not isinstance(data, dict) or set(data) != {"request"} or not isinstance(data["request"], dict):
        raise RequestError("request body", None, 'is not of the form {"request": {…}}', "send it in that form")
    return RenderRequest.from_settings(data["request"])


async def _render_while_connected(
    worker: Worker, request: Request, wanted: RenderRequest
) -> tuple[bytes, dict[str, Any]]:
    """Render, and give the picture up at its next step when the client goes away."""
    cancelled = threading.Event()

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        cancelled.set()

    watcher = asyncio.create_task(watch())
    try:
        return await worker.render(wanted, cancelled)
    finally:
        watcher.cancel()
