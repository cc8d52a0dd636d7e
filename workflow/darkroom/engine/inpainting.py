"""The stages inpaint and outpaint: a part of the picture made anew, every pixel outside of the mask kept.

As A1111 (modules/processing.py): latents outside of the mask are kept at every step, and at the end the picture is pasted
into the one before through the blurred mask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from darkroom.engine.canvas import Size, cut_to, extend, fit, pad_for_latents
from darkroom.engine.control_pictures import View
from darkroom.engine.image_to_image import Made
from darkroom.engine.masks import blurred, doubled, filled, inverted, latent_mask, part_around, rounded
from darkroom.engine.passes import Passes
from darkroom.errors import RequestError
from darkroom.request.stages import Inpaint, Outpaint

if TYPE_CHECKING:
    from PIL.Image import Image


def inpaint(stage: Inpaint, before: Made, passes: Passes) -> Made:
    """The masked part made anew, within the whole picture or by itself."""
    image, size = before.picture(passes.decode), stage.size_after(*before.size)
    mask = rounded(passes.files.mask(stage.mask), image.size)
    mask = inverted(mask) if stage.invert else mask
    if mask.getbbox() is None:
        why = f"has nothing {'black' if stage.invert else 'white'} in it that could be made anew"
        raise RequestError("mask", stage.mask, why, "paint the part, or change invert")
    mask = blurred(mask, stage.mask_blur)
    if not stage.denoising_strength:
        return Made(size, image if stage.only_masked else fit(image, size, stage.resize_mode))
    if stage.only_masked:
        return _part(stage, image, mask, passes)
    image, mask = fit(image, size, stage.resize_mode), fit(mask, size, stage.resize_mode)
    return _whole(stage, image, mask, doubled(mask), passes)


def outpaint(stage: Outpaint, before: Made, passes: Passes) -> Made:
    """The canvas extended, and the new part made anew."""
    sides = (stage.left, stage.up, stage.right, stage.down)
    canvas = extend(before.picture(passes.decode), *sides)
    if not stage.denoising_strength:
        return Made(canvas.size, canvas)
    mask = _new_part(before.size, sides, stage.mask_blur)
    return _whole(stage, canvas, mask, mask, passes)


def _whole(stage: Inpaint | Outpaint, image: Image, mask: Image, overlay: Image, passes: Passes) -> Made:
    """The picture with what is white in `mask` made anew, and pasted through `overlay`."""
    from PIL import Image as Images

    padded = pad_for_latents(image)
    latents = _denoise(stage, padded, pad_for_latents(mask), View.of_all(padded.size, lambda: padded), passes)
    return Made(
        image.size,
        latents=latents,
        finish=lambda made: Images.composite(cut_to(made, image.size), image, overlay),
    )


def _part(stage: Inpaint, image: Image, mask: Image, passes: Passes) -> Made:
    """The picture with the part around the mask brought to the stage's size, made anew, and pasted back."""
    from PIL import Image as Images

    work = stage.work_size(*image.size)
    box = part_around(mask, stage.padding, work)
    part, around = fit(image.crop(box), work, "fill"), fit(mask.crop(box), work, "fill")
    view = View.of_all(image.size, lambda: image).part(box, work)
    latents = _denoise(stage, part, around, view, passes)

    def finish(made: Image) -> Image:
        pasted = image.copy()
        pasted.paste(fit(made, (box[2] - box[0], box[3] - box[1]), "crop"), box[:2])
        return Images.composite(pasted, image, mask)

    return Made(image.size, latents=latents, finish=finish)


def _denoise(stage: Inpaint | Outpaint, image: Image, mask: Image, view: View, passes: Passes) -> Any:
    """Latents of the picture, whose edges are multiples of 8, with what is white in the mask made anew."""
    import torch

    content = stage.masked_content
    latents = passes.encode(image if content == "original" else filled(image, mask))
    anew = latent_mask(mask).to(latents.device)
    if content in ("latent noise", "latent nothing"):
        latents = latents * (1 - anew)
    if content == "latent noise":  # the seed's, which is the noise that is added as well
        generator = torch.Generator("cpu").manual_seed(passes.request.seed)
        latents = latents + torch.randn(latents.shape, generator=generator).to(latents.device) * anew
    return passes.denoise(stage, view, latents, anew=anew)


def _new_part(old: Size, sides: tuple[int, int, int, int], blur: int) -> Image:
    """The mask of an extended canvas: white where it is new, and fading to black over `blur` pixels of the old part."""
    import numpy as np
    from PIL import Image as Images

    def fade(length: int, before: int, after: int) -> Any:
        """How much each row or column is new, from 0 to 1."""
        places = np.arange(length + before + after) + 0.5
        depths = [places - before] * bool(before) + [before + length - places] * bool(after)
        depth = np.minimum.reduce([np.full(len(places), np.inf), *depths])  # how far it lies within the old part
        return (1 - depth / blur).clip(0, 1) if blur else (depth < 0).astype(float)

    left, up, right, down = sides
    across, along = fade(old[0], left, right), fade(old[1], up, down)
    values = np.maximum(across[None], along[:, None])
    return Images.fromarray(np.rint(values * 255).astype(np.uint8))
