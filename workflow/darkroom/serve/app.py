"""The HTTP application: every interface as a thin adapter over one Service, and errors in one form.

Errors are `{"error": {"code", "what", "value", "why", "hint", "message", "type", "param"}}`: the first five are
Darkroom's, the others are for OpenAI's clients.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException

from darkroom import __version__
from darkroom.base.text import shorten
from darkroom.base.validation import first_problem
from darkroom.errors import DarkroomError, RequestError
from darkroom.serve import a1111, a1111_controlnet_routes, native, openai_images, openai_settings, page
from darkroom.serve.adapters import ERROR_ANSWERS
from darkroom.serve.answers import as_error
from darkroom.serve.bodies import Message, Receive
from darkroom.serve.exchange import CLIENT_CLOSED_REQUEST, Exchange
from darkroom.serve.guard import Application, Guard, Scope, Send, guarded
from darkroom.serve.http import ASKS_FOR_KEY, ClientGone, answer_error
from darkroom.serve.metrics import Metrics
from darkroom.serve.service import Service

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def create_guarded_app(service: Service, *, lifespan: Lifespan, key: str | None, is_on_socket: bool) -> Application:
    """The application behind its guard, observed; a Unix socket is protected by its file's mode, so Host and Origin aren't checked."""
    make_guard = Guard.of_socket if is_on_socket else Guard.of_config
    app = create_app(service, lifespan=lifespan)
    app.openapi()  # takes a while; kept for later calls
    return observed(guarded(app, make_guard(service.config, key)), service.metrics)


def observed(app: Application, metrics: Metrics) -> Application:
    """The application with an id in each answer, a line in the log and metrics for each request, and HEAD wherever GET is."""

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await app(scope, receive, send)
        exchange = Exchange.begin(scope)
        is_complete = False
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}  # the server leaves the body out

        async def send_with_id(message: Message) -> None:
            nonlocal is_complete
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", exchange.id.encode())]
            await send(message)
            is_complete = message["type"] == "http.response.body" and not message.get("more_body", False)

        try:
            await app(scope, receive, send_with_id)
        except Exception as error:
            if not exchange.status:
                await answer_error(as_error(error))(scope, receive, send_with_id)
            elif not is_complete:  # otherwise it has already been logged and answered
                raise
        finally:
            route = getattr(scope.get("route"), "path", "other")
            metrics.on_request(route, exchange.status or CLIENT_CLOSED_REQUEST, exchange.seconds, exchange.code)
            exchange.log()

    return outer


def create_app(service: Service, *, lifespan: Lifespan | None = None) -> FastAPI:
    """The application over a service, without starting or stopping the service."""
    app = FastAPIOffline(  # its page at /docs loads nothing from the network
        title="Darkroom",
        version=__version__,
        lifespan=lifespan,
        redoc_url=None,
        static_url="/page/swagger",
        responses=ERROR_ANSWERS,
    )
    app.include_router(native.make_router(service))
    for module in (openai_images, a1111, a1111_controlnet_routes, page):
        app.include_router(module.make_router(service), dependencies=[ASKS_FOR_KEY])
    _answer_errors(app)
    return app


def _answer_errors(app: FastAPI) -> None:
    """Answer every error in the same form."""

    def answer(request: Request, error: DarkroomError) -> Response:
        is_openai = request.url.path.startswith(f"{openai_images.PREFIX}/")
        return answer_error(error, status=openai_settings.status_of(error) if is_openai else None)

    @app.exception_handler(DarkroomError)
    async def on_coded(request: Request, error: DarkroomError) -> Response:
        return answer(request, error)

    @app.exception_handler(ClientGone)
    async def on_gone(_request: Request, _error: ClientGone) -> Response:
        return Response(status_code=CLIENT_CLOSED_REQUEST)

    @app.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, error: RequestValidationError) -> Response:
        return answer(request, _describe(error))

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> Response:
        refused = RequestError(request.method, request.url.path, error.detail, "see /docs")
        refusal = answer_error(refused, status=error.status_code, hides_paths=False)  # the only path is the client's
        refusal.headers.update(error.headers or {})
        route = getattr(request.scope.get("route"), "path", "")
        if "allow" in refusal.headers and (methods := app.openapi()["paths"].get(route)):
            allowed = [*map(str.upper, methods), *(["HEAD"] if "get" in methods else [])]
            refusal.headers["allow"] = ", ".join(allowed)  # Starlette only lists those of one route
        return refusal

    @app.exception_handler(Exception)
    async def on_unexpected(request: Request, error: Exception) -> Response:
        shown = as_error(error)
        return answer(request, DarkroomError(shown.what, None, type(error).__name__, shown.hint))


def _describe(error: RequestValidationError) -> RequestError:
    """The first error in a body, in one line."""
    first = first_problem(error)
    key = ".".join(str(part) for part in first.keys if part != "body") or "request body"
    shown = None if isinstance(first.value, dict | list) else shorten(first.value, 200)
    return RequestError(f"request: {key}", shown, first.reason, "see /docs")
