"""SDXL's refiner: the stage `refine`, and that no other pass is asked of it.

It knows the lowest noise levels alone, reads prompts with the second text encoder, and is told an aesthetic score in place of the
picture's target size. Latents are handed over as they are, in the sampler's own scale, as between diffusers' pipelines.
"""

from __future__ import annotations

from darkroom.engine.canvas import pad_for_latents
from darkroom.engine.control_pictures import View
from darkroom.engine.image_to_image import Made
from darkroom.engine.passes import Passes
from darkroom.errors import RequestError
from darkroom.request.stages import DenoisingStage, Refine


def refine(stage: Refine, before: Made, passes: Passes) -> Made:
    """The rest of the pass before, or a pass over its picture or over its latents at the switch."""
    if before.latents is None:
        padded = pad_for_latents(before.picture(passes.decode))
        view, latents = View.of_all(padded.size, lambda: padded), passes.encode(padded)
    else:
        latents = before.latents
        view = View.of_all((latents.shape[-1] * 8, latents.shape[-2] * 8))
    made = passes.go_on(stage, view, latents) if stage.goes_on else passes.denoise(stage, view, latents)
    return Made(before.size, latents=made)


def check_model(passes: Passes, stages_done: int) -> None:
    """Raise RequestError (E-REQUEST) if the model is a refiner and has to do something else, or has to refine and is none."""
    request = passes.request
    is_first_made = passes.files.has_before or request.image is not None
    if passes.is_refiner and not is_first_made:
        raise _refused(None, "can't begin a picture")
    for stage in request.stages[stages_done:]:
        if not isinstance(stage, DenoisingStage) or isinstance(stage, Refine) == passes.is_refiner:
            continue
        if passes.is_refiner:
            raise _refused(stage.name, "refines alone")
        why = "is no SDXL refiner, which this stage goes on with"
        raise RequestError(
            "refine: checkpoint", stage.checkpoint, why, "name a checkpoint of architecture sdxl-refiner"
        )


def _refused(stage: str | None, why: str) -> RequestError:
    what = "checkpoint" if stage is None else f"{stage}: checkpoint"
    hint = "name it in a stage: then: [{refine: {checkpoint: NAME}}]"
    return RequestError(what, None, f"is an SDXL refiner, which {why}", hint)
