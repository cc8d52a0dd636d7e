"""How a study's table is cut into grids: a page of the table a picture, or several where one would be too large.

Planning uses this too, so it knows the pictures' sizes from their requests alone, and imports nothing that draws.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from darkroom.pictures.study_table import Place, StudyTable

LONGEST_EDGE = 512  # px of a picture in a grid
SHORTEST_EDGE = 128  # px; smaller pictures are enlarged by a whole number
GAP = 6
MOST_CELL_PIXELS = 48_000_000  # for cells and row heads; the rest of contact_sheet.MAX_PIXELS is for other heads
MOST_EDGE = 28_000  # px; 30,000 is the limit of some image editors
_HEAD_WIDTH, _LETTER_PIXELS = 320, 300  # of row heads at most; of a letter with its share of the line's height


@dataclass(frozen=True, slots=True)
class GridPart:
    """The part of a table that one grid shows: a page, and the labels' numbers along rows and columns.

    It is part `number`, from 1 on, of `count` parts of its page.
    """

    page: Place
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    number: int = 1
    count: int = 1

    def places(self, table: StudyTable) -> list[Place]:
        """The places that have pictures, row by row."""
        places = (table.at(self.page, row, column) for row in self.rows for column in self.columns)
        return [place for place in places if place in table.cells]


@dataclass(frozen=True, slots=True)
class CellSize:
    """How large the pictures of a page are drawn: by one factor for all, so that sizes can be compared.

    `width` and `height` hold the largest picture, in pixels.
    """

    factor: float
    width: int
    height: int

    def times(self, share: float) -> CellSize:
        """Cells that are larger or smaller."""
        return CellSize(self.factor * share, max(1, round(self.width * share)), max(1, round(self.height * share)))


def cell_size(table: StudyTable, page: Place) -> CellSize:
    """The size of the cells of a page: that of its pictures, not beyond LONGEST_EDGE, nor much below SHORTEST_EDGE."""
    pages = table.pages
    cells = (picture for place, picture in table.cells.items() if all(place[n] == page[n] for n in pages))
    sizes = [picture_size(picture.request) for picture in cells]
    width, height = max(size[0] for size in sizes), max(size[1] for size in sizes)
    edge = max(width, height)
    factor = LONGEST_EDGE / edge if edge > LONGEST_EDGE else max(1, math.ceil(SHORTEST_EDGE / edge))
    return CellSize(1, width, height).times(factor)


def picture_size(request: Mapping[str, Any]) -> tuple[int, int]:
    """Width and height that a picture's request asks for, after its last stage."""
    if request.get("stages"):
        from darkroom.request.render_request import RenderRequest

        return RenderRequest.from_settings(dict(request)).sizes[-1]
    return int(request["width"]), int(request["height"])


def split_page(table: StudyTable, page: Place) -> list[GridPart]:
    """The parts of a page: one, if it stays within MOST_CELL_PIXELS and MOST_EDGE, else rows and then columns are shared out."""
    rows, columns = table.lines(page)
    size = cell_size(table, page)
    width = size.width + GAP
    height = max(size.height, _text_height(table, table.rows, rows)) + GAP
    most_columns = max(1, min(MOST_EDGE // width, MOST_CELL_PIXELS // (height * width)))
    groups = _share_out(columns, most_columns)
    heads = 2 * _HEAD_WIDTH if table.rows is not None else 0
    used = len(groups[0]) * width + heads
    most_rows = max(1, min(MOST_EDGE // height, MOST_CELL_PIXELS // (used * height)))
    pairs = [(some_rows, some) for some_rows in _share_out(rows, most_rows) for some in groups]
    return [GridPart(page, *pair, number, len(pairs)) for number, pair in enumerate(pairs, 1)]


def _text_height(table: StudyTable, dimension: int | None, numbers: list[int]) -> int:
    """About how high the highest row head is, in pixels."""
    if dimension is None:
        return 0
    labels = table.dimensions[dimension].labels
    return max(len(labels[number]) for number in numbers) * _LETTER_PIXELS // _HEAD_WIDTH


def _share_out(numbers: list[int], most: int) -> list[tuple[int, ...]]:
    """Groups of at most `most` numbers, in their order and as equal as can be."""
    count = math.ceil(len(numbers) / most)
    ends = [len(numbers) * group // count for group in range(count + 1)]
    return [tuple(numbers[start:end]) for start, end in pairwise(ends)]
