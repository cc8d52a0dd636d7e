"""What every interface is an adapter over: settings in, rendered pictures out."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from darkroom.config import ServeConfig
from darkroom.config_output import WHOLE_METADATA, MetadataConfig
from darkroom.engine.library import Library
from darkroom.errors import CancellationError, DeadlineError
from darkroom.request.assets import AssetNames, settle
from darkroom.request.render_request import RenderRequest
from darkroom.serve.adapters import check_count
from darkroom.serve.answers import Rendered
from darkroom.serve.catalog import Model, Models
from darkroom.serve.dispatcher import Dispatcher
from darkroom.serve.frames import NO_FILES
from darkroom.serve.images import ImageReader
from darkroom.serve.legs import with_names
from darkroom.serve.limits import check_limits, check_pictures
from darkroom.serve.making import Making
from darkroom.serve.metrics import Metrics
from darkroom.serve.result_cache import LinkedPictures, ResultCache
from darkroom.sheets.settings import merge_layers, unfold

logger = logging.getLogger(__name__)

BUILT_IN = ("Lanczos", "Nearest")
"""The upscalers that need no model."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a batch is.

    `stage` is waiting, loading, denoising or decoding; `picture` of `pictures` (from 0) is under way at `step` of
    `steps`, with `waiting` others in front of it in the queue. `loaded` is how much of a model has been read while it is
    loaded, from 0 to 1. `started` is `time.time()` when the batch was accepted.
    """

    stage: str
    picture: int
    pictures: int
    step: int
    steps: int
    waiting: int
    started: float
    loaded: float | None = None


class Batch:
    """The pictures of one request that have to be made."""

    def __init__(self, pictures: Sequence[Making], dispatcher: Dispatcher) -> None:
        self.pictures = pictures
        self.started = time.time()
        self._dispatcher = dispatcher

    @property
    def progress(self) -> Progress:
        open_ones = [each for each in self.pictures if not each.is_over] or [self.pictures[-1]]
        making = next((each for each in open_ones if each.job.stage != "waiting"), open_ones[0])
        number, ahead = self.pictures.index(making), self._dispatcher.ahead_of(making.job)
        loaded = self._dispatcher.loaded_for(making.job)
        step, steps = making.step, making.steps
        return Progress(making.job.stage, number, len(self.pictures), step, steps, ahead, self.started, loaded)


class Service:
    """Models, a queue and engines behind limits and results/. All methods are called from one event loop."""

    def __init__(
        self,
        models: Models,
        dispatcher: Dispatcher,
        config: ServeConfig,
        metrics: Metrics,
        *,
        defaults: dict[str, Any] | None = None,
        results: Path | None = None,
        metadata: MetadataConfig = WHOLE_METADATA,
    ) -> None:
        self.models = models
        self.config = config
        self.metrics = metrics
        self.linked = LinkedPictures()
        self.images = ImageReader(config)
        self.dispatcher = dispatcher
        self._defaults = defaults or {}
        self._library = Library(models.models_dir)
        self._results = None if results is None else ResultCache(results, self._library, metadata)
        self._metadata = metadata.model_dump()
        self._batches: list[Batch] = []
        self._watch()

    @property
    def defaults(self) -> RenderRequest:
        """The settings of a request that names none. Raises RequestError (E-REQUEST)."""
        return RenderRequest.from_settings({"prompt": "", **unfold(self._defaults, "config render")})

    @property
    def is_broken(self) -> bool:
        """Whether no engine is left and none will come back."""
        return self.dispatcher.broken.done()

    def asset_names(self) -> AssetNames:
        """The LoRAs, embeddings and VAEs that requests may name."""
        return self._library.names()

    def upscaler_names(self) -> list[str]:
        """The upscalers of pictures that requests may name, those that need no model first."""
        return [*BUILT_IN, *sorted(self.asset_names().upscalers)]

    def set_default(self, name: str) -> None:
        """Make this model the default. Raises UnknownModelError (E-UNKNOWN)."""
        self.models.default = self.models.get(name).name

    def keep(self, data: bytes, suffix: str) -> str:
        """Keep a picture for an hour; returns its NAME in `/pictures/NAME`, with the suffix."""
        return self.linked.add(data, suffix)

    async def make_pictures(
        self,
        settings: Sequence[dict[str, Any]],
        *,
        model: str | None = None,
        pictures: Mapping[str, bytes] = NO_FILES,
        is_fresh: bool = False,
        on_progress: Callable[[Progress], None] | None = None,
        previews: int = 0,
        on_preview: Callable[[RenderRequest, bytes], None] = lambda _request, _png: None,
    ) -> list[Rendered]:
        """The pictures for settings (keys of RenderRequest, or a `preset`), in the same order.

        All are queued or none. With `is_fresh`, none is taken from results/. If the task is cancelled, or one picture
        fails, the others are given up. `on_preview` is called with at most `previews` PNGs of how each picture that has to
        be made looks so far. `pictures` are the files that the settings `image` and
        `stages` name by their SHA-256.

        Raises RequestError (E-REQUEST), LimitError (E-LIMIT), LoraError (E-LORA), EmbeddingError (E-EMBEDDING),
        UnknownModelError (E-UNKNOWN), BusyError (E-BUSY), DeadlineError (E-TIMEOUT), CancellationError (E-CANCELLED), and
        what rendering raises.
        """
        self.dispatcher.check_open()
        chosen = self.models.get(model)
        check_count(len(settings), self.config)
        requests = await asyncio.to_thread(lambda: [self._read(each, chosen.name) for each in settings])
        for request in requests:
            check_pictures(request, [sha256 for sha256 in request.pictures if sha256 in pictures])
        found = await asyncio.to_thread(self._find, requests, chosen, is_fresh)
        missing = [request for request, cached in zip(requests, found, strict=True) if cached is None]
        metadata = self._metadata
        makings = [
            Making(chosen.name, each, pictures, previews, partial(on_preview, each), metadata) for each in missing
        ]
        made = iter(await self._render(makings, on_progress) if missing else [])
        return [next(made) if cached is None else cached for cached in found]

    def progress(self) -> Progress | None:
        """How far the oldest request under way is; None when there is none."""
        return self._batches[0].progress if self._batches else None

    def interrupt(self) -> int:
        """Give up the pictures that engines work on, not those in the queue; returns how many."""
        jobs = [job for job in self.dispatcher.under_way if not job.is_over]
        for job in jobs:
            self.dispatcher.give_up(
                job, CancellationError("picture", None, "was interrupted", "send the request again")
            )
        return len(jobs)

    def _read(self, settings: dict[str, Any], own: str) -> RenderRequest:
        request = RenderRequest.from_settings(merge_layers({"config render": self._defaults, "request": settings}))
        request = with_names(request, lambda name: self.models.get(name).name, own)
        check_limits(request, self.config)
        return settle(request, self.asset_names())

    def _find(self, requests: list[RenderRequest], model: Model, is_fresh: bool) -> list[Rendered | None]:
        if self._results is None or is_fresh:
            return [None] * len(requests)
        found = [self._results.find(request, model) for request in requests]
        for _ in filter(None, found):
            self.metrics.hits.labels("results").inc()
        return found

    async def _render(self, makings: list[Making], on_progress: Callable[[Progress], None] | None) -> list[Rendered]:
        batch = Batch(makings, self.dispatcher)
        if on_progress is not None:
            for making in makings:
                making.watch(lambda: on_progress(batch.progress))
        self.dispatcher.submit([making.job for making in makings])
        tasks = [asyncio.create_task(self._finish(making)) for making in makings]
        self._batches.append(batch)
        if on_progress is not None:
            on_progress(batch.progress)  # it is queued
        try:
            async with asyncio.timeout(self.config.timeout_s):
                rendered = await asyncio.gather(*tasks)
        except TimeoutError:
            why = f"was not finished within {self.config.timeout_s:g} s"
            raise DeadlineError("request", None, why, "ask for less, or come again when there is less to do") from None
        finally:
            self._batches.remove(batch)
            for task, making in zip(tasks, makings, strict=True):
                task.cancel()
                self.dispatcher.give_up(making.job, CancellationError("picture", None, "nobody waits for it any more"))
        for each in rendered:
            logger.info("%s", each.summary)
        return rendered

    async def _finish(self, making: Making) -> Rendered:
        """The picture, after all legs of its chain. Those after the first were accepted with it."""
        while True:
            rendered = await asyncio.shield(making.job.done)
            if not making.go_on(rendered):
                return rendered
            self.dispatcher.submit([making.job], is_accepted=True)

    def _watch(self) -> None:
        """Add gauges of the queue and the engines."""
        dispatcher, engines, watch = self.dispatcher, self.dispatcher.engines, self.metrics.watch
        watch("darkroom_queue_waiting", "Pictures that wait for an engine", lambda: len(dispatcher.waiting))
        watch("darkroom_pictures_under_way", "Pictures that engines work on", lambda: len(dispatcher.under_way))
        watch(
            "darkroom_engines_ready", "Engines that have a model loaded", lambda: sum(bool(e.loaded) for e in engines)
        )
        self.metrics.watch_memory(engines)
