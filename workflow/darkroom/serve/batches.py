"""What one request asks for as a whole: its pictures, and how far they are."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from darkroom.request import RenderRequest
from darkroom.serve.dispatcher import Dispatcher
from darkroom.serve.jobs import Job


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
