"""Cutting what is missing of a file into pieces that several connections take one after another."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_SMALLEST_BYTES = 8 * 2**20
_LARGEST_BYTES = 128 * 2**20
_PIECES_EACH = 4


@dataclass(slots=True)
class Piece:
    """What one request is to bring, [start, end); `start` moves as bytes come, `end` is None where nobody knows it."""

    start: int
    end: int | None

    @property
    def is_done(self) -> bool:
        return self.end is not None and self.start >= self.end


def cut_into_pieces(gaps: Iterable[tuple[int, int]], connections: int) -> list[Piece]:
    """Pieces in the file's order: a few for each connection, so that a slow one leaves the others work."""
    gaps = list(gaps)
    missing = sum(end - start for start, end in gaps)
    size = min(_LARGEST_BYTES, max(_SMALLEST_BYTES, missing // (connections * _PIECES_EACH)))
    return [Piece(at, min(at + size, end)) for start, end in gaps for at in range(start, end, size)]
