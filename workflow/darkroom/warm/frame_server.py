"""The warm engine's server in its event loop: clients' frames in front of a queue with one engine.

    received                    answered
    hello {lease}               loading {done, total} now and then; ready {loads}, once the model is loaded, with the loads
                                since the last one; or failed {error}
    render {request, …}         picture {facts, summary, used} with the PNG and, if they are asked for, its latents; or
    with the pictures' files    failed {error}
    release {lease}             released {ends}: whether the engine ends now because no other run needs it

A client sends its next frame after the answer to the one before. One that disconnects gives its picture up, and one that
sends anything else is disconnected. The error E-BUSY means that the server is about to end and another can be started.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from darkroom.base.sockets import is_own_peer, send_pictures_whole
from darkroom.config_output import MetadataConfig
from darkroom.errors import BusyError, CancellationError
from darkroom.request.render_request import RenderRequest
from darkroom.serve.answers import Rendered, as_error
from darkroom.serve.channel import receive
from darkroom.serve.dispatcher import Dispatcher, Observer
from darkroom.serve.engines import EngineOptions, ModelFiles
from darkroom.serve.frames import MAX_FILES_BYTES, NO_FILES, FrameError, Message, pack, pack_files, read_files
from darkroom.serve.limits import check_pictures
from darkroom.serve.shutdown import Lifecycle
from darkroom.serve.supervisor import DEFAULT_COMMAND, Job, Limits
from darkroom.warm.lease import LeaseWatch
from darkroom.warm.paths import BACKLOG

if TYPE_CHECKING:
    from darkroom.warm.options import ServerOptions

logger = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 2**21
"""The longest message of a client: it holds four prompts of the longest kind."""
MAX_QUEUE = 100_000
_READ_TIMEOUT_S = 20.0
_LOADING_EVERY_S = 5.0


async def serve(
    listener: socket.socket,
    options: ServerOptions,
    command: Sequence[str] | None,
    remove_socket: Callable[[], None],
) -> int:
    """Serve clients until the engine is no longer needed; returns the exit code. `remove_socket` is called first at the end."""
    name = options.model_dir.name
    files = {name: ModelFiles(options.model_dir, options.verified)}
    engine = EngineOptions(files, options.device, options.dtype, options.memory, options.compile)
    loads = Loads()
    dispatcher = Dispatcher(
        [engine],
        name,
        limit=MAX_QUEUE,
        observer=loads,
        command=command or DEFAULT_COMMAND,
        limits=Limits(load_s=options.start_timeout_s),
    )
    lifecycle = LeasedLifecycle(dispatcher, options, remove_socket)
    server = FrameServer(dispatcher, lifecycle, name, options.device_name, loads)
    dispatcher.start()
    async with lifecycle.lifespan(None):
        await server.run(listener)
    return lifecycle.exit_code


class Loads(Observer):
    """The loads of the model that no client has been told of: each counts for the run of one client."""

    def __init__(self) -> None:
        self._untold: list[dict[str, Any]] = []

    def on_load(self, model: str, seconds: float) -> None:
        self._untold.append({"model": model, "seconds": seconds})

    def take(self) -> list[dict[str, Any]]:
        """Those since the last call."""
        taken, self._untold = self._untold, []
        return taken


class LeasedLifecycle(Lifecycle):
    """Ends with the runs the engine works for, when they release it, or after some time without work.

    `remove_socket` is called first at any end, so that the next client starts a server of its own.
    """

    def __init__(self, dispatcher: Dispatcher, options: ServerOptions, remove_socket: Callable[[], None]) -> None:
        super().__init__(dispatcher, options.start_timeout_s)
        self._idle_timeout_s = options.idle_timeout_s
        self._first_lease = options.lease
        self._remove_socket = remove_socket
        self._leases = LeaseWatch(asyncio.get_running_loop(), self._on_leases_gone)
        self._active = 0
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._last_use = time.monotonic()

    @asynccontextmanager
    async def lifespan(self, app: object) -> AsyncIterator[None]:
        """Run from the server's start to its end."""
        async with super().lifespan(app):
            self.hold(self._first_lease)
            yield

    @contextmanager
    def working(self) -> Iterator[None]:
        """Counts as work: the server waits for its end, and isn't idle meanwhile."""
        self._active += 1
        self._is_idle.clear()
        try:
            yield
        finally:
            self._active -= 1
            self._last_use = time.monotonic()
            if not self._active:
                self._is_idle.set()

    async def wait_idle(self) -> None:
        """Wait until there is no work."""
        await self._is_idle.wait()

    def hold(self, lease: str | None) -> None:
        """Live for the process with this lease too."""
        if lease and not self.is_ending:
            self._leases.add(lease)

    def release(self, lease: str | None) -> bool:
        """Live for this lease no longer; returns whether the server ends because no other one is left."""
        ends = self._leases.release(lease)
        if ends and not self.is_ending:
            self.end("its device is needed for another model", cancel=False)
        return ends

    def on_end(self) -> None:
        self._remove_socket()

    def on_ready(self) -> None:
        self._last_use = time.monotonic()
        self._check_idle()

    def _check_idle(self) -> None:
        if self.is_ending:
            return
        left = self._last_use + self._idle_timeout_s - time.monotonic()
        if self._active:
            left = self._idle_timeout_s
        if left <= 0:
            self.end(f"no work for {self._idle_timeout_s:g} s", cancel=False)
        else:
            asyncio.get_running_loop().call_later(left, self._check_idle)

    def _on_leases_gone(self) -> None:
        self.end("all runs it worked for have ended", cancel=True)


class FrameServer:
    """Answers clients at a listening socket. `model` is the dispatcher's only one; see `ServerOptions.device_name`."""

    def __init__(
        self, dispatcher: Dispatcher, lifecycle: LeasedLifecycle, model: str, device_name: str | None, loads: Loads
    ) -> None:
        self._dispatcher = dispatcher
        self._loads = loads
        self._lifecycle = lifecycle
        self._model = model
        self._device_name = device_name
        self._clients: set[asyncio.StreamWriter] = set()

    async def run(self, listener: socket.socket) -> None:
        """Serve until the lifecycle ends: then finish the work, and refuse the clients that have none yet."""
        ended = asyncio.Event()
        self._lifecycle.attach(ended.set)
        server = await asyncio.start_unix_server(self._serve_client, sock=listener, backlog=BACKLOG)
        await ended.wait()
        server.close()
        await self._lifecycle.wait_idle()
        refusal = BusyError("server", None, "is about to end", "send the request again")
        for client in self._clients:
            client.write(pack(_failure(refusal)))
            client.close()

    async def _serve_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one client's frames until either side closes the connection."""
        connection = cast(socket.socket, writer.get_extra_info("socket"))
        if not is_own_peer(connection):
            writer.transport.abort()
            return
        send_pictures_whole(connection)
        self._clients.add(writer)
        try:
            while (frame := await receive(reader, max_text=MAX_MESSAGE_BYTES, max_payload=MAX_FILES_BYTES)) is not None:
                with self._lifecycle.working():
                    answer = await _while_connected(reader, self._answer(*frame, writer))
                    for part in pack_files(*answer):
                        writer.write(part)
                    async with asyncio.timeout(_READ_TIMEOUT_S):
                        await writer.drain()
        except FrameError as error:
            logger.warning("a client was disconnected: it sent %s", error)
        except (ConnectionError, TimeoutError):
            writer.transport.abort()  # it has left, or doesn't read
        finally:
            self._clients.discard(writer)
            writer.close()

    async def _answer(
        self, message: Message, payload: bytes, writer: asyncio.StreamWriter
    ) -> tuple[Message, Mapping[str, bytes]]:
        """The answer to a frame; `writer` gets what is told before it. Raises FrameError for one that isn't in the table above."""
        files = read_files(message, payload)
        if files and message.get("op") != "render":
            raise FrameError("files that nothing asked for")
        try:
            match message:
                case {"op": "hello", "lease": str() | None as lease}:
                    self._lifecycle.hold(lease)
                    await self._wait_ready(writer)
                    return {"event": "ready", "loads": self._loads.take()}, NO_FILES
                case {
                    "op": "render",
                    "request": dict(),
                    "stages_done": int(),
                    "keep_latents": bool(),
                    "latents_at": list(),
                }:
                    rendered = await self._render(message, files)
                    about = {"facts": rendered.facts, "summary": rendered.summary}
                    used = self._dispatcher.engines[0].resources
                    return {"event": "picture", **about, "used": used}, rendered.files
                case {"op": "release", "lease": str() | None as lease}:
                    return {"event": "released", "ends": self._lifecycle.release(lease)}, NO_FILES
        except Exception as error:
            return _failure(error), NO_FILES
        raise FrameError("a message that is none of hello, render and release")

    async def _wait_ready(self, writer: asyncio.StreamWriter) -> None:
        """Wait until the model is loaded; until then tell the client how far that is."""
        waiting = asyncio.ensure_future(self._dispatcher.wait_ready())
        try:
            while not (await asyncio.wait({waiting}, timeout=_LOADING_EVERY_S))[0]:
                if read := self._dispatcher.read:
                    writer.write(pack({"event": "loading", "done": read[0], "total": read[1]}))
            await waiting
        finally:
            waiting.cancel()

    async def _render(self, message: Message, pictures: Mapping[str, bytes]) -> Rendered:
        """Render a request as it is: it was checked and completed when it was planned."""
        request, stages_done = RenderRequest.from_settings(message["request"]), message["stages_done"]
        check_pictures(request, pictures, stages_done)
        self._dispatcher.check_open()
        job = Job(
            self._model,
            request,
            wants_steps=False,
            pictures=pictures,
            stages_done=stages_done,
            keep_latents=message["keep_latents"],
            latents_at=message["latents_at"],
            checkpoint=message.get("checkpoint"),
            metadata=MetadataConfig.model_validate(message.get("metadata") or {}).model_dump(),
        )
        self._dispatcher.submit([job])
        try:
            rendered = await asyncio.shield(job.done)
        finally:
            self._dispatcher.give_up(job, CancellationError("picture", None, "nobody waits for it any more"))
        if self._device_name is not None:
            rendered = replace(rendered, facts=rendered.facts | {"device": self._device_name})
        logger.info("%s", rendered.summary)
        return rendered


def _failure(error: Exception) -> Message:
    return {"event": "failed", "error": as_error(error).as_dict()}


async def _while_connected(
    reader: asyncio.StreamReader, work: Coroutine[Any, Any, tuple[Message, Mapping[str, bytes]]]
) -> tuple[Message, Mapping[str, bytes]]:
    """The result of the work. If the client sends or closes anything meanwhile, cancels the work and raises.

    Raises ConnectionError if the client has left, FrameError if it has sent a byte too early, and what the work raises.
    """
    task, watch = asyncio.create_task(work), asyncio.create_task(reader.read(1))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if watch.done() and not watch.result():
            raise ConnectionResetError
        if watch.done():
            raise FrameError("a frame before the last one was answered")
        return task.result()
    finally:
        for each in (task, watch):
            each.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)
