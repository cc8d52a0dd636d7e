"""Where tiles lie, and what each one counts."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from darkroom.upscalers.tiles import FEATHER, cut, smallest_tile

CASES = [(length, tile, context) for context in (4, 10, 16) for tile in (smallest_tile(context), 200, 256) for length in (
    tile + 1, tile + 7, 2 * tile - 1, 1000, 1001, 4096)]  # fmt: skip


@pytest.mark.parametrize(("length", "tile", "context"), CASES)
@pytest.mark.parametrize("scale", [2, 3])
def test_the_shares_of_tiles_add_up_to_one_everywhere(length: int, tile: int, context: int, scale: int) -> None:
    total = np.zeros(length * scale, dtype=np.float64)
    for span in cut(length, tile, context):
        total[span.first * scale : span.last * scale] += span.weights(scale)
    np.testing.assert_allclose(total, 1, atol=1e-6)


@pytest.mark.parametrize(("length", "tile", "context"), CASES)
def test_what_counts_of_a_tile_has_its_context_around_it(length: int, tile: int, context: int) -> None:
    spans = cut(length, tile, context)
    for span in spans:
        assert span.end - span.start == tile and span.start >= 0 and span.end <= length
        assert span.start == 0 or span.first - span.start >= context
        assert span.end == length or span.end - span.last >= context
    for before, after in pairwise(spans):
        assert before.last - after.first == FEATHER and before.first + before.fade_in <= after.first


@pytest.mark.parametrize(("length", "tile"), [(100, 0), (100, 100), (100, 256)])
def test_a_picture_of_a_tile_or_less_is_one_tile(length: int, tile: int) -> None:
    (span,) = cut(length, tile, 16)
    assert (span.start, span.end) == (0, length) and (span.weights(2) == 1).all()
