"""The stages img2img, hires, refine and upscale: the whole picture brought to another size, and denoised again.

Names and arithmetic are A1111's (modules/processing.py: StableDiffusionProcessingImg2Img.init, sample_hr_pass).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from darkroom.engine.canvas import Size, cut_to, fit, pad_for_latents
from darkroom.engine.control_pictures import View
from darkroom.engine.passes import Passes
from darkroom.request.stages import Hires, Img2Img, Refine, Upscale

if TYPE_CHECKING:
    from PIL.Image import Image

_MODES: dict[str, tuple[str, bool]] = {
    "Latent": ("bilinear", False),
    "Latent (antialiased)": ("bilinear", True),
    "Latent (bicubic)": ("bicubic", False),
    "Latent (bicubic antialiased)": ("bicubic", True),
    "Latent (nearest)": ("nearest", False),
    "Latent (nearest-exact)": ("nearest-exact", False),
}
"""torch's mode of interpolation and its `antialias` (modules/shared_items.py, latent_upscale_modes)."""


@dataclass(frozen=True, slots=True)
class Made:
    """A picture between two stages: `image` (RGB), or latents (1, 4, h/8, w/8) that `finish` makes it of, once decoded.

    `size` is its width and height in pixels.
    """

    size: Size
    image: Image | None = None
    latents: Any = None
    finish: Callable[[Image], Image] | None = None

    def picture(self, decode: Callable[[Any], Image]) -> Image:
        """The finished picture."""
        if self.image is not None:
            return self.image
        image = decode(self.latents)
        return cut_to(image, self.size) if self.finish is None else self.finish(image)


def img2img(stage: Img2Img, before: Made, passes: Passes) -> Made:
    """The picture at the stage's size, with noise added and denoised again."""
    size = stage.size_after(*before.size)
    image = fit(before.picture(passes.decode), size, stage.resize_mode)
    if not stage.denoising_strength:
        return Made(size, image)
    padded = pad_for_latents(image)
    view = View.of_all(padded.size, lambda: padded)
    return Made(size, latents=passes.denoise(stage, view, passes.encode(padded)))


def hires(stage: Hires, before: Made, passes: Passes) -> Made:
    """The picture or its latents enlarged, what is too much cropped on both sides, and denoised again."""
    size, whole = stage.size_after(*before.size), stage.enlarged(*before.size)
    left, top = ((long - short) // 8 // 2 for long, short in zip(whole, size, strict=True))
    if stage.is_latent:
        known = before.latents
        if known is None:
            known = passes.encode(pad_for_latents(before.picture(passes.decode)))
        latents = _enlarged(known, whole, stage.upscaler)
        latents = latents[..., top : top + size[1] // 8, left : left + size[0] // 8]
        view = View.of_all(size, lambda: fit(before.picture(passes.decode), size, "crop"))
    else:
        image = passes.upscale(before.picture(passes.decode), stage.upscaler, whole)
        image = image.crop((left * 8, top * 8, left * 8 + size[0], top * 8 + size[1]))
        if not stage.denoising_strength:
            return Made(size, image)
        latents, view = passes.encode(image), View.of_all(size, lambda: image)
    return Made(size, latents=passes.denoise(stage, view, latents) if stage.denoising_strength else latents)


def refine(stage: Refine, before: Made, passes: Passes) -> Made:
    """The rest of the pass before, or a pass over its picture or over its latents at the switch, by SDXL's refiner.

    The latents are handed over as they are, in the sampler's own scale, as between diffusers' pipelines.
    """
    if before.latents is None:
        padded = pad_for_latents(before.picture(passes.decode))
        view, latents = View.of_all(padded.size, lambda: padded), passes.encode(padded)
    else:
        latents = before.latents
        view = View.of_all((latents.shape[-1] * 8, latents.shape[-2] * 8))
    made = passes.go_on(stage, view, latents) if stage.goes_on else passes.denoise(stage, view, latents)
    return Made(before.size, latents=made)


def upscale(stage: Upscale, before: Made, passes: Passes) -> Made:
    """The picture enlarged by an upscaler."""
    size = stage.size_after(*before.size)
    image = passes.upscale(before.picture(passes.decode), stage.upscaler, size)
    passes.watch.count()
    return Made(size, image)


def _enlarged(latents: Any, size: Size, upscaler: str) -> Any:
    """Latents in fp32 for a picture of that size."""
    import torch

    mode, antialias = _MODES[upscaler]
    shape = (size[1] // 8, size[0] // 8)
    return torch.nn.functional.interpolate(latents.float(), size=shape, mode=mode, antialias=antialias)
