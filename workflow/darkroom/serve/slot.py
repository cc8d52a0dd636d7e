"""One engine process as the server sees it: starts it, gives it pictures, hears of them, and starts it again if it dies."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol

from darkroom.errors import CudaError, DarkroomError, ServerDiedError, ServerError
from darkroom.serve import channel
from darkroom.serve.channel import ChannelBroken, Message
from darkroom.serve.engines import EngineOptions
from darkroom.serve.jobs import Job, Rendered

logger = logging.getLogger(__name__)

DEFAULT_COMMAND = (sys.executable, "-m", "darkroom.serve.engine_process")
MAX_DEATHS = 3
_PAUSES_S = (0.0, 1.0, 5.0)
_END_S = 2.0


class Owner(Protocol):
    """Who is told what becomes of a slot's engine."""

    def on_loaded(self, slot: Slot, model: str, seconds: float) -> None: ...
    def on_load_failed(self, slot: Slot, error: DarkroomError) -> None: ...
    def on_free(self, slot: Slot) -> None: ...
    def on_dropped(self, slot: Slot, job: Job) -> None: ...
    def on_picture(self, slot: Slot, job: Job, facts: dict[str, Any]) -> None: ...
    def on_death(self, slot: Slot, jobs: list[Job], error: DarkroomError) -> None: ...
    def on_broken(self, slot: Slot, error: DarkroomError) -> None: ...


class Slot:
    """An engine on one device.

    `loaded` are the models it holds, `pictures` counts what it has finished.
    An engine that dies three times in a row without finishing a picture is broken, and so is one that dies before it
    has loaded its first model.
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
        """Whether it can take a picture now; it may still be decoding the one before.

        One whose engine died before is made alone: should it have been to blame, no other dies with it again.
        """
        may_share = not any(job.attempts > 1 for job in self._jobs.values())
        return self._is_ready and self._denoising is None and may_share

    @property
    def is_idle(self) -> bool:
        """Whether it can take a picture now and has no other."""
        return self.is_free and not self._jobs

    def memory_in_use(self, kind: str) -> float:
        """Bytes that the engine last spoke of: `rss` that it holds, or `free` on its device; 0 before its first picture."""
        return float(self._memory.get(kind, 0))

    def render(self, job: Job) -> None:
        """Give it a picture; only when it is free."""
        job.attempts += 1
        self._jobs[job.id] = job
        self._denoising = job.id
        job.move_to("denoising" if job.model in self.loaded else "loading")
        request = job.request.model_dump(mode="json")
        wanted = {"id": job.id, "model": job.model, "request": request, "wants_steps": job.wants_steps}
        self._send({"op": "render", **wanted})

    def cancel(self, job: Job) -> None:
        """Give up a picture at its next step."""
        if job.id in self._jobs:
            self._send({"op": "cancel", "id": job.id})

    async def run(self) -> None:
        """Keep an engine running until cancelled or broken."""
        while not self.is_broken:
            code = 0
            try:
                code = await self._run_once()
            except (ChannelBroken, OSError) as error:
                self._failure = ServerError("engine on", self.device, str(error), "read its log")
            if not self.is_broken:
                await self._see_to_death(code)

    async def _run_once(self) -> int:
        """Start an engine and pass on what it says until it ends; its exit code.

        Raises OSError if it can't be started, and ChannelBroken for what isn't a frame.
        """
        ours, theirs = socket.socketpair()
        command = [*self._command, "--channel", str(theirs.fileno())]
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
            while not self.is_broken and (frame := await channel.receive(reader)) is not None:
                self._hear(*frame)
        finally:
            self._is_ready = False
            self._writer.close()  # which ends the engine
            self._writer = None
            code = await _wait_for_end(process)
        return code

    def _send(self, message: Message) -> None:
        if self._writer is not None:
            self._writer.write(channel.pack(message))

    def _hear(self, message: Message, payload: bytes) -> None:
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
            case "free":
                self._denoising = None
                self._owner.on_free(self)
            case "picture" if job is not None:
                self.pictures += 1
                self._deaths = 0
                self._memory = {name: message[name] for name in ("rss", "free") if name in message}
                self._drop(job).finish(Rendered(payload, message["facts"]))
                self._owner.on_picture(self, job, message["facts"])
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
            self._failure = error  # it dies of this, and the picture is not to blame
        else:
            self._drop(job).fail(error)

    async def _see_to_death(self, code: int) -> None:
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


async def _wait_for_end(process: asyncio.subprocess.Process) -> int:
    """The exit code of an engine that was told to end; negative for a signal."""
    try:
        return await asyncio.wait_for(process.wait(), _END_S)
    except TimeoutError:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)  # Process.kill would take its exit code away from `wait`
        return await process.wait()
