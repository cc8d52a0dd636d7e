"""How a picture is cut into overlapping tiles, and how the upscaled tiles are put together without a seam.

Neighbours share 2 · context + `FEATHER` pixels. In the middle of these one fades linearly into the other; the `context`
pixels at a tile's own edge, which lack what lies behind them, count for nothing. So where a network sees no further than
`context`, the result is the untiled one, up to rounding; a network that sees further differs by what is faded.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

FEATHER = 8
"""Pixels of the picture in which a tile fades into the next one."""


@dataclass(frozen=True, slots=True)
class Span:
    """A tile along one axis, in pixels of the picture.

    It is computed from `start` to `end`; it counts from `first` to `last`, in full but for the fades to its neighbours from
    `first` on and up to `last`, which are `fade_in` and `fade_out` long (0 at the picture's edges).
    """

    start: int
    end: int
    first: int
    last: int
    fade_in: int
    fade_out: int

    def weights(self, scale: int) -> Any:
        """The tile's share of each upscaled pixel from `first` to `last`, (n,) in fp32; neighbours' shares add up to 1."""
        import numpy as np

        count = (self.last - self.first) * scale
        shares = np.ones(count, dtype=np.float32)
        rising, falling = (_ramp(length * scale) for length in (self.fade_in, self.fade_out))
        shares[: len(rising)] = rising
        shares[count - len(falling) :] = 1 - falling
        return shares


def _ramp(count: int) -> Any:
    import numpy as np

    return (np.arange(count, dtype=np.float32) + 0.5) / max(count, 1)


def smallest_tile(context: int) -> int:
    """The smallest edge of a tile: one of less would fade to both sides at once where the last tile is moved back."""
    return 4 * context + 3 * FEATHER


def cut(length: int, tile: int, context: int) -> list[Span]:
    """The tiles along an axis of `length` pixels, each of `tile` pixels, with the last one moved back to end with it.

    `tile` 0 is one tile. Of several, each has the same length, so that a network computes each in the same way.
    """
    if tile in (0, length) or tile > length:
        return [Span(0, length, 0, length, 0, 0)]
    step = tile - 2 * context - FEATHER
    starts = [*range(0, length - tile, step), length - tile]
    fades = [(after + before + tile) // 2 - FEATHER // 2 for before, after in pairwise(starts)]
    firsts = [0, *fades]
    lasts = [*(fade + FEATHER for fade in fades), length]
    return [
        Span(start, start + tile, first, last, FEATHER * (i > 0), FEATHER * (i + 1 < len(starts)))
        for i, (start, first, last) in enumerate(zip(starts, firsts, lasts, strict=True))
    ]
