"""Numbers of one picture and of two: clipping, contrast, perceptual hash, mean difference, SSIM, visible change.

A picture is an array of height × width × 3 bytes (sRGB). Nothing here knows files.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

INVISIBLE_MEAN = 0.25
"""Of 255. A change of a whole picture by one level shows when one blinks between the two; a quarter doesn't."""
INVISIBLE_BLOCK = 2.0
"""Mean over 8 × 8 pixels, of 255: about 0.7 ΔE*ab for greys, below the just noticeable difference of 1."""
INVISIBLE_VALUE = 16
"""Of a single value: more than that in one pixel can be seen as a speck in a smooth area."""

_WINDOW_RADIUS, _WINDOW_SIGMA = 5, 1.5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_BLOCK = 8


def to_luminance(pixels: Pixels) -> Pixels:
    """Rec. 601 luminance, rounded, as Pillow's mode L and MATLAB's rgb2gray have it."""
    return np.asarray(Image.fromarray(pixels).convert("L"))


def clipped_share(pixels: Pixels) -> float:
    """The share of pixels that have a channel at 0 or at 255."""
    is_clipped = pixels + np.uint8(1) < 2  # 255 + 1 is 0
    return float((is_clipped[..., 0] | is_clipped[..., 1] | is_clipped[..., 2]).mean())


def perceptual_hash(luminance: Pixels) -> str:
    """The 64-bit hash pHash (Zauner 2010) in 16 hex digits, as `str(imagehash.phash(image))`.

    Bits are row by row those of the 8 × 8 lowest frequencies of the DCT of 32 × 32 pixels that are above their median.
    """
    from scipy.fft import dct

    small = Image.fromarray(luminance).resize((32, 32), Image.Resampling.LANCZOS)
    values = np.asarray(small, dtype=np.float64)
    low = dct(dct(values, axis=0), axis=1)[:8, :8]
    bits = (low > np.median(low)).ravel()
    return f"{int.from_bytes(np.packbits(bits).tobytes()):016x}"


def hash_distance(one: str, other: str) -> int:
    """The number of bits in which two hashes differ: 0 to 64."""
    return (int(one, 16) ^ int(other, 16)).bit_count()


def difference(one: Pixels, other: Pixels) -> Pixels:
    """The absolute difference of two pictures of one size, value by value."""
    return np.maximum(one, other) - np.minimum(one, other)


def is_visible(change: Pixels) -> bool:
    """Whether a difference can be seen side by side or by blinking: more than any of the limits above."""
    if not change.any():
        return False
    if change.max() > INVISIBLE_VALUE or change.mean() >= INVISIBLE_MEAN:
        return True
    return bool(block_means(change).max() > INVISIBLE_BLOCK)


def strip_means(pixels: Pixels) -> Floats:
    """The means of upright strips of the picture, which tell most pictures apart without their pixels."""
    height, width, channels = pixels.shape
    strips = np.add.reduceat(
        pixels.reshape(height, -1).sum(axis=0, dtype=np.uint32), range(0, width * channels, _BLOCK * channels)
    )
    return np.asarray(strips / (height * width * channels), dtype=np.float64)


def are_strips_visible(one: Floats, other: Floats) -> bool:
    """True if two pictures' strips are so different that the pictures are visibly so; False tells nothing.

    The mean absolute difference of two pictures is at least the sum of their strips' differences.
    """
    return one.shape != other.shape or float(np.abs(one - other).sum()) > INVISIBLE_MEAN + 1e-6


def block_means(pixels: Pixels, block: int = _BLOCK) -> Floats:
    """The means over all channels of blocks of `block` × `block` pixels; those at the edges may be smaller."""
    height, width, channels = pixels.shape
    sums: Any = np.add.reduceat(pixels.reshape(height, -1), range(0, height, block), axis=0, dtype=np.uint32)
    sums = np.add.reduceat(sums, range(0, width * channels, block * channels), axis=1)
    sizes = [np.diff(np.append(np.arange(0, length, block), length)) for length in (height, width)]
    return np.asarray(sums / (np.multiply.outer(*sizes) * channels), dtype=np.float64)


def ssim(one: Pixels, other: Pixels) -> float | None:
    """The mean structural similarity of two luminances of one size: 1 if they are equal.

    Wang, Bovik, Sheikh and Simoncelli 2004, as in their ssim.m: averaged and sampled down by round(shorter edge / 256), then a
    Gaussian window of 11 × 11 with σ 1.5, where it lies inside the picture. None for a picture smaller than the window.
    """
    from scipy.ndimage import gaussian_filter

    x, y = (_sample_down(each) for each in (one, other))
    if min(x.shape) <= 2 * _WINDOW_RADIUS:
        return None

    def mean(values: Floats) -> Floats:
        filtered = gaussian_filter(values, _WINDOW_SIGMA, radius=_WINDOW_RADIUS)
        return np.asarray(filtered)[_WINDOW_RADIUS:-_WINDOW_RADIUS, _WINDOW_RADIUS:-_WINDOW_RADIUS]

    mean_x, mean_y = mean(x), mean(y)
    both = mean_x * mean_y
    squares = mean_x**2 + mean_y**2
    variances = mean(x**2 + y**2) - squares
    covariance = mean(x * y) - both
    similarity = (2 * both + _C1) * (2 * covariance + _C2) / ((squares + _C1) * (variances + _C2))
    return float(similarity.mean())


def _sample_down(luminance: Pixels) -> Floats:
    """The means of f × f pixels around each f-th one, as MATLAB's imfilter with symmetric edges and img(1:f:end, 1:f:end)."""
    values = luminance.astype(np.float64)
    factor = max(1, int(min(values.shape) / 256 + 0.5))
    before = (factor + 1) // 2 - 1
    for axis in (0, 1):
        count = -(-values.shape[axis] // factor)
        pad = [(0, 0), (0, 0)]
        pad[axis] = (before, factor)
        padded = np.moveaxis(np.pad(values, pad, mode="symmetric"), axis, 0)[: count * factor]
        values = np.moveaxis(padded.reshape(count, factor, -1).mean(axis=1), 0, axis)
    return values
