"""Numbers of pictures: known values, those of other libraries for the same pictures, and where a change becomes visible.

The values of other libraries are those of ImageHash 4.3.2 and scikit-image 0.26.0, which aren't installed here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from darkroom.pictures import comparison
from darkroom.pictures.comparison import Pixels


def waves(height: int, width: int, speed: float = 1.0) -> Pixels:
    y, x = np.mgrid[0:height, 0:width]
    turns = [x * a + y * b for a, b in ((1, 0.3), (0.2, 1), (1, -1.1))]
    return np.stack([127.5 + 127.4 * np.sin(speed * each / 23) for each in turns], axis=2).round().astype(np.uint8)


def blocks(height: int, width: int) -> Pixels:
    y, x = np.mgrid[0:height, 0:width]
    values = (x // 16 * 7 + y // 24 * 13) * 37 % 256
    return np.stack([values, 255 - values, values * 3 % 256], axis=2).astype(np.uint8)


def grey(value: int, height: int = 64, width: int = 64) -> Pixels:
    return np.full((height, width, 3), value, dtype=np.uint8)


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (waves(256, 256), "daf065c5903a873b"),
        (waves(96, 256, 2.0), "ef2a6ac395c295c2"),
        (blocks(256, 256), "b064a9e543d8c8fb"),
        (blocks(512, 768), "9cca9dc995c16d4a"),
        (grey(77), "8000000000000000"),
        (grey(0), "0000000000000000"),
    ],
)
def test_the_perceptual_hash_is_that_of_imagehash(pixels: Pixels, expected: str) -> None:
    assert comparison.perceptual_hash(comparison.to_luminance(pixels)) == expected


def test_the_distance_of_hashes_counts_bits() -> None:
    assert comparison.hash_distance("daf065c5903a873b", "daf065c5903a873b") == 0
    assert comparison.hash_distance("0000000000000000", "ffffffffffffffff") == 64
    assert comparison.hash_distance("8000000000000001", "0000000000000003") == 2


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (waves(256, 256), blocks(256, 256), 0.6362671127458399),
        (waves(256, 256), waves(256, 256, 1.05), 0.9292858666630185),
        (waves(64, 96), 255 - waves(64, 96), 0.11634576971248224),
        (waves(1024, 1024), blocks(1024, 1024), 0.19019500353642668),  # sampled down by 4 before
    ],
)
def test_ssim_is_that_of_the_authors_as_scikit_image_computes_it(one: Pixels, other: Pixels, expected: float) -> None:
    found = comparison.ssim(*map(comparison.to_luminance, (one, other)))
    assert found == pytest.approx(expected, abs=1e-9)


def test_ssim_is_1_for_equal_pictures_and_none_for_those_smaller_than_its_window() -> None:
    luminance = comparison.to_luminance(waves(200, 300))
    assert comparison.ssim(luminance, luminance) == pytest.approx(1, abs=1e-12)
    assert comparison.ssim(luminance[:10], luminance[:10]) is None


@pytest.mark.parametrize(("height", "width"), [(64, 64), (70, 33), (5, 9)])
def test_means_of_blocks_and_clipping_are_what_they_are_called(height: int, width: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    rows = [[pixels[y : y + 8, x : x + 8].mean() for x in range(0, width, 8)] for y in range(0, height, 8)]
    assert comparison.block_means(pixels) == pytest.approx(np.array(rows))
    assert comparison.clipped_share(pixels) == pytest.approx(np.isin(pixels, (0, 255)).any(axis=2).mean())


def changed(where: Any, by: int) -> Pixels:
    """A grey picture with a change in one place."""
    pixels = grey(100)
    pixels[where] += by
    return pixels


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (grey(100), False),
        (changed(np.s_[:, :8], 1), False),  # an eighth of the picture by one level
        (changed(np.s_[3, 3], 16), False),
        (grey(101), True),  # everywhere
        (changed(np.s_[:8, :8], 3), True),  # a patch
        (changed(np.s_[3, 3], 17), True),  # a speck
        (changed(np.s_[3, 3, 0], 17), True),
    ],
)
def test_a_change_is_visible_from_some_size_on(pixels: Pixels, expected: bool) -> None:
    assert comparison.is_visible(comparison.difference(grey(100), pixels)) is expected
    assert comparison.is_visible(comparison.difference(pixels, grey(100))) is expected


def test_strips_tell_only_visible_changes() -> None:
    def are_visible(one: Pixels, other: Pixels) -> bool:
        return comparison.are_strips_visible(comparison.strip_means(one), comparison.strip_means(other))

    assert are_visible(waves(64, 72), blocks(64, 72))
    assert are_visible(grey(100), grey(101))
    assert not are_visible(grey(100), changed(np.s_[:, :8], 1))
    assert not are_visible(waves(64, 72), waves(64, 72)[::-1])  # which they can't see
