"""Draws grids: a study's pictures in rows and columns under their labels, which are wrapped and never cut.

A place that was excluded stays empty. A picture that should be there and isn't is hatched, with the reason.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from darkroom.base.files import write_bytes
from darkroom.config_output import WHOLE_METADATA, MetadataConfig
from darkroom.errors import ImageError
from darkroom.pictures import png
from darkroom.pictures.contact_sheet import EDGE, FAINT, INK, MARGIN, MAX_PIXELS, PAPER
from darkroom.pictures.embedded import limit_texts
from darkroom.pictures.formats import format_of
from darkroom.pictures.grid_infotext import add_settings, describe_grid
from darkroom.pictures.grid_parts import GAP, CellSize, GridPart, cell_size
from darkroom.pictures.marking import XMP
from darkroom.pictures.missing import without_hint
from darkroom.pictures.picture import GalleryPicture
from darkroom.pictures.png import STUDY, read_picture
from darkroom.pictures.records import digest_pictures
from darkroom.pictures.study_table import StudyTable
from darkroom.pictures.text_layout import Block, draw_text, set_text
from darkroom.pictures.thumbnails import in_threads

MANY = 8
"""With more rows the heads of columns stand below the grid too, with more columns those of rows at its right."""
_BOLD = "SourceSansPro-Semibold.otf"
_PAD = 4
_SMALLEST = 16
_HEAD_LINES = 12  # more than that, and columns are made wider
_WIDTHS = (6, 10, 15, 20, 30)  # of heads, in parts of their size
_REASON_SIZE = 14
_COMPRESS_LEVEL = 3  # as for contact sheets

Missing = Mapping[str, str]
"""Why pictures aren't there, by their names."""
_Box = tuple[int, int, int, int]
"""Left, top, width and height in pixels."""


@dataclass(frozen=True, slots=True)
class GridRequest:
    """What is drawn where: a part of a study's table, its pictures below `results`, and the axes from the run's plan.

    `metadata` says what the grid's own metadata holds.
    """

    results: Path
    table: StudyTable
    part: GridPart
    axes: Sequence[Mapping[str, Any]]
    metadata: MetadataConfig = WHOLE_METADATA


@dataclass(frozen=True, slots=True)
class _Layout:
    """Blocks of text and sizes in pixels; `heights` are those of the rows."""

    cell: CellSize
    titles: tuple[Block, ...]
    names: tuple[Block | None, Block | None]
    """The dimensions along the rows and the columns."""
    row_heads: tuple[Block, ...]
    column_heads: tuple[Block, ...]
    head_width: int
    column_width: int
    heights: tuple[int, ...]

    @property
    def left(self) -> int:
        return MARGIN + (self.head_width + 2 * GAP if self.row_heads else 0)

    @property
    def right(self) -> int:
        return self.left + len(self.column_heads) * (self.column_width + GAP)

    @property
    def width(self) -> int:
        more = self.head_width + GAP if self.repeats_rows else 0
        return max(self.right + more - GAP, MARGIN + max(block.width for block in self.titles)) + MARGIN

    @property
    def head_height(self) -> int:
        return max(block.height for block in self.column_heads) + 2 * _PAD

    @property
    def top(self) -> int:
        titles = sum(block.height + 2 * _PAD for block in self.titles)
        name = self.names[1].height + _PAD if self.names[1] else 0
        return MARGIN + titles + 2 * GAP + name + self.head_height

    @property
    def bottom(self) -> int:
        return self.top + sum(self.heights) + GAP * (len(self.heights) - 1)

    @property
    def height(self) -> int:
        return self.bottom + (self.head_height if self.repeats_columns else 0) + MARGIN

    @property
    def repeats_rows(self) -> bool:
        return bool(self.row_heads) and len(self.column_heads) > MANY

    @property
    def repeats_columns(self) -> bool:
        return self.names[1] is not None and len(self.heights) > MANY


def draw_grid(request: GridRequest, out: Path, missing: Missing) -> None:
    """Write a grid as a PNG of at most MAX_PIXELS, for which its cells shrink if need be.

    Raises ImageError (E-IMAGE) that names a picture which is missing or damaged and not in `missing`, and for labels so
    long that the grid can't be that small.
    """
    layout = _fit(request, missing, out)
    page = Image.new("RGB", (layout.width, layout.height), PAPER)
    _draw_heads(ImageDraw.Draw(page), layout)
    boxes = _find_boxes(request, layout)
    for picture, box in boxes:
        if picture.name in missing:
            _draw_missing(page, box, missing[picture.name])

    def draw(item: tuple[GalleryPicture, _Box]) -> str:
        return _draw_picture(page, request.results, *item, layout.cell)

    drawn = [item for item in boxes if item[0].name not in missing]
    found = dict(zip((picture.name for picture, _ in drawn), in_threads(draw, drawn), strict=True))
    hashes = [found.get(picture.name, f"{picture.name} is missing") for picture, _ in boxes]
    buffer = io.BytesIO()
    page.save(buffer, "PNG", compress_level=_COMPRESS_LEVEL, pnginfo=_texts(request, hashes, [p for p, _ in drawn]))
    write_bytes(out, buffer.getvalue())


def _fit(request: GridRequest, missing: Missing, out: Path) -> _Layout:
    cell = cell_size(request.table, request.part.page)
    layout = _lay_out(request, cell, missing)
    while layout.width * layout.height > MAX_PIXELS and max(cell.width, cell.height) > 32:
        cell = cell.times(0.85)
        layout = _lay_out(request, cell, missing)
    if layout.width * layout.height > png.MAX_PIXELS:
        why = f"its labels alone would take {layout.width * layout.height:,} pixels"
        raise ImageError("grid", out, why, "give long values labels, as 'label: value'")
    return layout


def _lay_out(request: GridRequest, cell: CellSize, missing: Missing) -> _Layout:
    table, part = request.table, request.part
    size = _head_size(cell, part)
    rows, columns = _labels(table, table.rows, part.rows), _labels(table, table.columns, part.columns)
    column_width = _choose_width(columns, size, cell.width, _WIDTHS[0], _HEAD_LINES * size * 5 // 4)
    head_width = 0
    if table.rows is not None:
        name = _set_name(table, table.rows, "↓", size, _WIDTHS[1] * size)
        head_width = max(name.width if name else 0, _choose_width(rows, size, 0, _WIDTHS[1], cell.height))
    row_heads = tuple(set_text(label, size, head_width - 2 * _PAD) for label in rows if table.rows is not None)
    heights = []
    for place, row in enumerate(part.rows):
        texts = [row_heads[place].height] if row_heads else []
        pictures = (table.cells.get(table.at(part.page, row, column)) for column in part.columns)
        reasons = (missing[picture.name] for picture in pictures if picture is not None and picture.name in missing)
        texts += [_set_reason(reason, column_width).height + 2 * _PAD for reason in reasons]
        heights.append(max(cell.height, *(height + 2 * _PAD for height in texts), 0))
    name_width = max(_WIDTHS[0] * size, len(columns) * (column_width + GAP))
    names = (
        _set_name(table, table.rows, "↓", size, head_width),
        _set_name(table, table.columns, "→", size, name_width),
    )
    title_width = max(_WIDTHS[-1] * size, head_width + name_width)
    titles = (
        set_text(table.sheet, round(size * 1.6), title_width, _BOLD),
        *(set_text(text, size, title_width) for text in [describe_page(table, part)] if text),
    )
    heads = tuple(set_text(label, size, column_width - 2 * _PAD) for label in columns)
    return _Layout(cell, titles, names, row_heads, heads, head_width, column_width, tuple(heights))


def _head_size(cell: CellSize, part: GridPart) -> int:
    """In pixels: labels of a large grid can be read where all of it is on a screen, as far as they fit the cells."""
    edge = max(cell.width, cell.height)
    whole = max(len(part.columns) * cell.width, len(part.rows) * cell.height)
    return max(_SMALLEST, round(min(edge / 10, max(edge / 20, whole / 100))))


def _set_name(table: StudyTable, dimension: int | None, arrow: str, size: int, width: int) -> Block | None:
    if dimension is None:
        return None
    return set_text(f"{table.dimensions[dimension].name} {arrow}", round(size * 0.85), width)


def describe_page(table: StudyTable, part: GridPart) -> str:
    """`draw 2 · seeds 7`: the page's labels along the other dimensions, and which part of it this is."""
    words = [f"{table.dimensions[n].name} {table.dimensions[n].labels[part.page[n]]}" for n in table.pages]
    if part.count > 1:
        words.append(f"part {part.number} of {part.count}")
    return " · ".join(words)


def _labels(table: StudyTable, dimension: int | None, numbers: Sequence[int]) -> list[str]:
    """The labels along a dimension; for None one without text."""
    return [""] if dimension is None else [table.dimensions[dimension].labels[number] for number in numbers]


def _choose_width(labels: Sequence[str], size: int, least: int, unbroken: int, most_height: int) -> int:
    """The least of _WIDTHS, from `least` on, with which no label is higher than `most_height`, or the greatest.

    Labels up to the width `unbroken`, in parts of the size, aren't wrapped if `least` doesn't need it.
    """
    widths = [each * size for each in _WIDTHS]
    needed = max(set_text(label, size, widths[-1]).width for label in labels) + 2 * _PAD
    for width in (least, *widths):
        if width >= max(least, min(needed, unbroken * size)):
            if width >= needed:
                return max(least, needed)
            if all(set_text(label, size, width - 2 * _PAD).height <= most_height for label in labels):
                return width
    return max(least, widths[-1])


def _set_reason(reason: str, width: int) -> Block:
    return set_text(without_hint(reason), max(_REASON_SIZE, width // 26), width - 4 * _PAD)


def _draw_heads(pen: ImageDraw.ImageDraw, layout: _Layout) -> None:
    y = MARGIN
    for block, colour in zip(layout.titles, (INK, FAINT), strict=False):
        draw_text(pen, block, MARGIN, y, layout.width - 2 * MARGIN, colour)
        y += block.height + 2 * _PAD
    rows_name, columns_name = layout.names
    if columns_name is not None:
        top = layout.top - layout.head_height - columns_name.height - _PAD
        draw_text(pen, columns_name, layout.left, top, columns_name.width, FAINT)
    if rows_name is not None:
        draw_text(pen, rows_name, MARGIN, layout.top - rows_name.height - _PAD, rows_name.width, FAINT)
    for place, block in enumerate(layout.column_heads):
        x = layout.left + place * (layout.column_width + GAP) + _PAD
        width = layout.column_width - 2 * _PAD
        draw_text(pen, block, x, layout.top - _PAD - block.height, width, INK, "middle")
        if layout.repeats_columns:
            draw_text(pen, block, x, layout.bottom + _PAD, width, INK, "middle")
    y = layout.top
    for block, height in zip(layout.row_heads, layout.heights, strict=False):
        top, width = y + (height - block.height) // 2, layout.head_width - 2 * _PAD
        draw_text(pen, block, MARGIN + _PAD, top, width, INK)
        if layout.repeats_rows:
            draw_text(pen, block, layout.right + _PAD, top, width, INK)
        y += height + GAP


def _find_boxes(request: GridRequest, layout: _Layout) -> list[tuple[GalleryPicture, _Box]]:
    """The pictures that belong on the grid, and where; a place without one is left out."""
    table, part = request.table, request.part
    boxes = []
    y = layout.top
    for row, height in zip(part.rows, layout.heights, strict=True):
        for place, column in enumerate(part.columns):
            picture = table.cells.get(table.at(part.page, row, column))
            if picture is not None:
                x = layout.left + place * (layout.column_width + GAP)
                boxes.append((picture, (x, y, layout.column_width, height)))
        y += height + GAP
    return boxes


def _draw_picture(page: Image.Image, results: Path, picture: GalleryPicture, box: _Box, cell: CellSize) -> str:
    """Draw a picture in the middle of its box; returns its SHA256."""
    path = results / picture.path
    data = read_picture(path)
    image = format_of(path).decode(data, path)
    factor = min(cell.factor, box[2] / image.width, box[3] / image.height)
    if factor != 1:
        size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
        is_pixels = factor > 1 and factor == round(factor)
        image = image.resize(size, Image.Resampling.NEAREST if is_pixels else Image.Resampling.LANCZOS)
    page.paste(image, (box[0] + (box[2] - image.width) // 2, box[1] + (box[3] - image.height) // 2))
    return hashlib.sha256(data).hexdigest()


def _draw_missing(page: Image.Image, box: _Box, reason: str) -> None:
    x, y, width, height = box
    hatched = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(hatched)
    for start in range(-height, width, 12):
        pen.line((start, height, start + height, 0), EDGE, 3)
    pen.rectangle((0, 0, width - 1, height - 1), outline=FAINT)
    block = _set_reason(reason, width)
    left, top = (width - block.width) // 2, (height - block.height) // 2
    pen.rectangle((left - _PAD, top - _PAD, left + block.width + _PAD, top + block.height + _PAD), fill=PAPER)
    draw_text(pen, block, left, top, block.width, INK)
    page.paste(hatched, (x, y))


def _texts(request: GridRequest, hashes: Sequence[str], drawn: Sequence[GalleryPicture]) -> PngInfo:
    """The infotext and the mark of the first picture with those of the grid, all pictures' digest, and what is shown where."""
    table, part = request.table, request.part
    text = PngInfo()
    if drawn:
        path = request.results / drawn[0].path
        of_first = limit_texts(format_of(path).read_text(read_picture(path), path), request.metadata)
        settings = describe_grid(table, part, request.axes) if request.metadata.prompt else {}
        text.add_text("parameters", add_settings(of_first.get("parameters", ""), settings))
        if XMP in of_first:
            text.add_itxt(XMP, of_first[XMP])
    text.add_text("pictures", digest_pictures(hashes))
    if not request.metadata.prompt:  # labels are texts of prompts
        return text
    shown: dict[str, Any] = {"sheet": table.sheet}
    for key, dimension, numbers in (("rows", table.rows, part.rows), ("columns", table.columns, part.columns)):
        if dimension is not None:
            shown[key] = {table.dimensions[dimension].name: _labels(table, dimension, numbers)}
    shown["page"] = {table.dimensions[n].name: table.dimensions[n].labels[part.page[n]] for n in table.pages}
    text.add_text(STUDY, json.dumps(shown))
    return text
