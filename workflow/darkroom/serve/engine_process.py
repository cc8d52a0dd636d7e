"""An engine's process, `python -m darkroom.serve.engine_process DESCRIPTOR`: started by the server for each device.

A process of its own means that a fault of the device, a crash of a library or the system's out-of-memory killer costs one
engine and not the queue, and that the server answers at once whatever the engine is doing. The descriptor is one end of a
socket pair with frames (see `frames`); the process ends when the other end is closed.

    received                                sent
    configure {models, device, …}
    load {model}                            loading {model, done, total} …, then loaded {model, …} or failed {model, error}
    render {id, model, request, …}          stage, step …, preview (with a PNG) …, free; then picture (with the PNG, and
    with the pictures' files                its latents if they are asked for), failed or cancelled
    batch {tasks}, each as of render        the same for each, by its id; all free together
    cancel {id}                             whatever comes of that picture
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from darkroom.base.logs import configure_log
from darkroom.base.text import format_percent, format_progress
from darkroom.config_output import MetadataConfig
from darkroom.engine.machine import machine_line
from darkroom.errors import ConfigError, CudaError, DarkroomError, OutOfMemoryError
from darkroom.request.render_request import RenderRequest
from darkroom.serve.answers import as_error, encode
from darkroom.serve.channel import Channel
from darkroom.serve.engines import EngineOptions, Engines, Load, load_engine
from darkroom.serve.frames import BEFORE, NO_FILES, Message, read_files

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger(__name__)

EXIT_POISONED = 70
_LOADING_EVERY_S = 2.0
_TASK = (
    "id",
    "model",
    "request",
    "wants_steps",
    "previews",
    "stages_done",
    "keep_latents",
    "latents_at",
    "checkpoint",
    "metadata",
)


@dataclass(eq=False)
class Task:
    """One picture to render, by the number of its job; see `supervisor.Job`. `cancelled` is set when it is given up."""

    id: int
    model: str
    request: dict[str, Any]
    wants_steps: bool
    previews: int
    stages_done: int
    keep_latents: bool
    latents_at: list[float]
    checkpoint: str | None
    metadata: dict[str, bool]
    pictures: dict[str, bytes]
    made_from: Future[str] | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)


class EngineProcess:
    """Receives messages in one thread, renders in a second, and finishes pictures in a third.

    So a picture is encoded while the next one is being denoised, and decoded too where the engine's stages may overlap.
    A picture that runs out of memory while another one is being finished is tried once more alone.
    """

    def __init__(self, channel: Channel, load: Load) -> None:
        self._channel = channel
        self._load = load
        self._engines: Engines | None = None
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._finisher = ThreadPoolExecutor(max_workers=1, thread_name_prefix="finisher")
        self._finishing: Future[None] | None = None
        self._tasks: dict[int, Task] = {}
        self._told = 0.0

    def run(self) -> None:
        """Handle messages until the server closes the channel."""
        threading.Thread(target=self._render_all, name="engine", daemon=True).start()
        while (frame := self._channel.receive()) is not None:
            self._handle(*frame)

    def _handle(self, message: Message, payload: bytes) -> None:
        match message["op"]:
            case "configure":
                options = EngineOptions.from_message(message)
                logger.info("%s", machine_line(options.device))
                self._engines = Engines(options, self._load, self._wait_for_finishing, self._on_read)
            case "load":
                self._work.put(lambda: self._preload(message["model"]))
            case "render":
                task = self._take(message, read_files(message, payload))
                if (
                    BEFORE in task.pictures
                ):  # hashed while the engine works; nothing that waits for it is finished before it
                    task.made_from = self._finisher.submit(_hash, task.pictures[BEFORE])
                self._work.put(lambda: self._render(task))
            case "batch":
                tasks = [self._take(each) for each in message["tasks"]]
                self._work.put(lambda: self._render_together(tasks))
            case "cancel":
                if message["id"] in self._tasks:
                    self._tasks[message["id"]].cancelled.set()

    def _take(self, message: Mapping[str, Any], pictures: dict[str, bytes] | None = None) -> Task:
        task = Task(**{key: message[key] for key in _TASK}, pictures=pictures or {})
        self._tasks[task.id] = task
        return task

    def _render_all(self) -> None:
        with suppress(BrokenPipeError):  # the server has closed the channel, which ends `run` too
            while True:
                self._work.get()()

    def _preload(self, model: str) -> None:
        try:
            self._engine(model)
        except Exception as error:
            self._fail({"model": model}, as_error(error))

    def _engine(self, model: str) -> Any:
        assert self._engines is not None
        if model in self._engines:
            return self._engines.get(model)
        logger.info("loading %s", model)
        started = self._told = time.perf_counter()
        engine = self._engines.get(model)
        seconds = time.perf_counter() - started
        logger.info("loaded %s in %.1f s", model, seconds)
        self._channel.send({"event": "loaded", "model": model, "loaded": list(self._engines), "seconds": seconds})
        return engine

    def _on_read(self, model: str, done: int, total: int) -> None:
        """Tell how far loading a model is, now and then."""
        now = time.perf_counter()
        if now - self._told >= _LOADING_EVERY_S:
            self._told = now
            logger.info("loading %s: %s, %s", model, format_percent(done, total), format_progress(done, total))
            self._channel.send({"event": "loading", "model": model, "done": done, "total": total})

    def _render(self, task: Task) -> None:
        """Denoise a picture and hand it on; then tell the server that the engine is free."""
        from darkroom.engine import Cancelled

        try:
            engine = self._engine(task.model)
            denoised = self._denoise(engine, task)
        except Cancelled:
            self._cancel(task)
        except Exception as error:
            self._fail({"id": task.id}, as_error(error))
        else:
            return self._finish(engine, [(task, denoised)], [task])
        self._free(task)
        return None

    def _render_together(self, tasks: list[Task]) -> None:
        """Denoise pictures together, as many at a time as there is room for, and hand them on."""
        try:
            engine = self._engine(tasks[0].model)
        except Exception as error:
            for task in tasks:
                self._fail({"id": task.id}, as_error(error))
                self._free(task)
            return
        most = engine.largest_batch(RenderRequest.model_validate(tasks[0].request))
        if most < len(tasks):
            logger.info("%d pictures at a time, not %d: %s has no room for more", most, len(tasks), engine.device)
        for start in range(0, len(tasks), most):
            group = tasks[start : start + most]
            if len(group) == 1:
                self._render(*group)
            else:
                self._render_group(engine, group)

    def _render_group(self, engine: Any, tasks: list[Task]) -> None:
        from darkroom.engine import Cancelled, Wanted

        wanted = []
        for task in tasks:
            self._stage(task, "denoising")
            wanted.append(Wanted(RenderRequest.model_validate(task.request), **self._watch(task)))
        try:
            outcomes = engine.denoise_together(wanted, lambda number: self._cancel(tasks[number]))
        except OutOfMemoryError as error:
            logger.warning("%d pictures together: %s. Each is made alone.", len(tasks), error.why)
            self._wait_for_finishing()
            for task in tasks:
                if task.id in self._tasks:
                    self._render(task)
                else:
                    self._free(task)  # it was given up on the way
            return
        except Exception as error:
            outcomes = [as_error(error) if task.id in self._tasks else Cancelled() for task in tasks]
        made = []
        for task, outcome in zip(tasks, outcomes, strict=True):
            if isinstance(outcome, DarkroomError):
                self._fail({"id": task.id}, outcome)
            elif not isinstance(outcome, Cancelled):
                made.append((task, outcome))
        self._finish(engine, made, tasks)

    def _finish(self, engine: Any, made: list[tuple[Task, Any]], tasks: list[Task]) -> None:
        """Decode and send what was denoised, and tell that `tasks` no longer keep the engine from the next."""
        for task, _ in made:
            self._stage(task, "decoding")
        self._wait_for_finishing()  # more waiting pictures than those of one batch would only hold memory
        if made and engine.overlaps(made[0][1]):
            for task in tasks:
                self._free(task)  # before its picture is sent: between the two the server would see no work
            self._finishing = self._finisher.submit(self._decode_all, engine, made)
            return
        for task, denoised in made:
            self._decode(task, engine, denoised, is_alone=True)
        for task in tasks:
            self._free(task)

    def _decode_all(self, engine: Any, made: list[tuple[Task, Any]]) -> None:
        for task, denoised in made:
            self._decode(task, engine, denoised)

    def _watch(self, task: Task) -> dict[str, Any]:
        """How a picture's progress is told, its previews are shown and it is given up."""
        from darkroom.engine import Previews

        def on_step(step: int, steps: int) -> None:
            if task.wants_steps:
                self._channel.send({"event": "step", "id": task.id, "step": step, "steps": steps})

        def on_preview(image: Image) -> None:
            buffer = io.BytesIO()
            image.save(buffer, "PNG", compress_level=1)
            self._channel.send({"event": "preview", "id": task.id}, buffer.getvalue())

        previews = Previews(task.previews, on_preview) if task.previews else None
        return {"cancelled": task.cancelled.is_set, "on_step": on_step, "previews": previews}

    def _denoise(self, engine: Any, task: Task) -> Any:
        request = RenderRequest.model_validate(task.request)
        self._stage(task, "denoising")

        def denoise() -> Any:
            return engine.denoise(request, **self._watch(task), **_inputs(task))

        was_shared = self._finishing is not None and not self._finishing.done()
        try:
            return denoise()
        except OutOfMemoryError:
            if not was_shared:
                raise
        self._wait_for_finishing()
        return denoise()

    def _decode(self, task: Task, engine: Any, denoised: Any, *, is_alone: bool = False) -> None:
        try:
            picture = engine.decode(denoised)
        except OutOfMemoryError as error:
            if is_alone:
                return self._fail({"id": task.id}, error)
            return self._work.put(lambda: self._decode(task, engine, denoised, is_alone=True))
        except Exception as error:
            return self._fail({"id": task.id}, as_error(error))
        if is_alone:  # this is the engine's thread, which is needed for the next picture
            self._finishing = self._finisher.submit(self._encode, task, engine, picture)
            return None
        return self._encode(task, engine, picture)

    def _encode(self, task: Task, engine: Any, picture: Any) -> None:
        started = time.perf_counter()
        try:
            made_from = None if task.made_from is None else task.made_from.result()
            metadata = MetadataConfig.model_validate(task.metadata)
            rendered = encode(picture, made_from, metadata=metadata, files=task.pictures)
        except Exception as error:
            return self._fail({"id": task.id}, as_error(error))
        facts = {**rendered.facts, "png_s": time.perf_counter() - started}
        event = {"event": "picture", "id": task.id, "facts": facts, "infotext": rendered.infotext}
        return self._drop({**event, "used": resources_in_use(engine.device)}, rendered.files)

    def _wait_for_finishing(self) -> None:
        """Wait until no picture is being decoded or encoded."""
        if self._finishing is not None:
            self._finishing.result()

    def _free(self, task: Task) -> None:
        self._channel.send({"event": "free", "id": task.id})

    def _stage(self, task: Task, stage: str) -> None:
        self._channel.send({"event": "stage", "id": task.id, "stage": stage})

    def _drop(self, event: Message, files: Mapping[str, bytes] = NO_FILES) -> None:
        self._tasks.pop(event.get("id", -1), None)
        self._channel.send_files(event, files)

    def _cancel(self, task: Task) -> None:
        self._drop({"event": "cancelled", "id": task.id})

    def _fail(self, about: Message, error: DarkroomError) -> None:
        self._drop({"event": "failed", **about, "error": error.as_dict()})
        if isinstance(error, CudaError | ConfigError):  # a fault of the device, or one that can't be used any more
            logger.error("%s", error)
            leave(EXIT_POISONED)


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _inputs(task: Task) -> dict[str, Any]:
    """What a chain of stages needs beside its request; nothing for a picture of a prompt."""
    inputs = {"pictures": task.pictures, "stages_done": task.stages_done, "keep_latents": task.keep_latents}
    inputs |= {"latents_at": task.latents_at, "checkpoint": task.checkpoint}
    return {name: value for name, value in inputs.items() if value}


def resources_in_use(device: str) -> dict[str, Any]:
    """For the metrics and a run's numbers, in bytes: the process's memory (`rss`, and the most so far, `peak_rss`), what is free
    on its device (`free`) and the most that it has held there (`peak_device`); `gpu` is the UUID of a GPU."""
    from darkroom.engine.devices import free_memory, gpu_uuid, peak_device_memory, peak_memory, resident_memory

    found = {
        "rss": resident_memory(),
        "free": free_memory(device),
        "peak_rss": peak_memory(),
        "peak_device": peak_device_memory(device),
        "gpu": gpu_uuid(device),
    }
    return {name: value for name, value in found.items() if value is not None}


def main(load: Load = load_engine) -> None:
    """Serve one engine until the server closes the channel; never returns. `load` makes an engine of a model's files."""
    descriptor = int(sys.argv[1])
    configure_log()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the server drains first, then closes the channel
    with suppress(OSError), Channel(socket.socket(fileno=descriptor)) as channel:
        EngineProcess(channel, load).run()
    leave(0)


def leave(code: int) -> None:
    """End the process now: a thread that loads or renders can't be interrupted."""
    logging.shutdown()
    os._exit(code)


if __name__ == "__main__":
    main()
