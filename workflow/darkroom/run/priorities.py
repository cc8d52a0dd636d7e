"""In which order pictures are rendered, so that an engine changes what is costly to change as seldom as it can.

A chain whose stages have another checkpoint is rendered in turns: all first passes, then all stages that follow the first change
of the checkpoint, and so on. Within a turn each checkpoint is loaded once, and where two turns meet, none if they can share one.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable
from pathlib import Path

from darkroom.request.stages import DenoisingStage
from darkroom.sheets.planned import PlannedPicture

Cost = tuple[Hashable, ...]
"""What takes time when it differs from the picture before."""
Turn = tuple[int, str]
"""A turn's number, and a checkpoint that is loaded in it."""


def rank_pictures(pictures: Collection[PlannedPicture], checkpoints: list[str]) -> dict[Cost, int]:
    """The place of each kind of picture in the order of rendering; `checkpoints` are in the order in which they are ready."""
    turns = {turn: place for place, turn in enumerate(_order_turns(pictures, checkpoints))}
    ordered = sorted(pictures, key=lambda picture: turns[picture.turn, picture.renderer])
    costs = dict.fromkeys(map(costs_of_change, ordered))
    first: dict[tuple[int, Hashable], int] = {}
    for cost in costs:
        for level in enumerate(cost):
            first.setdefault(level, len(first))
    ranked = sorted(costs, key=lambda cost: [first[level] for level in enumerate(cost)])
    return {cost: rank for rank, cost in enumerate(ranked)}


def sort_ready(checkpoints: Iterable[str], models_dir: Path) -> list[str]:
    """The checkpoints, those first that are converted already.

    One that becomes ready during the run would otherwise come between the pictures of another, which would be loaded twice.
    """
    return sorted(checkpoints, key=lambda name: not (models_dir / f"verified/{name}.json").is_file())


def costs_of_change(picture: PlannedPicture) -> Cost:
    """What takes time when it differs from the picture before, the costliest first: models, the size, texts to encode.

    A stage is rendered with the models of its first pass as far as it can, so its pictures follow those with the same ones.
    """
    request = picture.request
    size = request.sizes[-1]
    if request.stages and isinstance(last := request.stages[-1], DenoisingStage):
        request = request.model_copy(update=last.settings())
    loaded = ((picture.turn, picture.renderer), request.vae, request.all_loras)
    return *loaded, size, request.sampler, request.prompts


def _order_turns(pictures: Iterable[PlannedPicture], checkpoints: list[str]) -> list[Turn]:
    """The turns in their order, and in each its checkpoints: first the one that is loaded, last one that the next turn needs."""
    found: dict[int, set[str]] = {}
    for picture in pictures:
        found.setdefault(picture.turn, set()).add(picture.renderer)
    ordered: list[Turn] = []
    for turn in sorted(found):
        loaded, next_ones = ordered[-1][1] if ordered else None, found.get(turn + 1, set())
        names = sorted(found[turn], key=checkpoints.index)
        names.sort(key=lambda name: (name != loaded, name in next_ones))
        ordered += [(turn, name) for name in names]
    return ordered
