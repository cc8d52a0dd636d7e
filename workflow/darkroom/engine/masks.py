"""Masks for inpainting: grey pictures (L) in which white is made anew. The arithmetic is A1111's.

Sources: modules/processing.py (create_binary_mask, StableDiffusionProcessingImg2Img.init) and modules/masking.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from darkroom.engine.canvas import Size

if TYPE_CHECKING:
    from PIL.Image import Image

Box = tuple[int, int, int, int]
"""Left, upper, right and lower edge in pixels."""
_THRESHOLD = 128
_KERNEL_SIGMAS = 2.5
_FILL = ((256, 1), (64, 1), (16, 2), (4, 4), (2, 2), (0, 1))
"""Radii of the blurs that fill a masked part, and how often each is laid over those before it."""


def rounded(mask: Image, size: Size) -> Image:
    """A mask in black and white at that size, from a picture of any mode: white is brighter than 128.

    Of a picture with transparent parts the opaque part counts, whatever its colours.
    """
    if "A" in mask.getbands() and mask.getchannel("A").getextrema() != (255, 255):
        grey = mask.getchannel("A")
    else:
        grey = mask.convert("L")
    grey = grey if grey.size == size else grey.resize(size)
    return grey.point([255 if value > _THRESHOLD else 0 for value in range(256)])


def inverted(mask: Image) -> Image:
    """Black for white."""
    return mask.point([255 - value for value in range(256)])


def doubled(mask: Image) -> Image:
    """Twice as bright: a blurred mask that reaches as far, with a core that covers what latents were made anew."""
    return mask.point([min(2 * value, 255) for value in range(256)])


def blurred(mask: Image, blur: int) -> Image:
    """Gaussian blur of standard deviation `blur` pixels, along each axis over 2.5 of them (OpenCV's borders: mirrored)."""
    import numpy as np
    from PIL import Image as Images
    from scipy.ndimage import gaussian_filter1d

    if not blur:
        return mask
    values = np.asarray(mask, np.float64)
    for axis in (1, 0):
        values = np.rint(gaussian_filter1d(values, blur, axis=axis, mode="mirror", truncate=_KERNEL_SIGMAS))
    return Images.fromarray(values.clip(0, 255).astype(np.uint8))


def filled(image: Image, mask: Image) -> Image:
    """The RGB picture whose masked part has the colours of its surroundings, as far as blurring carries them."""
    from PIL import Image as Images
    from PIL import ImageFilter

    around = Images.new("RGBa", image.size)  # colours multiplied by their opacity, so that the masked part has none
    around.paste(image.convert("RGBA").convert("RGBa"), mask=inverted(mask))
    result = Images.new("RGBA", image.size)
    for radius, times in _FILL:
        layer = around.filter(ImageFilter.GaussianBlur(radius)).convert("RGBA")
        for _ in range(times):
            result.alpha_composite(layer)
    return result.convert("RGB")


def part_around(mask: Image, padding: int, work: Size) -> Box:
    """The box around everything that isn't black, with `padding`, in the proportions of `work` where there is room.

    The mask must not be all black.
    """
    box = mask.getbbox()
    assert box is not None
    wide, high = mask.size
    left, top = max(box[0] - padding, 0), max(box[1] - padding, 0)
    right, bottom = min(box[2] + padding, wide), min(box[3] + padding, high)
    ratio = work[0] / work[1]
    if (right - left) / (bottom - top) > ratio:
        top, bottom = _longer(top, bottom, int((right - left) / ratio - (bottom - top)), high)
    else:
        left, right = _longer(left, right, int((bottom - top) * ratio - (right - left)), wide)
    return left, top, right, bottom


def _longer(start: int, end: int, more: int, limit: int) -> tuple[int, int]:
    """A range longer by `more`, half at each end, moved so that it lies within 0 and `limit`, and cut there."""
    start, end = start - more // 2, end + more - more // 2
    if end >= limit:
        start, end = start - (end - limit), limit
    if start < 0:
        start, end = 0, end - start
    return start, min(end, limit)


def latent_mask(mask: Image) -> Any:
    """The mask for latents (1, 1, h/8, w/8) in fp32: 1 where they are made anew, else 0. Edges in multiples of 8."""
    import numpy as np
    import torch
    from PIL import Image as Images

    small = mask.resize((mask.width // 8, mask.height // 8), Images.Resampling.BICUBIC)
    return torch.from_numpy(np.around(np.asarray(small, np.float32) / 255))[None, None]
