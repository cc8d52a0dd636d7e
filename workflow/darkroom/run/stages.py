"""The jobs of pictures that stages make of other pictures: what goes in, how, and what a run need not make again.

A stage's params hold its chain's whole request, so whatever decides the picture before decides it too. Its input is therefore
`ancient` while its own file is as it should be: a picture before that is deleted or damaged is made again alone. Otherwise it
is a plain input, because Snakemake doesn't look at a job's own params where an ancient input of it is made in the same run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darkroom.pictures.formats import PNG
from darkroom.run.snakemake_api import SnakemakeRun
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
        for digest, path in self.picture.files.items():
            flags += ["--picture", f"{digest}={path}"]
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


def mark_inputs(job: StageJob, snakemake: SnakemakeRun, mark: Callable[[str], str]) -> list[str]:
    """The inputs of a stage whose own picture is as wanted, each marked by `mark` as ancient.

    A picture that is missing is made again all the same, and this stage isn't; latents that are missing aren't needed.
    """
    for path in job.inputs:
        if not Path(path).exists():
            snakemake.take_as_there(path)
            if path.endswith(PNG.suffix):
                snakemake.force(path)
    return [mark(path) for path in job.inputs]
