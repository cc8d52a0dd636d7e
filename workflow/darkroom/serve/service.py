"""What every interface is an adapter over: settings in, pictures out, by one queue and the engines behind it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darkroom.config import ServeConfig
from darkroom.engine.library import Library
from darkroom.errors import BusyError, CancellationError, DarkroomError, DeadlineError
from darkroom.request.assets import AssetNames, settle
from darkroom.request.render_request import RenderRequest
from darkroom.serve.dispatcher import Dispatcher
from darkroom.serve.jobs import Job, check_count, check_limits
from darkroom.serve.metrics import Metrics
from darkroom.serve.models import Model, Models
from darkroom.serve.result_cache import FinishedPictures, KeptPictures
from darkroom.sheets.settings import unfold
from darkroom.warm.summary import summarise


@dataclass(frozen=True, slots=True)
class Picture:
    """A finished picture.

    `png` holds its metadata, `facts` is JSON-ready (`answers.collect_facts`), `request` what it was made from, and
    `is_cached` says that results/ held it already; there are no facts of making it then.
    """

    png: bytes
    facts: dict[str, Any]
    request: RenderRequest
    model: str
    model_hash: str | None
    is_cached: bool


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a batch is.

    `stage` is waiting, loading, denoising or decoding; `picture` of `pictures` (from 0) is under way at `step` of
    `steps`, with `waiting` others before it in the queue. `started` is `time.time()` when the batch was accepted.
    """

    stage: str
    picture: int
    pictures: int
    step: int
    steps: int
    waiting: int
    started: float


class Batch:
    """The pictures of one request that have to be rendered."""

    def __init__(self, jobs: Sequence[Job], dispatcher: Dispatcher) -> None:
        self.jobs = jobs
        self.started = time.time()
        self._dispatcher = dispatcher

    @property
    def progress(self) -> Progress:
        open_jobs = [job for job in self.jobs if not job.is_over] or [self.jobs[-1]]
        job = next((job for job in open_jobs if job.stage != "waiting"), open_jobs[0])
        number, ahead = self.jobs.index(job), self._dispatcher.ahead_of(job)
        return Progress(job.stage, number, len(self.jobs), job.step, job.request.steps, ahead, self.started)


logger = logging.getLogger(__name__)


class Service:
    """Models, a queue and engines. All methods are called from one event loop.

    `is_private` is for the workflow's own jobs: their requests were checked and completed when they were planned, so
    they are rendered as they are, without limits and never from results/.
    """

    def __init__(
        self,
        models: Models,
        dispatcher: Dispatcher,
        config: ServeConfig,
        metrics: Metrics,
        *,
        defaults: dict[str, Any] | None = None,
        results: Path | None = None,
        is_private: bool = False,
    ) -> None:
        self.models = models
        self.config = config
        self.metrics = metrics
        self.is_private = is_private
        self.pictures = KeptPictures()
        self._dispatcher = dispatcher
        self._defaults = defaults or {}
        self._library = Library(models.models_dir)
        self._finished = None if results is None else FinishedPictures(results, self._library)
        self._batches: list[Batch] = []
        self._is_stopping = False
        self._watch()

    @property
    def defaults(self) -> RenderRequest:
        """What a picture is made from where its request says nothing. Raises RequestError (E-REQUEST)."""
        return RenderRequest.from_settings({"prompt": "", **self._defaults})

    @property
    def pictures_under_way(self) -> int:
        """How many pictures wait or are being made."""
        return sum(not job.is_over for batch in self._batches for job in batch.jobs)

    @property
    def is_broken(self) -> bool:
        """Whether no engine is left and none will come back."""
        return self._dispatcher.broken.done()

    async def wait_broken(self) -> DarkroomError:
        """Wait until no engine is left and none will come back; what broke the last one."""
        return await asyncio.shield(self._dispatcher.broken)

    def asset_names(self) -> AssetNames:
        """The LoRAs, embeddings and VAEs that requests may name."""
        return self._library.names()

    def set_default(self, name: str) -> None:
        """Make a model the one for requests that name none. Raises UnknownModelError (E-UNKNOWN)."""
        self.models.default = self.models.get(name).name

    def keep(self, png: bytes) -> str:
        """Keep a picture for an hour; returns its name, to be got at `/pictures/NAME.png`."""
        return self.pictures.add(png)

    def start(self) -> None:
        """Start the engines."""
        self._dispatcher.start()

    def stop(self, *, cancel: bool) -> None:
        """Take no more pictures; with `cancel`, give up those under way."""
        self._is_stopping = True
        if cancel:
            self._dispatcher.fail_all(_ending())

    async def close(self) -> None:
        """End the engines."""
        await self._dispatcher.stop()

    def give_up(self, error: DarkroomError) -> None:
        """Answer everybody, now and later, with this error."""
        self._dispatcher.fail_all(error)

    async def ready(self) -> None:
        """Wait until an engine has loaded its model. Raises the error its loading ended with, and BusyError (E-BUSY)."""
        await asyncio.shield(self._dispatcher.ready)
        self._check_open()

    async def make_pictures(
        self,
        settings: Sequence[dict[str, Any]],
        *,
        model: str | None = None,
        is_fresh: bool = False,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> list[Picture]:
        """The pictures of settings (keys of RenderRequest, or a `preset`), in their order.

        All are queued or none. With `is_fresh`, none is taken from results/. When the task is cancelled, or one picture
        fails, the others are given up.

        Raises RequestError (E-REQUEST), LimitError (E-LIMIT), LoraError (E-LORA), EmbeddingError (E-EMBEDDING),
        UnknownModelError (E-UNKNOWN), BusyError (E-BUSY), DeadlineError (E-TIMEOUT), CancellationError (E-CANCELLED), and
        what rendering raises.
        """
        self._check_open()
        chosen = self.models.get(model)
        if not self.is_private:
            check_count(len(settings), self.config)
        requests = [self._read(each) for each in settings]
        found = await asyncio.to_thread(self._find, requests, chosen, is_fresh)
        missing = [request for request, png in zip(requests, found, strict=True) if png is None]
        made = iter(await self._render(missing, chosen, on_progress) if missing else [])
        return [
            next(made) if png is None else Picture(png, {}, request, chosen.name, chosen.model_hash, True)
            for request, png in zip(requests, found, strict=True)
        ]

    def progress(self) -> Progress | None:
        """How far the oldest request under way is; None when there is none."""
        return self._batches[0].progress if self._batches else None

    def interrupt(self) -> int:
        """Give up the pictures that engines work on; returns how many. Those that wait go on."""
        jobs = [job for job in self._dispatcher.under_way if not job.is_over]
        for job in jobs:
            self._dispatcher.give_up(
                job, CancellationError("picture", None, "was interrupted", "send the request again")
            )
        return len(jobs)

    def _check_open(self) -> None:
        if self._is_stopping:
            raise _ending()

    def _read(self, settings: dict[str, Any]) -> RenderRequest:
        if self.is_private:
            return RenderRequest.from_settings(settings)
        request = RenderRequest.from_settings({**self._defaults, **unfold(settings, "request")})
        check_limits(request, self.config)
        return settle(request, self.asset_names())

    def _find(self, requests: list[RenderRequest], model: Model, is_fresh: bool) -> list[bytes | None]:
        if self._finished is None or is_fresh:
            return [None] * len(requests)
        found = [self._finished.find(request, model) for request in requests]
        for _ in filter(None, found):
            self.metrics.hits.labels("results").inc()
        return found

    async def _render(
        self, requests: list[RenderRequest], model: Model, on_progress: Callable[[Progress], None] | None
    ) -> list[Picture]:
        jobs = [Job(model.name, request, wants_steps=not self.is_private) for request in requests]
        batch = Batch(jobs, self._dispatcher)
        if on_progress is not None:
            for job in jobs:
                job.on_change = lambda: on_progress(batch.progress)
        self._dispatcher.submit(jobs)
        self._batches.append(batch)
        if on_progress is not None:
            on_progress(batch.progress)  # it is queued
        try:
            async with asyncio.timeout(None if self.is_private else self.config.timeout_s):
                rendered = [await asyncio.shield(job.done) for job in jobs]
        except TimeoutError:
            why = f"was not finished within {self.config.timeout_s:g} s"
            raise DeadlineError("request", None, why, "ask for less, or come again when there is less to do") from None
        finally:
            self._batches.remove(batch)
            for job in jobs:
                self._dispatcher.give_up(job, CancellationError("picture", None, "nobody waits for it any more"))
        for each in rendered:
            logger.info("%s", summarise(each.facts))
        pairs = zip(requests, rendered, strict=True)
        return [Picture(each.png, each.facts, request, model.name, model.model_hash, False) for request, each in pairs]

    def _watch(self) -> None:
        """Gauges of what is going on now."""
        slots, watch = self._dispatcher.slots, self.metrics.watch
        watch("darkroom_queue_waiting", "Pictures that wait for an engine", lambda: len(self._dispatcher.waiting))
        watch("darkroom_pictures_under_way", "Pictures that engines work on", lambda: len(self._dispatcher.under_way))
        watch("darkroom_engines_ready", "Engines that have a model loaded", lambda: sum(bool(s.loaded) for s in slots))
        self.metrics.watch_memory(slots)


def _ending() -> BusyError:
    return BusyError("server", None, "is about to end", "send the request again")
