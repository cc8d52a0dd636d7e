"""One engine process as the server sees it: started, given jobs, listened to, and started again after it has died."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from darkroom.errors import CudaError, DarkroomError, ServerDiedError, ServerError
from darkroom.request.render_request import RenderRequest
from darkroom.serve.answers import Rendered
from darkroom.serve.channel import receive
from darkroom.serve.engines import EngineOptions
from darkroom.serve.frames import FrameError, Message, pack

logger = logging.getLogger(__name__)

DEFAULT_COMMAND = (sys.executable, "-m", "darkroom.serve.engine_process")
MAX_DEATHS = 3
_PAUSES_S = (0.0, 1.0, 5.0)
_END_S = 2.0
_NUMBERS = itertools.count(1)


@dataclass(eq=False, slots=True)
class Job:
    """One picture on its way through the queue and an engine.

    `stage` is waiting, loading, denoising or decoding; `on_change` is called at each change of it and, with `wants_steps`,
    after each denoising step (reporting a step takes time from a small model's threads). `on_preview` is called with each of
    at most `previews` PNGs of how the picture looks so far. `done` is settled exactly once.
    """

    model: str
    request: RenderRequest
    on_change: Callable[[], None] = lambda: None
    wants_steps: bool = True
    previews: int = 0
    on_preview: Callable[[bytes], None] = lambda _: None
    id: int = field(default_factory=lambda: next(_NUMBERS))
    done: asyncio.Future[Rendered] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    stage: str = "waiting"
    step: int = 0
    attempts: int = 0
    overtaken: int = 0
    queued: float = field(default_factory=time.perf_counter)

    @property
    def is_over(self) -> bool:
        """Whether it has been answered or given up."""
        return self.done.done()

    def waited(self) -> float:
        """Seconds since it was queued."""
        return time.perf_counter() - self.queued

    def move_to(self, stage: str, step: int = 0) -> None:
        """Note how far it is."""
        self.stage, self.step = stage, step
        self.on_change()

    def finish(self, rendered: Rendered) -> None:
        """Answer it with its picture, unless it is over."""
        if not self.is_over:
            self.done.set_result(rendered)

    def fail(self, error: DarkroomError) -> None:
        """Answer it with an error, unless it is over."""
        if not self.is_over:
            self.done.set_exception(error)
            self.done.exception()  # marks it as read: the one who waited may have left


class Owner(Protocol):
    """What a supervisor calls when something has happened to its engine or to a job."""

    def on_loaded(self, engine: Supervisor, model: str, seconds: float) -> None: ...
    def on_load_failed(self, engine: Supervisor, error: DarkroomError) -> None: ...
    def on_free(self, engine: Supervisor) -> None: ...
    def on_dropped(self, engine: Supervisor, job: Job) -> None: ...
    def on_picture(self, engine: Supervisor, job: Job, rendered: Rendered) -> None: ...
    def on_death(self, engine: Supervisor, jobs: list[Job], error: DarkroomError) -> None: ...
    def on_broken(self, engine: Supervisor, error: DarkroomError) -> None: ...


class Supervisor:
    """Keeps an engine running on one device.

    `loaded` names the models in its memory, `pictures` counts the pictures it has finished. An engine is broken, and isn't
    started again, if it dies more than three times in a row without finishing a picture, or before it has loaded its
    first model.
    """

    def __init__(
        self, number: int, options: EngineOptions, first_model: str, owner: Owner, command: Sequence[str]
    ) -> None:
        self.number = number
        self.device = options.device
        self.loaded: list[str] = []
        self.pictures = 0
        self.is_broken = False
        self._options = options
        self._first_model = first_model
        self._owner = owner
        self._command = command
        self._writer: asyncio.StreamWriter | None = None
        self._jobs: dict[int, Job] = {}
        self._denoising: int | None = None
        self._is_ready = self._was_ready = False
        self._deaths = 0
        self._failure: DarkroomError | None = None
        self._memory: dict[str, int] = {}

    @property
    def is_free(self) -> bool:
        """Whether it can take a job now; it may still be decoding the previous picture.

        A job that has already lost an engine is rendered alone, so that no other job can die with it again.
        """
        may_share = not any(job.attempts > 1 for job in self._jobs.values())
        return self._is_ready and self._denoising is None and may_share

    @property
    def is_idle(self) -> bool:
        """Whether it can take a job now and has no other."""
        return self.is_free and not self._jobs

    def memory_in_use(self, kind: str) -> float:
        """Bytes as of the last picture: `rss` is the engine's own memory, `free` is free on its device; 0 before the first."""
        return float(self._memory.get(kind, 0))

    def render(self, job: Job) -> None:
        """Give it a job; only when it is free."""
        job.attempts += 1
        self._jobs[job.id] = job
        self._denoising = job.id
        job.move_to("denoising" if job.model in self.loaded else "loading")
        request = job.request.model_dump(mode="json")
        wishes = {"wants_steps": job.wants_steps, "previews": job.previews}
        self._send({"op": "render", "id": job.id, "model": job.model, "request": request, **wishes})

    def cancel(self, job: Job) -> None:
        """Stop a job at its next step."""
        if job.id in self._jobs:
            self._send({"op": "cancel", "id": job.id})

    async def run(self) -> None:
        """Keep an engine running until cancelled or broken."""
        while not self.is_broken:
            code = 0
            try:
                code = await self._run_once()
            except (FrameError, OSError) as error:
                self._failure = ServerError("engine on", self.device, str(error), "read its log")
            if not self.is_broken:
                await self._handle_death(code)

    async def _run_once(self) -> int:
        """Start an engine and handle its messages until it ends; returns its exit code.

        Raises OSError if it can't be started, FrameError if it sends something that isn't a frame.
        """
        ours, theirs = socket.socketpair()
        command = [*self._command, str(theirs.fileno())]
        with theirs:
            try:
                process = await asyncio.create_subprocess_exec(
                    *command, stdin=asyncio.subprocess.DEVNULL, pass_fds=(theirs.fileno(),)
                )
            except OSError:
                ours.close()
                raise
        reader, self._writer = await asyncio.open_connection(sock=ours)
        try:
            self._send({"op": "configure", **self._options.as_message()})
            self._send({"op": "load", "model": self._first_model})
            while not self.is_broken and (frame := await receive(reader)) is not None:
                self._handle(*frame)
        finally:
            self._is_ready = False
            self._writer.close()  # which ends the engine
            self._writer = None
            code = await _wait_for_end(process)
        return code

    def _send(self, message: Message) -> None:
        if self._writer is not None:
            self._writer.write(pack(message))

    def _handle(self, message: Message, payload: bytes) -> None:
        job = self._jobs.get(message.get("id", 0))
        match message["event"]:
            case "loaded":
                self.loaded, self._is_ready, self._was_ready = message["loaded"], True, True
                self._owner.on_loaded(self, message["model"], message["seconds"])
            case "failed" if job is None:
                self._is_ready, self.is_broken = self._was_ready, not self._was_ready
                self._owner.on_load_failed(self, DarkroomError.from_dict(message["error"]))
            case "stage" if job is not None:
                job.move_to(message["stage"])
            case "step" if job is not None:
                job.move_to("denoising", message["step"])
            case "preview" if job is not None:
                job.on_preview(payload)
            case "free":
                self._denoising = None
                self._owner.on_free(self)
            case "picture" if job is not None:
                self.pictures += 1
                self._deaths = 0
                self._memory = {name: message[name] for name in ("rss", "free") if name in message}
                rendered = _read_picture(job, message, payload)
                self._drop(job).finish(rendered)
                self._owner.on_picture(self, job, rendered)
            case "failed" if job is not None:
                self._fail(job, DarkroomError.from_dict(message["error"]))
            case "cancelled" if job is not None:
                self._drop(job)

    def _drop(self, job: Job) -> Job:
        del self._jobs[job.id]
        self._owner.on_dropped(self, job)
        return job

    def _fail(self, job: Job, error: DarkroomError) -> None:
        if isinstance(error, CudaError):
            self._failure = error  # the engine dies of it, and the job is tried again
        else:
            self._drop(job).fail(error)

    async def _handle_death(self, code: int) -> None:
        error = self._failure or self._describe_death(code)
        jobs, self._jobs = list(self._jobs.values()), {}
        self.loaded, self._denoising, self._failure = [], None, None
        self._deaths += 1
        self.is_broken = not self._was_ready or self._deaths > MAX_DEATHS
        logger.error("the engine on %s died: %s", self.device, error)
        self._owner.on_death(self, jobs, error)
        if self.is_broken:
            self._owner.on_broken(self, error)
        else:
            await asyncio.sleep(_PAUSES_S[min(self._deaths, len(_PAUSES_S)) - 1])

    def _describe_death(self, code: int) -> DarkroomError:
        why = f"its process ended with {'signal' if code < 0 else 'exit code'} {abs(code)}"
        if not self.loaded:
            return ServerError("engine on", self.device, f"{why} while it was loading the model", "read its log")
        return ServerDiedError("engine on", self.device, why, "read its log; out of memory is the usual reason")


def _read_picture(job: Job, message: Message, png: bytes) -> Rendered:
    facts = message["facts"]
    warnings = tuple(facts["warnings"])
    return Rendered(png, job.request, message["infotext"], facts, warnings, job.model, facts["model_hash"])


async def _wait_for_end(process: asyncio.subprocess.Process) -> int:
    """The exit code of an engine whose channel is closed; negative for a signal."""
    try:
        return await asyncio.wait_for(process.wait(), _END_S)
    except TimeoutError:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)  # Process.kill would take its exit code away from `wait`
        return await process.wait()
