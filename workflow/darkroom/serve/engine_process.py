"""An engine's process: `python -m darkroom.serve.engine_process`, started by the server for each device.

It has a process of its own so that a fault of the device, a crash of a library or the system's out-of-memory killer
costs one engine and no queue, and so that the server answers at once whatever the engine is doing. It is told what to
do over a socket pair (`channel`) and ends when that is closed.

    told                                    answers
    configure {models, device, …}
    load {model}                            loaded {model, …} or failed {model, error}
    render {id, model, request, …}          stage, step …, free; then picture (with the PNG), failed or cancelled
    cancel {id}                             whatever comes of that picture
"""

from __future__ import annotations

import argparse
import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from darkroom.errors import CudaError, DarkroomError, OutOfMemoryError
from darkroom.request.render_request import RenderRequest
from darkroom.serve.answers import as_error, collect_facts, encode_answer
from darkroom.serve.channel import Channel, Message
from darkroom.serve.engines import EngineOptions, Engines, Load, load_engine

logger = logging.getLogger(__name__)

EXIT_POISONED = 70


@dataclass(eq=False)
class Task:
    """One picture: its number, model and request, whether to tell of each step, and whether it is still wanted."""

    id: int
    model: str
    request: dict[str, Any]
    wants_steps: bool
    cancelled: threading.Event = field(default_factory=threading.Event)


class EngineProcess:
    """Takes up what it is told in one thread, renders in a second, and finishes pictures in a third.

    Thus a picture is encoded, and decoded too where the engine's stages may overlap, while the next one is being denoised.
    A picture that runs out of memory while another one was under way beside it is tried once more alone.
    """

    def __init__(self, channel: Channel, load: Load) -> None:
        self._channel = channel
        self._load = load
        self._engines: Engines | None = None
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._finisher = ThreadPoolExecutor(max_workers=1, thread_name_prefix="finisher")
        self._finishing: Future[None] | None = None
        self._tasks: dict[int, Task] = {}

    def run(self) -> None:
        """Do what is told until the server goes away, then leave at once."""
        threading.Thread(target=self._render_all, name="engine", daemon=True).start()
        while (frame := self._channel.receive()) is not None:
            self._take(frame[0])

    def _take(self, message: Message) -> None:
        match message["op"]:
            case "configure":
                self._engines = Engines(EngineOptions.from_message(message), self._load, self._wait_for_finishing)
            case "load":
                self._work.put(lambda: self._preload(message["model"]))
            case "render":
                task = Task(message["id"], message["model"], message["request"], message["wants_steps"])
                self._tasks[task.id] = task
                self._work.put(lambda: self._render(task))
            case "cancel":
                if message["id"] in self._tasks:
                    self._tasks[message["id"]].cancelled.set()

    def _render_all(self) -> None:
        with suppress(BrokenPipeError):  # the server has gone, which `run` sees too
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
        started = time.perf_counter()
        engine = self._engines.get(model)
        seconds = time.perf_counter() - started
        logger.info("loaded %s in %.1f s", model, seconds)
        self._channel.send({"event": "loaded", "model": model, "loaded": list(self._engines), "seconds": seconds})
        return engine

    def _render(self, task: Task) -> None:
        """Denoise a picture and hand it on; also tells the server that the next one may come."""
        from darkroom.engine import Cancelled

        try:
            engine = self._engine(task.model)
            denoised = self._denoise(engine, task)
        except Cancelled:
            self._drop({"event": "cancelled", "id": task.id})
        except Exception as error:
            self._fail({"id": task.id}, as_error(error))
        else:
            self._stage(task, "decoding")
            self._wait_for_finishing()  # at most one picture waits here: more would only hold memory
            if engine.overlaps:
                self._free(task)  # before its picture can be there: between the two the server would see no work
                self._finishing = self._finisher.submit(self._decode, task, engine, denoised)
                return
            self._decode(task, engine, denoised, is_alone=True)
        self._free(task)

    def _denoise(self, engine: Any, task: Task) -> Any:
        request = RenderRequest.model_validate(task.request)
        self._stage(task, "denoising")

        def on_step(step: int, steps: int) -> None:
            if task.wants_steps:
                self._channel.send({"event": "step", "id": task.id, "step": step, "steps": steps})

        was_shared = self._finishing is not None and not self._finishing.done()
        try:
            return engine.denoise(request, cancelled=task.cancelled.is_set, on_step=on_step)
        except OutOfMemoryError:
            if not was_shared:
                raise
        self._wait_for_finishing()
        return engine.denoise(request, cancelled=task.cancelled.is_set, on_step=on_step)

    def _decode(self, task: Task, engine: Any, denoised: Any, *, is_alone: bool = False) -> None:
        try:
            picture = engine.decode(denoised)
        except OutOfMemoryError as error:
            if is_alone:
                return self._fail({"id": task.id}, error)
            return self._work.put(lambda: self._decode(task, engine, denoised, is_alone=True))
        except Exception as error:
            return self._fail({"id": task.id}, as_error(error))
        if is_alone:  # in the engine's thread, which has the next picture to see to
            self._finishing = self._finisher.submit(self._encode, task, engine, picture)
            return None
        return self._encode(task, engine, picture)

    def _encode(self, task: Task, engine: Any, picture: Any) -> None:
        started = time.perf_counter()
        try:
            png = encode_answer(engine, picture)
            facts = {**collect_facts(picture), "png_s": time.perf_counter() - started}
        except Exception as error:
            return self._fail({"id": task.id}, as_error(error))
        return self._drop({"event": "picture", "id": task.id, "facts": facts, **memory_in_use(engine.device)}, png)

    def _wait_for_finishing(self) -> None:
        """Wait until no picture is being decoded or encoded."""
        if self._finishing is not None:
            self._finishing.result()

    def _free(self, task: Task) -> None:
        self._channel.send({"event": "free", "id": task.id})

    def _stage(self, task: Task, stage: str) -> None:
        self._channel.send({"event": "stage", "id": task.id, "stage": stage})

    def _drop(self, event: Message, payload: bytes = b"") -> None:
        self._tasks.pop(event.get("id", -1), None)
        self._channel.send(event, payload)

    def _fail(self, about: Message, error: DarkroomError) -> None:
        self._drop({"event": "failed", **about, "error": error.as_dict()})
        if isinstance(error, CudaError):
            logger.error("%s", error)
            leave(EXIT_POISONED)


def memory_in_use(device: str) -> dict[str, int]:
    """Bytes, for the metrics: what the process holds of the machine's memory (`rss`), and what is free on its device."""
    from darkroom.engine.devices import free_memory, resident_memory

    found = {"rss": resident_memory(), "free": free_memory(device)}
    return {name: size for name, size in found.items() if size is not None}


def main(arguments: Sequence[str] | None = None, load: Load = load_engine) -> None:
    """Serve one engine until the server goes away; never returns. `load` makes an engine of a model's files."""
    parser = argparse.ArgumentParser("python -m darkroom.serve.engine_process", description=__doc__)
    parser.add_argument("--channel", type=int, required=True, help="the descriptor of a connected socket")
    options = parser.parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the server drains first; its end closes the channel
    with suppress(OSError), Channel(socket.socket(fileno=options.channel)) as channel:
        EngineProcess(channel, load).run()
    leave(0)


def leave(code: int) -> None:
    """End the process now, whatever its threads are doing: a model that loads or renders can't be interrupted."""
    logging.shutdown()
    os._exit(code)


if __name__ == "__main__":
    main()
