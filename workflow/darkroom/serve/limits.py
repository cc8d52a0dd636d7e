"""What a request may ask for, its stages included, and the picture files that have to come with it."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import TYPE_CHECKING

from darkroom.errors import LimitError, RequestError
from darkroom.request.render_request import RenderRequest
from darkroom.request.stages import DenoisingStage, Stage, Tile
from darkroom.serve.frames import BEFORE, BEFORE_LATENT

if TYPE_CHECKING:
    from darkroom.config import ServeConfig


def check_limits(request: RenderRequest, limits: ServeConfig) -> None:
    """Raise LimitError (E-LIMIT) for a picture with more pixels after a stage, steps of all stages or LoRAs than allowed."""
    width, height = max(request.sizes if request.image is None else request.sizes[1:], key=math.prod)
    steps = count_steps(request)
    asked = (
        ("size", f"{width}x{height}", width * height, limits.max_pixels, "pixels"),
        ("steps", steps, steps, limits.max_steps, "steps"),
        ("loras", len(request.all_loras), len(request.all_loras), limits.max_loras, "LoRAs"),
    )
    for what, value, count, most, unit in asked:
        if count > most:
            raise LimitError(what, value, f"this server makes pictures of at most {most:,} {unit}", "ask for less")


def count_steps(request: RenderRequest, stages_done: int = 0, *, is_first_done: bool = False) -> int:
    """The sampling steps of the first pass and of all stages that are still to be made."""
    has_first = request.image is None and not stages_done and not is_first_done
    ahead = list(zip(request.stages, request.sizes, strict=False))[stages_done:]
    return (request.steps if has_first else 0) + sum(_steps_of(stage, request, size) for stage, size in ahead)


def _steps_of(stage: Stage, request: RenderRequest, size: tuple[int, int]) -> int:
    """The steps that a stage runs on a picture of that size, each tile's for themselves."""
    if not isinstance(stage, DenoisingStage):
        return 0
    tiles = len(stage.places(*size)) if isinstance(stage, Tile) else 1
    return tiles * stage.split_steps(stage.steps or request.steps)[1]


def check_pictures(request: RenderRequest, given: Collection[str], stages_done: int = 0) -> None:
    """Raise RequestError (E-REQUEST) unless the files are those that the stages from `stages_done` on are made from.

    Those of stages before may be among them.
    """
    if not 0 <= stages_done < max(1, len(request.stages)):
        why = f"are not possible in a chain of {len(request.stages)}"
        raise RequestError("stages done", stages_done, why, "leave out the stages that are there")
    needed = set(request.pictures_after(stages_done))
    if stages_done or BEFORE_LATENT in given:
        needed.add(BEFORE)
    known = {*request.pictures, *({BEFORE, BEFORE_LATENT} if stages_done or request.image is None else ())}
    for name in sorted(needed - set(given)):
        raise RequestError("picture", name, "is needed by the request, and was not given", "give its file")
    for name in sorted(set(given) - (known if request.stages else set(request.pictures))):
        raise RequestError("picture", name, "is none that the request names", "leave it out")
