"""One engine process as the server sees it: started, given jobs, listened to, and started again after it has died."""

from __future__ import annotations

import asyncio
import errno
import itertools
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from darkroom.base.sockets import send_pictures_whole
from darkroom.engine.machine import waiting_of_threads
from darkroom.errors import ConfigError, CudaError, DarkroomError, ServerDiedError, ServerError
from darkroom.request.render_request import RenderRequest
from darkroom.serve.answers import Rendered
from darkroom.serve.channel import receive
from darkroom.serve.engines import EngineOptions
from darkroom.serve.frames import BEFORE, NO_FILES, FrameError, Message, pack_files, read_files
from darkroom.serve.limits import count_steps

logger = logging.getLogger(__name__)

DEFAULT_COMMAND = (sys.executable, "-m", "darkroom.serve.engine_process")
MAX_DEATHS = 3
_PAUSES_S = (0.0, 1.0, 5.0)
_END_S = 2.0
_KILLED_S = 30.0
_SLOW_S = 5.0
"""After how long without a reaction to a cancellation an engine no longer counts as ready."""
_LOAD = 0
"""The key of the time limit on loading, among those on jobs, which have their numbers."""
_OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
_RETRY_S = 1.0
_NUMBERS = itertools.count(1)
_PLAIN = ("id", "model", "wants_steps", "previews", "stages_done", "keep_latents", "latents_at", "checkpoint")


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds after which an engine counts as hung, and is killed: while it loads a model, and after a job is cancelled."""

    load_s: float = 900.0
    cancel_s: float = 60.0


DEFAULT_LIMITS = Limits()


@dataclass(eq=False, slots=True)
class Job:
    """One picture on its way through the queue and an engine.

    `stage` is waiting, loading, denoising or decoding; `on_change` is called when it changes and, with `wants_steps`, after each
    step (reporting one takes time from a small model's threads). `steps` are those of all stages until the engine says how often
    it calls the model. At most `previews` PNGs of how the picture looks go to `on_preview`; `Engine.denoise` says what the next five are.
    """

    model: str
    request: RenderRequest
    on_change: Callable[[], None] = lambda: None
    wants_steps: bool = True
    previews: int = 0
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    stages_done: int = 0
    keep_latents: bool = False
    latents_at: Sequence[float] = ()
    checkpoint: str | None = None
    metadata: Mapping[str, bool] = field(default_factory=dict)
    on_preview: Callable[[bytes], None] = lambda _: None
    id: int = field(default_factory=lambda: next(_NUMBERS))
    done: asyncio.Future[Rendered] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    stage: str = "waiting"
    step: int = 0
    steps: int = field(init=False)
    attempts: int = 0
    overtaken: int = 0
    queued: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self.steps = count_steps(self.request, self.stages_done, is_first_done=BEFORE in self.pictures)

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

    `loaded` names the models in its memory, `pictures` counts the pictures it has finished, `resources` are those in use at the
    last one (see `engine_process`); `read` are the bytes of a model that have been read and those there are, while it is loaded. An engine is broken, and isn't
    started again, if it dies more than three times in a row without finishing a picture, before it has loaded its
    first model, or if its device can't be used, whichever model it loads. One that doesn't react within its limits is killed, which counts as a death.
    """

    def __init__(
        self,
        number: int,
        options: EngineOptions,
        first_model: str,
        owner: Owner,
        command: Sequence[str],
        limits: Limits,
    ) -> None:
        self.number = number
        self.device = options.device
        self.loaded: list[str] = []
        self.pictures = 0
        self.is_broken = False
        self.read: tuple[int, int] | None = None
        self._options = options
        self._first_model = first_model
        self._owner = owner
        self._command = command
        self._limits = limits
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._jobs: dict[int, Job] = {}
        self._denoising: set[int] = set()
        self._is_ready = self._was_ready = self._is_out = False
        self._deaths = 0
        self._failure: DarkroomError | None = None
        self.resources: Mapping[str, Any] = {}

    @property
    def is_free(self) -> bool:
        """Whether it can take a job now; it may still be decoding the previous picture.

        A job that has already lost an engine is rendered alone, so that no other job can die with it again.
        """
        may_share = not any(job.attempts > 1 for job in self._jobs.values())
        return self._is_ready and not self._denoising and may_share

    @property
    def is_idle(self) -> bool:
        """Whether it can take a job now and has no other."""
        return self.is_free and not self._jobs

    @property
    def state(self) -> str:
        """What it does now: starting, idle, loading, rendering, cancelling, hung or broken."""
        if self.is_broken:
            return "broken"
        if not self._is_ready or not self.loaded:
            return "starting"
        if given_up := [self._timers[job.id].when() for job in self._jobs.values() if job.id in self._timers]:
            since = asyncio.get_running_loop().time() - (min(given_up) - self._limits.cancel_s)
            return "hung" if since > _SLOW_S else "cancelling"
        if not self._jobs:
            return "idle"
        return "loading" if any(job.stage == "loading" for job in self._jobs.values()) else "rendering"

    def memory_in_use(self, kind: str) -> float:
        """Bytes as of the last picture: `rss` is the engine's own memory, `free` is free on its device; 0 before the first."""
        return float(self.resources.get(kind, 0))

    def render(self, *jobs: Job) -> None:
        """Give it a job, or several of one model and without pictures to denoise together; only when it is free."""
        model = jobs[0].model
        if model not in self.loaded:
            self._expect_load()
        tasks = []
        for job in jobs:
            job.attempts += 1
            self._jobs[job.id] = job
            self._denoising.add(job.id)
            job.move_to("denoising" if model in self.loaded else "loading")
            plain = {"metadata": job.metadata, **{name: getattr(job, name) for name in _PLAIN}}
            tasks.append({"request": job.request.model_dump(mode="json"), **plain})
        message = {"op": "render", **tasks[0]} if len(jobs) == 1 else {"op": "batch", "tasks": tasks}
        self._send(message, jobs[0].pictures)

    def cancel(self, job: Job) -> None:
        """Stop a job at its next step, which has to come within the limit; loading a model has a limit of its own."""
        if job.id in self._jobs:
            self._send({"op": "cancel", "id": job.id})
            if job.stage != "loading":
                self._expect_end(job)

    async def run(self) -> None:
        """Keep an engine running until cancelled or broken."""
        while not self.is_broken:
            code = 0
            try:
                code = await self._run_once()
            except TimeoutError:  # of the kernel: a driver that hangs; a second engine would fight it for the device
                self._failure = ServerError("engine on", self.device, "can't be killed", "restart the machine")
                self._was_ready = False
            except (FrameError, OSError) as error:
                if isinstance(error, OSError) and error.errno in _OUT_OF_DESCRIPTORS:
                    await self._wait_for_descriptors(error)
                    continue
                self._failure = ServerError("engine on", self.device, str(error), "read its log")
            if not self.is_broken:
                await self._handle_death(code)

    async def _run_once(self) -> int:
        """Start an engine and handle its messages until it ends; returns its exit code.

        Raises OSError if it can't be started, FrameError if it sends something that isn't a frame.
        """
        ours, theirs = socket.socketpair()
        send_pictures_whole(ours, theirs)
        command = [*self._command, str(theirs.fileno())]
        with theirs:
            try:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    env={**waiting_of_threads(), **os.environ},
                )
            except OSError:
                ours.close()
                raise
        self._process, self._is_out = process, False
        reader, self._writer = await asyncio.open_connection(sock=ours)
        try:
            self._expect_load()
            self._send({"op": "configure", **self._options.as_message()})
            self._send({"op": "load", "model": self._first_model})
            while not self.is_broken and (frame := await receive(reader)) is not None:
                self._handle(*frame)
        finally:
            self._is_ready = False
            for key in list(self._timers):
                self._expect_no_more(key)
            self._writer.close()  # which ends the engine
            self._writer = None
            code = await _wait_for_end(process)
        return code

    def _send(self, message: Message, files: Mapping[str, bytes] = NO_FILES) -> None:
        if self._writer is not None:
            self._writer.writelines(pack_files(message, files))

    async def _wait_for_descriptors(self, error: OSError) -> None:
        """An engine that could not even be started has not died: clients hold all descriptors for now."""
        if not self._is_out:
            logger.warning("the engine on %s can't be started yet: %s", self.device, error.strerror)
        self._is_out = True
        await asyncio.sleep(_RETRY_S)

    def _expect_load(self) -> None:
        why = f"has not loaded its model after {self._limits.load_s:g} s"
        self._expect(_LOAD, self._limits.load_s, why, "raise engine.start_timeout_s in the config")

    def _expect_end(self, job: Job) -> None:
        why = f"did not stop a picture within {self._limits.cancel_s:g} s"
        hint = "a hanging device is the usual reason; where one step takes longer, raise serve.cancel_timeout_s"
        self._expect(job.id, self._limits.cancel_s, why, hint)

    def _expect(self, key: int, seconds: float, why: str, hint: str) -> None:
        """Kill the engine after so many seconds unless `_expect_no_more` is called before."""
        if key not in self._timers:
            error = ServerDiedError("engine on", self.device, f"it {why}, and was killed", hint)
            self._timers[key] = asyncio.get_running_loop().call_later(seconds, self._kill, error)

    def _expect_no_more(self, key: int) -> None:
        if timer := self._timers.pop(key, None):
            timer.cancel()

    def _kill(self, error: DarkroomError) -> None:
        self._failure = error
        if self._process is not None and self._writer is not None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)  # also ends a stopped process
            self._writer.transport.abort()

    def _handle(self, message: Message, payload: bytes) -> None:
        job = self._jobs.get(message.get("id", 0))
        match message["event"]:
            case "loaded":
                self._expect_no_more(_LOAD)
                self.read = None
                self.loaded, self._is_ready, self._was_ready = message["loaded"], True, True
                self._owner.on_loaded(self, message["model"], message["seconds"])
            case "loading":
                self.read = (message["done"], message["total"])
                for waiting in self._jobs.values():
                    if waiting.stage == "loading":
                        waiting.on_change()
            case "failed" if job is None:
                self._expect_no_more(_LOAD)
                error = DarkroomError.from_dict(message["error"])
                self.is_broken = not self._was_ready or isinstance(error, ConfigError)  # its device would fail all jobs
                self._is_ready = not self.is_broken
                self._owner.on_load_failed(self, error)
            case "stage" if job is not None:
                job.move_to(message["stage"])
                if job.is_over:  # given up while its model was loaded
                    self._expect_end(job)
            case "step" if job is not None:
                job.steps = message["steps"]
                job.move_to("denoising", message["step"])
            case "preview" if job is not None:
                job.on_preview(payload)
            case "free":
                self._denoising.discard(message["id"])
                self._owner.on_free(self)
            case "picture" if job is not None:
                self.pictures += 1
                self._deaths = 0
                self.resources = message["used"]
                rendered = Rendered.from_message(message, read_files(message, payload), job.request, job.model)
                self._drop(job).finish(rendered)
                self._owner.on_picture(self, job, rendered)
            case "failed" if job is not None:
                self._fail(job, DarkroomError.from_dict(message["error"]))
            case "cancelled" if job is not None:
                self._drop(job)

    def _drop(self, job: Job) -> Job:
        del self._jobs[job.id]
        self._expect_no_more(job.id)
        self._owner.on_dropped(self, job)
        return job

    def _fail(self, job: Job, error: DarkroomError) -> None:
        if job.stage == "loading":
            self._expect_no_more(_LOAD)
        if isinstance(error, CudaError | ConfigError):  # of the device: no picture can be made there now
            self._failure = error  # the engine dies of it, and the job is tried again
        else:
            self._drop(job).fail(error)

    async def _handle_death(self, code: int) -> None:
        error = self._failure or self._describe_death(code)
        jobs, self._jobs = list(self._jobs.values()), {}
        self.loaded, self._failure = [], None
        self._denoising.clear()
        self._deaths += 1
        self.is_broken = not self._was_ready or self._deaths > MAX_DEATHS or isinstance(error, ConfigError)
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


async def _wait_for_end(process: asyncio.subprocess.Process) -> int:
    """The exit code of an engine whose channel is closed; negative for a signal.

    Raises TimeoutError if not even SIGKILL ends it.
    """
    try:
        return await asyncio.wait_for(process.wait(), _END_S)
    except TimeoutError:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)  # Process.kill would take its exit code away from `wait`
        return await asyncio.wait_for(process.wait(), _KILLED_S)
