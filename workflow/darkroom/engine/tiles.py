"""The stage tile: a picture enlarged, and overlapping tiles of it denoised again, each as a picture of its own.

As A1111's SD upscale script, with one noise for the whole picture: where tiles overlap they start from the same, so they
differ by less than two pictures would.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from darkroom.engine.canvas import Size, pad_for_latents
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
    quilt = _Quilt(padded.size, work)
    for number, (left, top) in enumerate(stage.places(*before.size)):
        latents = passes.encode(padded.crop((left, top, left + work[0], top + work[1])))
        own = noise[..., top // 8 : (top + work[1]) // 8, left // 8 : (left + work[0]) // 8]
        made = passes.denoise(stage, work, latents, number=number, noise=own)  # samplers add other noise in each tile
        quilt.add(passes.decode(made), left, top)
    return Made(size, quilt.picture(size))


class _Quilt:
    """Tiles of one size, blended where they overlap: the nearer to its edge, the less a tile counts."""

    def __init__(self, size: Size, tile: Size) -> None:
        import numpy as np

        self._sum = np.zeros((size[1], size[0], 3))
        self._weights = np.zeros((size[1], size[0], 1))
        across, down = (np.minimum(np.arange(1, edge + 1), np.arange(edge, 0, -1)) for edge in tile)
        self._weight: Any = (down[:, None] * across[None])[..., None].astype(float)

    def add(self, made: Image, left: int, top: int) -> None:
        """Lay down an RGB tile."""
        import numpy as np

        place = np.s_[top : top + made.height, left : left + made.width]
        self._sum[place] += np.asarray(made) * self._weight
        self._weights[place] += self._weight

    def picture(self, size: Size) -> Image:
        """The RGB picture of all tiles, cut to that size."""
        import numpy as np
        from PIL import Image as Images

        values = np.rint(self._sum / self._weights)[: size[1], : size[0]]
        return Images.fromarray(values.astype(np.uint8))
