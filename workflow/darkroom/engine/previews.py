"""Previews: what a picture looks like after some of its steps.

A preview is the model's estimate of the finished latents at that step, decoded by the picture's own VAE: it shows the picture
itself, in its colours, whatever the model's latents are. That costs one decoding each. Watching changes no number of the picture.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from darkroom.engine.blending import estimate, noise_level

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, slots=True)
class Previews:
    """At most `count` previews, spread evenly over a picture's steps; `show` is called with each (RGB)."""

    count: int
    show: Callable[[Image], None]

    def is_due(self, step: int, steps: int) -> bool:
        """Whether one follows step `step` (from 1) of `steps`; never the last, which has the picture itself."""
        return step < steps and step in {
            round(steps * number / (self.count + 1)) for number in range(1, self.count + 1)
        }


class Estimates:
    """Follows a scheduler's steps; `latest()` is the estimate of a batch's `row` at the last one, (1, 4, h/8, w/8) in fp32."""

    def __init__(self, scheduler: Any, row: int = 0) -> None:
        self._scheduler = scheduler
        self._row = slice(row, row + 1)
        self._seen: tuple[Any, Any, Any, Any] | None = None
        step = scheduler.step

        @functools.wraps(step)  # diffusers' pipelines look at its parameters
        def watched(output: Any, timestep: Any, sample: Any, *args: Any, **options: Any) -> Any:
            self._seen = output, timestep, sample, noise_level(scheduler, timestep)
            return step(output, timestep, sample, *args, **options)

        scheduler.step = watched

    def latest(self) -> Any:
        """What the model takes the finished latents for. Some step must have been made."""
        assert self._seen is not None
        output, timestep, sample, sigma = self._seen
        output, sample = output[self._row], sample[self._row]
        return estimate(self._scheduler, output.float(), timestep, sample.float(), sigma)
