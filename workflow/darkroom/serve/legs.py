"""Legs: the parts of a picture's chain that one checkpoint makes, each from the picture of the leg before.

What passes between two legs is what passes between two jobs of the workflow: the PNG, and latents where the next stage works on
them. So a chain gives the same bytes here and there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from darkroom.request.assets import ASSETS, AssetNames, settle, used_assets
from darkroom.request.render_request import RenderRequest
from darkroom.request.stages import DenoisingStage
from darkroom.serve.frames import BEFORE, BEFORE_LATENT
from darkroom.serve.limits import count_steps

if TYPE_CHECKING:
    from darkroom.serve.answers import Rendered


@dataclass(frozen=True, slots=True)
class Leg:
    """The stages of `request` after the first `stages_done`, and the first pass if none is done, by the checkpoint `model`.

    It is None for the picture's own. With `keep_latents` the next leg works on the latents of this one, and with `latents_at` on
    those at a refiner's switch.
    """

    model: str | None
    request: RenderRequest
    stages_done: int
    keep_latents: bool
    is_first: bool
    latents_at: tuple[float, ...] = ()

    @property
    def steps(self) -> int:
        """The sampling steps."""
        return count_steps(self.request, self.stages_done, is_first_done=not self.is_first)

    def own(self, name: str) -> str | None:
        """The picture's own checkpoint, of this name, as the engine of another one needs it; None if it is this leg's."""
        is_other = self.model is not None and self.request.needs_own_checkpoint
        return name if is_other else None

    def files(self, given: Mapping[str, bytes], before: Rendered | None) -> dict[str, bytes]:
        """What the engine needs: of the files that came with the request, and of the leg before."""
        files = {sha256: given[sha256] for sha256 in self.request.pictures_after(self.stages_done)}
        if before is not None:
            files[BEFORE] = before.png
            files |= {} if before.latents is None else {BEFORE_LATENT: before.latents}
        return files


def legs_of(request: RenderRequest) -> list[Leg]:
    """The legs of a chain, in their order; a single one if its checkpoint never changes."""
    models = request.checkpoints
    model = models[0] if models and request.image is not None else None
    legs, start = list[Leg](), 0
    for number, other in [*enumerate(models), (len(models), None)]:
        is_last = number == len(models)
        if not is_last and other == model:
            continue
        part = request if is_last else _cut(request, number)
        taken = None if is_last else request.latents_at(number)
        switches = () if taken in (None, 1) else (taken,)
        legs.append(Leg(model, part, start, taken == 1, not legs, switches))
        model, start = other, number
    return legs


def _cut(request: RenderRequest, count: int) -> RenderRequest:
    """The settled request of the picture after so many stages."""
    part = request.model_copy(update={"stages": request.stages[:count]})
    if not request.embeddings:
        return part
    used = used_assets(request)
    names = AssetNames(**{kind: [name for other, name in used if other == kind] for kind in ASSETS})
    return settle(part.model_copy(update={"embeddings": ()}), names)


def with_names(request: RenderRequest, name_of: Callable[[str], str], own: str | None = None) -> RenderRequest:
    """The request with each stage's checkpoint by its proper name, which `name_of` gives or refuses; `own` is no other one."""
    stages = tuple(
        stage.model_copy(update={"checkpoint": name_of(stage.checkpoint)})
        if isinstance(stage, DenoisingStage) and stage.checkpoint is not None
        else stage
        for stage in request.stages
    )
    named = request.model_copy(update={"stages": stages}) if any(request.checkpoints) else request
    return named if own is None else named.of_checkpoint(own)
