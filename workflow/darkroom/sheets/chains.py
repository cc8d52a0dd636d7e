"""Chains: a first pass or a given picture, and the pictures that stages make of it, each a file with its own request.

    cat-1.png                           the first pass
    cat-1.1-hires.png                   the first stage
    cat-1.2-upscale.png                 the second

A value of an axis that changes stages only stands before the first stage that it changes: `cat-1.steps-9.1-hires.png`, then
`cat-1.steps-9.1-hires.2-upscale.png`. So cells that share everything before a stage share the files before it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from darkroom.errors import BadNameError
from darkroom.request.render_request import RenderRequest
from darkroom.sheets.planned import PlannedPicture
from darkroom.sheets.study import Cell

MAX_NAME = 215  # with a suffix below the 255 bytes of file systems

Facts = Callable[[Sequence[str], int], dict[str, Any] | None]
"""What a picture says of its study, given the names of the stages and how many of them it has."""


@dataclass(frozen=True, slots=True)
class Start:
    """Where a chain begins: the name that its pictures' names begin with, and the picture before its first stage, if any.

    `stages` of the requests' are that picture's own; `files` are its files and those of its stages.
    """

    id: str
    seed: int
    stage: str = ""
    before: str | None = None
    stages: int = 0
    files: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_picture(cls, picture: PlannedPicture, label: str) -> Start:
        """The start of a chain that goes on with another sheet's picture; the label, if any, is part of its names."""
        stage = ".".join(filter(None, [picture.stage, label]))
        return cls(picture.id, picture.seed, stage, picture.path, len(picture.request.stages), picture.files)


def make_chain(
    sheet: str,
    checkpoint: str,
    start: Start,
    requests: Sequence[RenderRequest],
    files: Sequence[Mapping[str, str]],
    cell: Cell,
    facts: Facts,
) -> list[PlannedPicture]:
    """The pictures of a chain, the last one at its end; `files` are those of the stages."""
    names = [stage.name for stage in requests[-1].stages[start.stages :]]
    prefix = [start.stage] if start.stage else []
    before, pictures, own = start.before, list[PlannedPicture](), dict(start.files)
    for request in requests:
        count = len(request.stages) - start.stages
        stage = ""
        if count:
            labels, end = cell.labels_at(names, count), f"{count}-{names[count - 1]}"
            stage = _shorten(f"{start.id}-{start.seed}", [*prefix, *labels], end)
            prefix += [*labels, end] if labels else []
            own = {**own, **files[count - 1]}
        picture = PlannedPicture(
            sheet, checkpoint, start.id, start.seed, request, facts(names, count), stage, before if count else None, own
        )
        before = picture.path
        pictures.append(picture)
    return pictures


def _shorten(first: str, parts: Sequence[str], end: str) -> str:
    """The parts and the end with full stops between them; a hash in the parts' place where the name would be too long."""
    whole = ".".join([*parts, end])
    if len(first) + len(whole) < MAX_NAME:
        return whole
    return f"{hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()[:10]}.{end}"


@dataclass(slots=True)
class ChainFiles:
    """The files of a sheet's chains, each once, in their order; `ends` are the names of those that chains end with."""

    pictures: dict[str, PlannedPicture] = field(default_factory=dict)
    ends: set[str] = field(default_factory=set)

    def add(self, chain: Sequence[PlannedPicture]) -> PlannedPicture:
        """Add a chain, and return its end. Raises BadNameError (E-NAME) for two different pictures of one name."""
        for picture in chain:
            known = self.pictures.setdefault(picture.name, picture)
            is_end = picture is chain[-1]
            if known.request != picture.request or (is_end and picture.name in self.ends):
                why = "is the name of two pictures of the sheet"
                raise BadNameError("picture", picture.name, why, "give an axis' value or a prompt another name")
        self.ends.add(chain[-1].name)
        return chain[-1]

    def all(self) -> list[PlannedPicture]:
        """The pictures, those that are there only for later stages marked."""
        return [
            picture if picture.name in self.ends else replace(picture, is_result=False)
            for picture in self.pictures.values()
        ]
