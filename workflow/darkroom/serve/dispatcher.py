"""The queue in front of the engines: bounded, in order, each job for the device that has its model or is least busy."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Hashable, Sequence

from darkroom.errors import BusyError, DarkroomError
from darkroom.request.render_request import RenderRequest
from darkroom.serve.answers import Rendered
from darkroom.serve.engines import EngineOptions
from darkroom.serve.supervisor import DEFAULT_COMMAND, DEFAULT_LIMITS, Job, Limits, Supervisor

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 2
MAX_OVERTAKES = 8
"""How often later jobs whose model is loaded may overtake a job before its own model is loaded."""
_OWN = frozenset(
    [
        "prompt",
        "negative_prompt",
        "prompt_2",
        "negative_prompt_2",
        "emphasis",
        "clip_skip",
        "embeddings",
        "loras",
        "seed",
        "variation_seed",
        "variation_strength",
        "cfg_scale",
    ]
)
"""The settings in which pictures of a batch may differ, LoRAs by where they are named."""
_SHARED = frozenset(("width", "height", "steps", "sampler", "schedule", "eta", "cfg_rescale", "freeu", "vae"))
"""The settings that pictures of a batch share. One with any other setting is made alone."""
_USUAL_SECONDS = 5.0
_LONGEST_RETRY_S = 56
_LEAST_SPREAD_S = 4
_RESTART_S = 10.0
"""About how long a server or an engine takes to start again."""
_WORKING = ("idle", "loading", "rendering", "cancelling")


class Observer:
    """What a dispatcher reports of its work; does nothing with it."""

    def on_queued(self, seconds: float) -> None:
        """A job has left the queue after that long."""

    def on_load(self, model: str, seconds: float) -> None:
        """An engine has loaded a model."""

    def on_restart(self) -> None:
        """An engine has died and is started again."""

    def on_picture(self, model: str, rendered: Rendered) -> None:
        """A picture is finished."""


class Dispatcher:
    """A queue of jobs and the engines that work on it. All methods are called from one event loop.

    `ready` is settled once an engine has loaded its model, or with the error that keeps all of them from it; `broken` once
    no engine is left. A job whose engine dies is given to an engine once more, alone; after a second death it fails. Up to
    `batch` jobs that wait and fit together are given to an engine at once.
    """

    def __init__(
        self,
        options: Sequence[EngineOptions],
        first_model: str,
        *,
        limit: int,
        observer: Observer,
        batch: int = 1,
        command: Sequence[str] = DEFAULT_COMMAND,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self.engines = [
            Supervisor(number, each, first_model, self, command, limits) for number, each in enumerate(options)
        ]
        self.waiting: list[Job] = []
        self.under_way: dict[Job, Supervisor] = {}
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.broken: asyncio.Future[DarkroomError] = asyncio.get_running_loop().create_future()
        self._failure: DarkroomError | None = None
        self._limit = limit
        self._batch = batch
        self._observer = observer
        self._is_draining = False
        self._seconds = _USUAL_SECONDS
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def pictures_under_way(self) -> int:
        """How many pictures wait or are being made."""
        return len(self.waiting) + sum(not job.is_over for job in self.under_way)

    def start(self) -> None:
        """Start all engines."""
        self._tasks = [asyncio.create_task(engine.run()) for engine in self.engines]

    async def wait_ready(self) -> None:
        """Wait until an engine has loaded its model. Raises the error its loading ended with, and BusyError (E-BUSY)."""
        await asyncio.shield(self.ready)
        self.check_open()

    def check_ready(self) -> None:
        """Raise BusyError (E-BUSY) if no engine could take a picture now or once it has finished its present one."""
        states = [(engine.device, engine.state) for engine in self.engines]
        if not any(state in _WORKING for _, state in states):
            now = ", ".join(f"{device} {state}" for device, state in states)
            error = BusyError("server", None, f"no engine is ready: {now}", "ask again later")
            error.is_unavailable = True
            error.retry_after_s = self._spread(_RESTART_S)
            raise error

    async def wait_broken(self) -> DarkroomError:
        """Wait until no engine is left and none will come back; returns the error that broke the last one."""
        return await asyncio.shield(self.broken)

    def check_open(self) -> None:
        """Raise BusyError (E-BUSY) once the server is about to end; to be called before a request is taken up."""
        if self._is_draining:
            raise self._ending()

    def drain(self, *, cancel: bool) -> None:
        """Have `check_open` refuse new work; with `cancel`, also fail all jobs."""
        self._is_draining = True
        if cancel:
            self.fail_all(self._ending())

    async def stop(self) -> None:
        """End all engines at once."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def submit(self, jobs: Sequence[Job], *, is_accepted: bool = False) -> None:
        """Queue all of these or none; `is_accepted` if they go on with a picture, which a full queue doesn't keep from that.

        Raises BusyError (E-BUSY) if the queue is full, and the error of `fail_all`.
        """
        if self._failure is not None:
            raise self._failure
        free = sum(engine.is_free for engine in self.engines)
        if len(self.waiting) + len(jobs) > self._limit + free and not is_accepted:
            why = f"{len(self.waiting)} pictures are waiting and {self._limit} may"
            error = BusyError("queue", None, f"is full: {why}", "send the request again later")
            error.retry_after_s = self._spread(self._seconds_of_queue())
            raise error
        self.waiting += jobs
        self._assign()

    def give_up(self, job: Job, error: DarkroomError) -> None:
        """Fail a job now; an engine that works on it stops at its next step."""
        job.fail(error)
        if job in self.waiting:
            self.waiting.remove(job)
        elif job in self.under_way:
            self.under_way[job].cancel(job)

    def fail_all(self, error: DarkroomError) -> None:
        """Fail all jobs, those under way and those to come, with this error."""
        self._failure = error
        if not self.ready.done():
            self.ready.set_exception(error)
            self.ready.exception()
        for job in [*self.waiting, *self.under_way]:
            self.give_up(job, error)

    def ahead_of(self, job: Job) -> int:
        """How many jobs wait in front of this one."""
        return self.waiting.index(job) if job in self.waiting else 0

    def loaded_for(self, job: Job) -> float | None:
        """How much of the model that a job waits for has been read, from 0 to 1; None if it waits for none."""
        engine = self.under_way.get(job)
        if job.stage != "loading" or engine is None or engine.read is None:
            return None
        done, total = engine.read
        return done / max(1, total)

    @property
    def read(self) -> tuple[int, int] | None:
        """The bytes of a model that an engine has read, and those there are, while it is loaded."""
        return next((engine.read for engine in self.engines if engine.read is not None), None)

    def on_loaded(self, engine: Supervisor, model: str, seconds: float) -> None:
        self._observer.on_load(model, seconds)
        if not self.ready.done():
            self.ready.set_result(None)
        self._assign()

    def on_load_failed(self, engine: Supervisor, error: DarkroomError) -> None:
        if engine.is_broken:
            self.on_broken(engine, error)
        else:
            logger.error("%s", error)
        self._assign()

    def on_free(self, engine: Supervisor) -> None:
        self._assign()

    def on_picture(self, engine: Supervisor, job: Job, rendered: Rendered) -> None:
        self._seconds += (rendered.facts["total_s"] / rendered.facts["batch"] - self._seconds) / 4
        self._observer.on_picture(job.model, rendered)

    def on_dropped(self, engine: Supervisor, job: Job) -> None:
        self.under_way.pop(job, None)
        self._assign()

    def on_death(self, engine: Supervisor, jobs: list[Job], error: DarkroomError) -> None:
        self._observer.on_restart()
        for job in reversed(jobs):
            self.under_way.pop(job, None)
            if job.attempts >= MAX_ATTEMPTS:
                job.fail(error)
            elif not job.is_over:
                job.move_to("waiting")
                self.waiting.insert(0, job)
        self._assign()

    def on_broken(self, engine: Supervisor, error: DarkroomError) -> None:
        if all(each.is_broken for each in self.engines):
            self.fail_all(error)
            if not self.broken.done():
                self.broken.set_result(error)

    def _assign(self) -> None:
        """Give jobs to free engines until either runs out."""
        while self.waiting and (free := [engine for engine in self.engines if engine.is_free]):
            job, engine = self._choose(free)
            if job.attempts and not engine.is_idle:
                return
            jobs = [job, *self._find_mates(job)]
            for each in jobs:
                self.waiting.remove(each)
            for each in jobs:
                for earlier in self.waiting[: self._place(each)]:
                    earlier.overtaken += 1
                self.under_way[each] = engine
                self._observer.on_queued(each.waited())
            engine.render(*jobs)
            for other in self.waiting:
                other.on_change()  # it has moved up

    def _choose(self, free: list[Supervisor]) -> tuple[Job, Supervisor]:
        """The first job whose model a free engine has loaded; the first of all once it has been overtaken too often."""
        head = self.waiting[0]
        if head.overtaken < MAX_OVERTAKES:
            for job in self.waiting:
                if holders := [engine for engine in free if job.model in engine.loaded]:
                    return job, _least_busy(holders)
        return head, _least_busy([engine for engine in free if head.model in engine.loaded] or free)

    def _find_mates(self, job: Job) -> list[Job]:
        """The next jobs in the queue to be denoised together with this one, as far as they may overtake those before them."""
        most, found = self._batch - 1, list[Job]()
        key = _batch_key(job) if most else None
        if key is None:
            return found
        for other in self.waiting:
            if len(found) >= most:
                break
            if other is not job and _batch_key(other) == key:
                found.append(other)
            elif other is not job:
                overtaken = other.overtaken + (other.id < job.id)
                most = min(most, len(found) + max(0, MAX_OVERTAKES - overtaken))
        return found

    def _place(self, job: Job) -> int:
        return sum(other.id < job.id for other in self.waiting)

    def _seconds_of_queue(self) -> float:
        """How long it takes to work off the queue."""
        return len(self.waiting) / max(1, sum(not engine.is_broken for engine in self.engines)) * self._seconds

    def _spread(self, seconds: float) -> int:
        """When to come again, in whole seconds: after that time, and not all who are refused at the same moment."""
        first = min(_LONGEST_RETRY_S // 2, max(1, math.ceil(seconds)))
        return random.randint(first, 2 * first + _LEAST_SPREAD_S)

    def _ending(self) -> BusyError:
        error = BusyError("server", None, "is about to end", "send the request again")
        error.is_unavailable = True
        error.retry_after_s = self._spread(_RESTART_S)
        return error


def _batch_key(job: Job) -> Hashable:
    """What jobs have to share to be denoised together: see `Engine.denoise_together`. None for one that has to be made alone."""
    if (
        job.attempts
        or job.pictures
        or job.stages_done
        or job.keep_latents
        or job.latents_at
        or job.checkpoint is not None
    ):
        return None
    request, fields = job.request, RenderRequest.model_fields
    if any(getattr(request, name) != fields[name].default for name in fields.keys() - _OWN - _SHARED):
        return None
    shared = tuple(getattr(request, name) for name in sorted(_SHARED))
    return (job.model, request.cfg_scale > 1, request.all_loras, *shared)


def _least_busy(engines: list[Supervisor]) -> Supervisor:
    return min(engines, key=lambda engine: (engine.pictures, engine.number))
