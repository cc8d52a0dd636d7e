"""The stage tile: a picture enlarged, and overlapping tiles of it denoised again, each as a picture of its own.

As A1111's SD upscale script, with one noise for the whole picture: where tiles overlap they start from the same, so they
differ by less than two pictures would.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from darkroom.engine.canvas import Size, pad_for_latents
from darkroom.engine.control_pictures import View
from darkroom.engine.denoise import starting_noise
from darkroom.engine.image_to_image import Made
from darkroom.engine.passes import Passes
from darkroom.request.stages import Tile

if TYPE_CHECKING:
    from PIL.Image import Image


def tile(stage: Tile, before: Made, passes: Passes) -> Made:
    """The enlarged picture with all its tiles made anew and blended."""
    import torch

    size = stage.size_after(*before.size)
    image = passes.upscale(before.picture(passes.decode), stage.upscaler, size)
    if not stage.denoising_strength:
        return Made(size, image)
    padded, work = pad_for_latents(image), stage.work_size(*before.size)
    generator = torch.Generator("cpu").manual_seed(passes.request.seed)
    noise = starting_noise(passes.request, generator, (1, 4, padded.height // 8, padded.width // 8), torch.float32)
    places = stage.places(*before.size)
    quilt, view = Quilt(padded.size, work, places, stage.overlap), View.of_all(padded.size, lambda: padded)
    for number, (left, top) in enumerate(places):
        box = (left, top, left + work[0], top + work[1])
        latents = passes.encode(padded.crop(box))
        own = noise[..., top // 8 : (top + work[1]) // 8, left // 8 : (left + work[0]) // 8]
        # Samplers add other noise in each tile.
        made = passes.denoise(stage, view.part(box, work), latents, number=number, noise=own)
        quilt.add(passes.decode(made), left, top)
    return Made(size, quilt.picture(size))


class Quilt:
    """Tiles of one size, blended where they overlap: over `overlap` pixels in the middle, farthest from the tiles' edges."""

    def __init__(self, size: Size, tile: Size, places: Sequence[tuple[int, int]], overlap: int) -> None:
        import numpy as np

        self._sum = np.zeros((size[1], size[0], 3), np.float32)
        self._weights = np.zeros((size[1], size[0], 1), np.float32)
        self._across = _shares(sorted({left for left, _ in places}), tile[0], overlap)
        self._down = _shares(sorted({top for _, top in places}), tile[1], overlap)

    def add(self, made: Image, left: int, top: int) -> None:
        """Lay down an RGB tile."""
        import numpy as np

        place = np.s_[top : top + made.height, left : left + made.width]
        weight = (self._down[top][:, None] * self._across[left][None])[..., None]
        self._sum[place] += np.asarray(made, np.float32) * weight
        self._weights[place] += weight

    def picture(self, size: Size) -> Image:
        """The RGB picture of all tiles, cut to that size."""
        import numpy as np
        from PIL import Image as Images

        values = np.rint(self._sum / self._weights)[: size[1], : size[0]]
        return Images.fromarray(values.astype(np.uint8))


def _shares(starts: Sequence[int], tile: int, overlap: int) -> dict[int, Any]:
    """How much tiles in a row count at each of their pixels, from 0 to 1, by where they begin."""
    import numpy as np

    shares = {start: np.ones(tile, np.float32) for start in starts}
    for start, following in pairwise(starts):
        middle = (following + start + tile) / 2
        places = np.arange(tile) + 0.5
        distance = (places + start - middle) / max(overlap, 1)
        shares[start] *= (0.5 - distance).clip(0, 1)
        shares[following] *= (0.5 + distance + (following - start) / max(overlap, 1)).clip(0, 1)
    return shares
