"""Which of the jobs that are ready Snakemake's scheduler gets to see, so that an engine always has its next picture.

A picture's job waits for its engine and needs no core, so some are in flight at once: while a picture is rendered, the
clients of the next ones start and put their requests into the engine's queue. Whatever else is ready comes after the pictures.

The scheduler looks at all jobs that it sees before it starts one. So it sees the next pictures only, in the order of their priorities.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, MutableSet
from itertools import count
from typing import Any

IN_FLIGHT = 3
"""Pictures for each engine: one that is rendered, one that waits in its queue, and one that is written or on its way."""

Entry = tuple[float, int, Any, str]
"""A picture's priority, smaller is earlier; its number; its job; the model that makes it."""


class PictureQueue(MutableSet[Any]):
    """A set of jobs that iterates over those that may start now, pictures first.

    `engine_of` gives the model whose engine makes a job's picture, None for any other job. `running` gives the jobs that have
    started; `show` is called with a picture's job before it is seen. At most `limit` pictures are in flight.
    With a single engine they are of one model: another would be loaded before the last ones are done. With one core other
    jobs don't start before the pictures in flight are done.
    """

    def __init__(
        self,
        engine_of: Callable[[Any], str | None],
        running: Callable[[], Iterable[Any]],
        show: Callable[[Any], None],
        *,
        limit: int,
        has_one_engine: bool,
        has_one_core: bool,
    ) -> None:
        self._engine_of = engine_of
        self._running = running
        self._show = show
        self._limit = limit
        self._has_one_engine = has_one_engine
        self._has_one_core = has_one_core
        self._pictures: dict[Any, Entry] = {}
        self._others: dict[Any, None] = {}
        self._order: list[Entry] = []  # a heap; a job that has left the set is dropped when it comes up
        self._numbers = count()

    def __contains__(self, job: object) -> bool:
        return job in self._pictures or job in self._others

    def __len__(self) -> int:
        return len(self._pictures) + len(self._others)

    def __iter__(self) -> Iterator[Any]:
        in_flight = [engine for job in self._running() if (engine := self._engine_of(job)) is not None]
        pictures = self._next_pictures(in_flight)
        for job in pictures:
            self._show(job)
            yield job
        if len(pictures) == len(self._pictures) and not (self._has_one_core and (pictures or in_flight)):
            yield from self._others

    def add(self, job: Any) -> None:
        """Add a job that is ready."""
        engine = self._engine_of(job)
        if engine is None:
            self._others[job] = None
        elif job not in self._pictures:
            self._pictures[job] = entry = (-job.priority, next(self._numbers), job, engine)
            heapq.heappush(self._order, entry)

    def update(self, jobs: Iterable[Any]) -> None:
        """Add jobs that are ready."""
        for job in jobs:
            self.add(job)

    def discard(self, job: Any) -> None:
        """Take a job out that has started or isn't needed any more."""
        self._pictures.pop(job, None)
        self._others.pop(job, None)

    def clear(self) -> None:
        """Take all jobs out."""
        self._pictures.clear()
        self._others.clear()
        self._order.clear()

    def _next_pictures(self, in_flight: list[str]) -> list[Any]:
        """The pictures that may start beside those that are in flight, given by their models."""
        chosen: list[Entry] = []
        models = set(in_flight)
        while self._order and len(in_flight) + len(chosen) < self._limit:
            entry = heapq.heappop(self._order)
            _, _, job, engine = entry
            if self._pictures.get(job) is not entry:
                continue
            if self._has_one_engine and models - {engine}:
                heapq.heappush(self._order, entry)
                break
            models.add(engine)
            chosen.append(entry)
        for entry in chosen:
            heapq.heappush(self._order, entry)
        return [job for _, _, job, _ in chosen]
