"""The chain: a first picture, or one that is given, and the stages after it, each of the picture before.

Between stages a picture is 8-bit RGB, as it is in a file, so a chain gives the same when it is resumed from files.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from darkroom.engine.chain_models import check_roles
from darkroom.engine.image_to_image import Made, hires, img2img, refine, upscale
from darkroom.engine.inpainting import inpaint, outpaint
from darkroom.engine.passes import Passes
from darkroom.engine.tiles import tile
from darkroom.errors import RequestError
from darkroom.request.render_request import RenderRequest
from darkroom.request.samplers import find_sampler
from darkroom.request.stages import DenoisingStage, Hires, Img2Img, Inpaint, Outpaint, Refine, Stage, Tile, Upscale

_STAGES: dict[type[Stage], Callable[[Any, Made, Passes], Made]] = {
    Hires: hires,
    Img2Img: img2img,
    Inpaint: inpaint,
    Outpaint: outpaint,
    Refine: refine,
    Tile: tile,
    Upscale: upscale,
}


def run_chain(passes: Passes, stages_done: int) -> Made:
    """The picture after all stages, of which so many are done. What the last one made is not decoded yet.

    Raises what `denoise` raises, and RequestError (E-REQUEST) for pictures that don't fit.
    """
    request = passes.request
    made = _begin(passes, stages_done)
    check_roles(request, stages_done, refiner=passes.refiner, is_first_made=made.image is not None)
    passes.watch.expect(count_calls(request, made, stages_done, is_first_made=made.image is not None))
    if made.image is None and made.latents is None:
        made = Made(made.size, latents=passes.first())
    for number, stage in enumerate(request.stages[stages_done:], stages_done):
        part = request.latents_at(number)
        if made.latents is None and part is not None:
            latents = passes.files.latents_before(made.size, part)
            made = Made(made.size, made.image, latents.to(passes.device))
        elif made.latents is not None and part is None:
            made = Made(made.size, made.picture(passes.decode))
        made = _STAGES[type(stage)](stage, made, passes)
    return made


def _begin(passes: Passes, stages_done: int) -> Made:
    """The picture that the first stage begins with; nothing but its size if it is yet to be made."""
    request, files = passes.request, passes.files
    if files.has_before:
        image = files.before()
    elif request.image is not None:
        image = files.picture(request.image)
    else:
        return Made((request.width, request.height))
    if not stages_done:
        _check_size(request, image.size)
    return Made(image.size, image)


def _check_size(request: RenderRequest, size: tuple[int, int]) -> None:
    """Raise RequestError (E-REQUEST) unless the request has the first picture's size, in multiples of 8."""
    expected = tuple(-(-edge // 8) * 8 for edge in size)
    if expected != (request.width, request.height):
        why = f"is not that of the picture, which has {size[0]}x{size[1]} pixels"
        hint = f"give {expected[0]}x{expected[1]}"
        raise RequestError("size", f"{request.width}x{request.height}", why, hint)


def count_calls(request: RenderRequest, made: Made, stages_done: int, *, is_first_made: bool) -> int:
    """How often the model is called, or an upscaler, which counts as one step."""
    calls = 0 if is_first_made else find_sampler(request.sampler).calls(request.steps)
    size = made.size
    for stage in request.stages[stages_done:]:
        if isinstance(stage, Upscale):
            calls += 1
        if isinstance(stage, DenoisingStage) and stage.is_pass:
            effective = request.for_stage(stage, *stage.work_size(*size))
            run = stage.split_steps(effective.steps)[1]
            times = len(stage.places(*size)) if isinstance(stage, Tile) else 1
            calls += times * find_sampler(effective.sampler).calls(run)
        size = stage.size_after(*size)
    return calls
