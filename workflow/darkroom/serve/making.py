"""One picture of a request on its way through the queue: a job for each leg of its chain, one after another."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from darkroom.request.render_request import RenderRequest
from darkroom.serve.answers import Rendered
from darkroom.serve.legs import Leg, legs_of
from darkroom.serve.supervisor import Job


class Making:
    """`job` is that of the leg under way. Of the picture, whose own checkpoint is `own`, at most `previews` are shown.

    `given` are the files that its request names, by their SHA-256; `metadata` says what is written into it.
    """

    def __init__(
        self,
        own: str,
        request: RenderRequest,
        given: Mapping[str, bytes],
        previews: int,
        on_preview: Callable[[bytes], None],
        metadata: Mapping[str, bool],
    ) -> None:
        self._own = own
        self._given = given
        self._previews = previews
        self._on_preview = on_preview
        self._metadata = metadata
        self._on_change: Callable[[], None] = lambda: None
        self._legs = legs_of(request)
        self._counts = [leg.steps for leg in self._legs]
        self._number = 0
        self.job = self._make_job(None)

    @property
    def is_over(self) -> bool:
        """Whether it is finished or given up."""
        return self.job.is_over and (self._is_last or self.job.done.exception() is not None)

    @property
    def step(self) -> int:
        """The steps that are done, in all legs."""
        own = self.job.steps if self.job.stage == "decoding" else self.job.step
        return sum(self._counts[: self._number]) + own

    @property
    def steps(self) -> int:
        """The steps of all legs, as far as the engine has told them."""
        return sum(self._counts[: self._number]) + self.job.steps + sum(self._counts[self._number + 1 :])

    def watch(self, on_change: Callable[[], None]) -> None:
        """Have `on_change` called at each change of the job under way, as `Job` does."""
        self._on_change = self.job.on_change = on_change

    def go_on(self, rendered: Rendered) -> bool:
        """Make the job of the next leg, which begins with the picture of this one; false if there is none."""
        if self._is_last:
            return False
        self._counts[self._number] = self.job.steps
        self._number += 1
        self.job = self._make_job(rendered)
        return True

    @property
    def _is_last(self) -> bool:
        return self._number == len(self._legs) - 1

    def _make_job(self, before: Rendered | None) -> Job:
        leg = self._legs[self._number]
        return Job(
            leg.model or self._own,
            leg.request,
            on_change=self._on_change,
            previews=self._share(leg),
            pictures=leg.files(self._given, before),
            stages_done=leg.stages_done,
            keep_latents=leg.keep_latents,
            latents_at=leg.latents_at,
            checkpoint=leg.own(self._own),
            metadata=self._metadata,
            on_preview=self._on_preview,
        )

    def _share(self, leg: Leg) -> int:
        """How many of the previews, which are spread evenly over all steps, are the leg's."""
        total, before = sum(self._counts), sum(self._counts[: self._number])
        due = (round(total * number / (self._previews + 1)) for number in range(1, self._previews + 1))
        return sum(before < step <= before + leg.steps for step in due)
