"""The queue before the engines: bounded, in order, each picture to the device that has its model or is least busy."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Sequence
from typing import Any

from darkroom.errors import BusyError, DarkroomError
from darkroom.serve.engines import EngineOptions
from darkroom.serve.jobs import Job
from darkroom.serve.metrics import Metrics
from darkroom.serve.slot import DEFAULT_COMMAND, Slot

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 2
MAX_OVERTAKES = 8
"""How often a picture may be passed by later ones whose model is loaded already, before a load is worth it."""
_USUAL_SECONDS = 5.0
_LONGEST_RETRY_S = 60


class Dispatcher:
    """Jobs in, engines out. All methods are called from one event loop.

    `ready` is settled once an engine has loaded its model, or with the error why none will; `broken` once no engine is
    left. A job whose engine dies is given to another once; a second death is answered with the error.
    """

    def __init__(
        self,
        options: Sequence[EngineOptions],
        first_model: str,
        *,
        limit: int,
        metrics: Metrics,
        command: Sequence[str] = DEFAULT_COMMAND,
    ) -> None:
        self.slots = [Slot(number, each, first_model, self, command) for number, each in enumerate(options)]
        self.waiting: list[Job] = []
        self.under_way: dict[Job, Slot] = {}
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.broken: asyncio.Future[DarkroomError] = asyncio.get_running_loop().create_future()
        self._failure: DarkroomError | None = None
        self._limit = limit
        self._metrics = metrics
        self._seconds = _USUAL_SECONDS
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start all engines."""
        self._tasks = [asyncio.create_task(slot.run()) for slot in self.slots]

    async def stop(self) -> None:
        """End all engines, whatever they are doing."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue all of these or none.

        Raises BusyError (E-BUSY) where there is no room for them, and what `fail_all` was told.
        """
        if self._failure is not None:
            raise self._failure
        free = sum(slot.is_free for slot in self.slots)
        if len(self.waiting) + len(jobs) > self._limit + free:
            why = f"{len(self.waiting)} pictures are waiting and {self._limit} may"
            error = BusyError("queue", None, f"is full: {why}", "send the request again later")
            error.retry_after_s = self._retry_after()
            raise error
        self.waiting += jobs
        self._assign()

    def give_up(self, job: Job, error: DarkroomError) -> None:
        """Answer a job with an error now; an engine that works on it stops at its next step."""
        job.fail(error)
        if job in self.waiting:
            self.waiting.remove(job)
        elif job in self.under_way:
            self.under_way[job].cancel(job)

    def fail_all(self, error: DarkroomError) -> None:
        """Answer everybody, now and later, with this error."""
        self._failure = error
        if not self.ready.done():
            self.ready.set_exception(error)
            self.ready.exception()
        for job in [*self.waiting, *self.under_way]:
            self.give_up(job, error)

    def ahead_of(self, job: Job) -> int:
        """How many pictures wait before this one."""
        return self.waiting.index(job) if job in self.waiting else 0

    def on_loaded(self, slot: Slot, model: str, seconds: float) -> None:
        self._metrics.loads.labels(model).inc()
        self._metrics.stages.labels("load").observe(seconds)
        if not self.ready.done():
            self.ready.set_result(None)
        self._assign()

    def on_load_failed(self, slot: Slot, error: DarkroomError) -> None:
        if slot.is_broken:
            self.on_broken(slot, error)
        else:
            logger.error("%s", error)
        self._assign()

    def on_free(self, slot: Slot) -> None:
        self._assign()

    def on_picture(self, slot: Slot, job: Job, facts: dict[str, Any]) -> None:
        self._seconds += (facts["total_s"] - self._seconds) / 4
        self._metrics.count_picture(job.model, facts)

    def on_dropped(self, slot: Slot, job: Job) -> None:
        self.under_way.pop(job, None)
        self._assign()

    def on_death(self, slot: Slot, jobs: list[Job], error: DarkroomError) -> None:
        self._metrics.restarts.inc()
        for job in reversed(jobs):
            self.under_way.pop(job, None)
            if job.attempts >= MAX_ATTEMPTS:
                job.fail(error)
            elif not job.is_over:
                job.move_to("waiting")
                self.waiting.insert(0, job)
        self._assign()

    def on_broken(self, slot: Slot, error: DarkroomError) -> None:
        if all(each.is_broken for each in self.slots):
            self.fail_all(error)
            if not self.broken.done():
                self.broken.set_result(error)

    def _assign(self) -> None:
        """Give free engines work until there is no more of the one or the other."""
        while self.waiting and (free := [slot for slot in self.slots if slot.is_free]):
            job, slot = self._choose(free)
            if job.attempts and not slot.is_idle:
                return
            self.waiting.remove(job)
            for earlier in self.waiting[: self._place(job)]:
                earlier.overtaken += 1
            self.under_way[job] = slot
            self._metrics.stages.labels("queue").observe(job.waited())
            slot.render(job)
            for other in self.waiting:
                other.on_change()  # it has moved up

    def _choose(self, free: list[Slot]) -> tuple[Job, Slot]:
        """The first job whose model a free engine holds, unless the first of all was passed often enough."""
        head = self.waiting[0]
        if head.overtaken < MAX_OVERTAKES:
            for job in self.waiting:
                if holders := [slot for slot in free if job.model in slot.loaded]:
                    return job, _least_busy(holders)
        return head, _least_busy([slot for slot in free if head.model in slot.loaded] or free)

    def _place(self, job: Job) -> int:
        return sum(other.id < job.id for other in self.waiting)

    def _retry_after(self) -> int:
        rounds = len(self.waiting) / max(1, sum(not slot.is_broken for slot in self.slots))
        return min(_LONGEST_RETRY_S, max(1, math.ceil(rounds * self._seconds)))


def _least_busy(slots: list[Slot]) -> Slot:
    return min(slots, key=lambda slot: (slot.pictures, slot.number))
