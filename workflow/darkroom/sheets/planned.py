"""What sheets ask for: pictures, each a file with the request that decides it, and how many each prompt becomes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from darkroom.base.text import format_count
from darkroom.pictures.formats import PNG
from darkroom.pictures.latents import latent_path
from darkroom.request.render_request import RenderRequest
from darkroom.sheets.ratings import Ratings


@dataclass(frozen=True, slots=True)
class PlannedPicture:
    """A picture that a sheet asks for: its place, and the request that decides it, of which the last stage makes it."""

    sheet: str
    checkpoint: str
    id: str
    seed: int
    request: RenderRequest
    study: dict[str, Any] | None = None
    """The cell of a study: its prompt's id, the axes' labels, the draw and the template."""
    stage: str = ""
    """What stands behind the seed in its name: labels of axes, and the stage's number and name; empty for a first pass."""
    before: str | None = None
    """The path of the picture that the last stage is applied to; None for a first pass, and where a given file is."""
    files: Mapping[str, str] = field(default_factory=dict)
    """The paths of the picture files that the request's stages name, by their SHA256, and of the one it begins with."""
    is_result: bool = True
    """False for a picture that is made for the stages after it only."""

    @property
    def name(self) -> str:
        """`SHEET/CHECKPOINT/ID-SEED`, or `…/ID-SEED.1-STAGE`: its place below results/ without the suffix."""
        return f"{self.sheet}/{self.checkpoint}/{self.id}-{self.seed}{self.stage and f'.{self.stage}'}"

    @property
    def path(self) -> str:
        """Its place below results/."""
        return self.name + PNG.suffix

    @property
    def latent_path(self) -> str:
        """The place below results/ of its latents, where a stage needs them."""
        return latent_path(self.path)

    @property
    def renderer(self) -> str:
        """The checkpoint that makes it of what is before: its own one, or that of its last stage."""
        return self._models[-1]

    @property
    def checkpoints(self) -> list[str]:
        """All checkpoints that its pixels or its metadata depend on, the one that renders it first."""
        own = [self.checkpoint] if self.request.needs_own_checkpoint else []
        return list(dict.fromkeys([self.renderer, *own, *filter(None, self.request.checkpoints)]))

    @property
    def turn(self) -> int:
        """How often the checkpoint changes in its chain."""
        models = self._models if self.request.image is None else self._models[1:]
        return sum(one != other for one, other in pairwise(models))

    @property
    def _models(self) -> list[str]:
        """The checkpoint of the first pass and of each stage."""
        return [self.checkpoint, *(name or self.checkpoint for name in self.request.checkpoints)]

    @property
    def takes_latents_at(self) -> float | None:
        """After which part of the pass before its stage takes the latents: 1 at the end; None if it works on the picture."""
        count = len(self.request.stages)
        return self.request.latents_at(count - 1) if count else None

    @property
    def needs_latent(self) -> bool:
        """Whether its stage works on the latents of the picture before."""
        return self.takes_latents_at is not None

    def as_dict(self) -> dict[str, Any]:
        """As JSON-ready data with the fields of `darkroom.pictures.picture.GalleryPicture`."""
        data = {name: getattr(self, name) for name in ("sheet", "checkpoint", "id", "seed", "path")}
        more: dict[str, Any] = {"study": self.study, "stage": self.stage or None, "before": self.before}
        more |= {} if self.is_result else {"is_result": False}
        given = {name: value for name, value in more.items() if value is not None}
        return {**data, "request": self.request.model_dump(mode="json"), **given}


def prompt_id(picture: PlannedPicture) -> str:
    """The id of the prompt that a picture belongs to."""
    return str((picture.study or {}).get("prompt", picture.id))


def latents_of(pictures: Iterable[PlannedPicture]) -> dict[str, set[float]]:
    """The paths of the latents that stages of the pictures need, with the parts of the pass after which they take them."""
    found: dict[str, set[float]] = {}
    for picture in pictures:
        part = picture.takes_latents_at
        if part is not None and picture.before:
            found.setdefault(latent_path(picture.before), set()).add(part)
    return found


@dataclass(frozen=True, slots=True)
class PromptCount:
    """How many pictures a prompt becomes: the number of values of each thing that multiplies, and of cells left out or added."""

    id: str
    factors: Mapping[str, int]
    excluded: int
    included: int
    pictures: int

    def describe(self) -> str:
        """`sailor: 2 age × 3 look × 2 checkpoints = 12, 2 excluded, 10 pictures`."""
        factors = " × ".join(f"{number} {name}" for name, number in self.factors.items() if number > 1) or "1 cell"
        parts = [f"{self.id}: {factors} = {math.prod(self.factors.values()):,}"]
        parts += [f"{self.excluded:,} excluded"] if self.excluded else []
        parts += [f"{self.included:,} included"] if self.included else []
        return ", ".join([*parts, format_count(self.pictures, "picture")])


class PlannedSheet(list[PlannedPicture]):
    """The pictures of a sheet in its order; `counts` says how they come about.

    `study` is `Study.table()`, None for a sheet that is no study. `ratings` are what people think of its pictures, None without
    the file `ratings_path`.
    """

    ratings: Ratings | None = None
    ratings_path: Path | None = None

    def __init__(
        self,
        pictures: Iterable[PlannedPicture] = (),
        counts: Sequence[PromptCount] = (),
        study: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(pictures)
        self.counts = tuple(counts)
        self.study = study

    @property
    def results(self) -> list[PlannedPicture]:
        """The pictures that aren't only there for the stages after them."""
        return [picture for picture in self if picture.is_result]

    def notes(self) -> list[str]:
        """A line about ratings of pictures that aren't the sheet's, if there are some."""
        names = {picture.name.partition("/")[2] for picture in self}
        note = None if self.ratings is None else self.ratings.describe_unknown(names)
        return [] if note is None else [note]

    def describe(self) -> str:
        """`12 pictures`, or `12 pictures in 36 files` where stages were applied."""
        files = "" if len(self.results) == len(self) else f" in {format_count(len(self), 'file')}"
        return format_count(len(self.results), "picture") + files
