"""Ranges of bytes that are there."""

from __future__ import annotations

import random

import pytest

from darkroom.sources.partial import Ranges, cut_into_pieces


@pytest.mark.parametrize(
    ("added", "expected"),
    [
        ([], []),
        ([(5, 5)], []),
        ([(0, 2), (2, 4)], [(0, 4)]),
        ([(2, 4), (0, 2)], [(0, 4)]),
        ([(0, 1), (4, 5), (2, 3)], [(0, 1), (2, 3), (4, 5)]),
        ([(0, 1), (4, 5), (0, 9)], [(0, 9)]),
        ([(0, 9), (4, 5)], [(0, 9)]),
        ([(3, 6), (5, 8), (1, 4)], [(1, 8)]),
    ],
)
def test_ranges_that_touch_become_one(added: list[tuple[int, int]], expected: list[tuple[int, int]]) -> None:
    assert list(Ranges(added)) == expected


def test_ranges_are_what_a_set_of_positions_is() -> None:
    chance = random.Random(1)
    for _ in range(200):
        ranges, there = Ranges(), set[int]()
        for _ in range(12):
            start = chance.randrange(40)
            end = start + chance.randrange(12)
            ranges.add(start, end)
            there |= set(range(start, end))
        assert {at for start, end in ranges for at in range(start, end)} == there
        assert ranges.count == len(there)
        assert {at for start, end in ranges.gaps(60) for at in range(start, end)} == set(range(60)) - there
        assert ranges.front == next(at for at in range(61) if at not in there)
        assert ranges.end == max(there, default=-1) + 1


def test_pieces_are_the_gaps_in_the_files_order() -> None:
    gaps = [(0, 100_000_000), (300_000_000, 1_000_000_000)]
    pieces = cut_into_pieces(gaps, 4)
    assert len(pieces) >= 8
    assert list(Ranges((piece.start, piece.end or 0) for piece in pieces)) == gaps
    assert sorted(pieces, key=lambda piece: piece.start) == pieces
