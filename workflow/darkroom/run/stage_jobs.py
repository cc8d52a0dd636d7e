"""The jobs of pictures that stages make of other pictures: what goes in, how, and what a run need not make again.

A stage's params hold its chain's whole request, so whatever decides the picture before decides it too. Its input is therefore
`ancient` while its own file is as it should be: a picture before that is newer, or is made again, is no reason to run. Nor is
one that is missing, which Snakemake takes for a reason even if it is ancient; so it depends on nothing then. Where its own file
isn't as it should be, or won't be because a model is made again, the input is a plain one: Snakemake doesn't look at a job's own params where an ancient input of it is
made in the same run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darkroom.run.snakemake_api import SnakemakeRun, in_place_of
from darkroom.sheets.planned import PlannedPicture

RESULTS = Path("results")


@dataclass(frozen=True, slots=True)
class StageJob:
    """The job of one picture; `before` is the planned picture that its stage is applied to, None for a given file."""

    picture: PlannedPicture
    before: PlannedPicture | None

    @property
    def inputs(self) -> list[str]:
        """The picture before, and its latents if the stage needs them."""
        if self.before is None:
            return []
        paths = [self.before.path, *([self.before.latent_path] if self.picture.needs_latent else [])]
        return [str(RESULTS / path) for path in paths]

    @property
    def options(self) -> list[str]:
        """The options of `darkroom render` that say what goes in, and how many stages are done."""
        done = len(self.picture.request.stages) - 1
        flags = ["--stages-done", str(done)]
        if self.before is not None:
            flags += ["--before", str(RESULTS / self.before.path)]
            flags += ["--before-latent", str(RESULTS / self.before.latent_path)] if self.picture.needs_latent else []
        own = self.picture.checkpoint
        flags += ["--checkpoint", own] if own != self.picture.renderer and own in self.picture.checkpoints else []
        for digest in self.picture.request.pictures_after(done):
            flags += ["--picture", f"{digest}={self.picture.files[digest]}"]
        return flags

    def is_as_wanted(self, snakemake: SnakemakeRun, params: Sequence[Any], receipts: Iterable[str]) -> bool:
        """Whether the picture is there, was made with these params, and is newer than the receipts of what it is made with."""
        path = RESULTS / self.picture.path
        try:
            made_ns = path.stat().st_mtime_ns
            if any(Path(receipt).stat().st_mtime_ns > made_ns for receipt in receipts):
                return False
        except OSError:
            return False
        return set(map(repr, params)) <= set(snakemake.recorded_params(path))


def mark_inputs(job: StageJob, mark: Callable[[str], str], there: str) -> list[str]:
    """The inputs of a stage whose own picture is as wanted, each marked by `mark` as ancient.

    One that is missing stands there by name only, with the file `there` in its place: it is made for its own sake, if at all.
    """
    return [mark(path) if Path(path).exists() else in_place_of(path, there) for path in job.inputs]
