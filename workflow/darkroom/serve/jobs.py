"""One picture on its way through the queue and an engine, and what one request may ask for."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from darkroom.config import ServeConfig
from darkroom.errors import DarkroomError, LimitError
from darkroom.request.render_request import RenderRequest


def check_count(pictures: int, limits: ServeConfig) -> None:
    """Raise LimitError (E-LIMIT) for a request of more pictures than allowed, or of none."""
    if not 1 <= pictures <= limits.max_images:
        raise LimitError("pictures", pictures, f"a request is for 1 to {limits.max_images}", "send several requests")


def check_limits(request: RenderRequest, limits: ServeConfig) -> None:
    """Raise LimitError (E-LIMIT) for a picture with more pixels, steps or LoRAs than allowed."""
    size = f"{request.width}x{request.height}"
    asked = (
        ("size", size, request.width * request.height, limits.max_pixels, "pixels"),
        ("steps", request.steps, request.steps, limits.max_steps, "steps"),
        ("loras", len(request.all_loras), len(request.all_loras), limits.max_loras, "LoRAs"),
    )
    for what, value, count, most, unit in asked:
        if count > most:
            raise LimitError(what, value, f"this server makes pictures of at most {most:,} {unit}", "ask for less")


_NUMBERS = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Rendered:
    """A finished picture: PNG bytes with their metadata, and facts (`answers.collect_facts`)."""

    png: bytes
    facts: dict[str, Any]


@dataclass(eq=False, slots=True)
class Job:
    """`wants_steps` says whether to hear of each step: telling takes time from a small model's threads.

    `stage` is waiting, loading, denoising or decoding; `done` is settled exactly once, whatever happens."""

    model: str
    request: RenderRequest
    on_change: Callable[[], None] = lambda: None
    wants_steps: bool = True
    id: int = field(default_factory=lambda: next(_NUMBERS))
    done: asyncio.Future[Rendered] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    stage: str = "waiting"
    step: int = 0
    attempts: int = 0
    overtaken: int = 0
    queued: float = field(default_factory=time.perf_counter)

    @property
    def is_over(self) -> bool:
        """Whether nobody waits for it any more: it was answered or given up."""
        return self.done.done()

    def waited(self) -> float:
        """Seconds since it was queued."""
        return time.perf_counter() - self.queued

    def move_to(self, stage: str, step: int = 0) -> None:
        """Say how far it is."""
        self.stage, self.step = stage, step
        self.on_change()

    def finish(self, rendered: Rendered) -> None:
        if not self.is_over:
            self.done.set_result(rendered)

    def fail(self, error: DarkroomError) -> None:
        if not self.is_over:
            self.done.set_exception(error)
            self.done.exception()  # whoever waited may have left
