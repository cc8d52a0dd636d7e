"""Pictures brought to another shape: stretched, cropped, filled, padded. Modes are RGB and, for masks, L."""

from __future__ import annotations

from typing import TYPE_CHECKING

from darkroom.request.control import ResizeMode
from darkroom.request.stages.stage import next_multiple_of_8

if TYPE_CHECKING:
    from PIL.Image import Image

Size = tuple[int, int]


def fit(image: Image, size: Size, mode: ResizeMode) -> Image:
    """The picture at that size (width, height), resized with Lanczos as in A1111 (modules/images.py, resize_image).

    `stretch` changes its proportions; `crop` keeps them and cuts off what is too much on both sides; `fill` keeps them and
    repeats the pixels at the edges.
    """
    from PIL import Image as Images

    if image.size == size:
        return image
    inner = size if mode == "stretch" else _inner(image.size, size, is_larger=mode == "crop")
    resized = image.resize(inner, Images.Resampling.LANCZOS)
    if inner == size:
        return resized
    left, top = (outer // 2 - within // 2 for outer, within in zip(size, inner, strict=True))
    if mode == "crop":
        return resized.crop((-left, -top, size[0] - left, size[1] - top))
    return extend(resized, left, top, size[0] - left - inner[0], size[1] - top - inner[1])


def extend(image: Image, left: int, top: int, right: int, bottom: int) -> Image:
    """The picture with so many more pixels at its sides, which repeat those at the edges."""
    import numpy as np
    from PIL import Image as Images

    sides = [(top, bottom), (left, right)] + ([(0, 0)] if image.mode == "RGB" else [])
    return Images.fromarray(np.pad(np.asarray(image), sides, mode="edge"))


def pad_for_latents(image: Image) -> Image:
    """The picture extended at its right and lower side, so that its edges are multiples of 8."""
    width, height = image.size
    right, bottom = next_multiple_of_8(width) - width, next_multiple_of_8(height) - height
    return extend(image, 0, 0, right, bottom) if right or bottom else image


def cut_to(image: Image, size: Size) -> Image:
    """The picture without what `pad_for_latents` added."""
    return image if image.size == size else image.crop((0, 0, *size))


def _inner(of: Size, size: Size, *, is_larger: bool) -> Size:
    """The size, in the proportions of a picture, that just covers `size`, or just fits into it."""
    (width, height), (wide, high) = of, size
    is_wider = wide * height > high * width  # the space, in proportion
    if is_wider == is_larger:
        return wide, max(1, height * wide // width)
    return max(1, width * high // height), high
