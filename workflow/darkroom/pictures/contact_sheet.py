"""Contact sheets: all pictures of a prompt sheet on one PNG, each with its prompt and its settings."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, __version__
from PIL.PngImagePlugin import PngInfo

from darkroom.base.files import write_bytes
from darkroom.pictures.drawn_cells import Box, DrawnCells, cell_key, cells_chunk
from darkroom.pictures.fonts import MAIN, coverage
from darkroom.pictures.grid_parts import MOST_EDGE
from darkroom.pictures.picture import GalleryPicture, group_pictures, shorten_middle
from darkroom.pictures.png_bands import Band, encode_band, join_bands, read_bands
from darkroom.pictures.records import PictureRecord, digest_pictures
from darkroom.pictures.text_layout import draw_text, set_text
from darkroom.pictures.thumbnails import in_threads, read_thumbnail, update_thumbnails
from darkroom.resources import RESOURCES
from darkroom.revisions import CONTACT_SHEET

PAPER, INK, FAINT, EDGE = (250, 250, 248), (28, 28, 30), (118, 118, 124), (226, 226, 222)
MARGIN, GAP = 32, 20
PROMPT_LINES = 3
TITLE_SIZE, COUNT_SIZE, PROMPT_SIZE, SMALL_SIZE = 26, 16, 16, 14
LINE_HEIGHT = 1.25
SMALLEST_CAPTION = 120  # px; below that width a caption can't be read
MAX_PIXELS = 64_000_000  # many viewers, and Pillow, refuse pictures from 89 million pixels on
FEW = 8
"""If fewer than one picture in so many has to be drawn, their thumbnails are read rather than the whole page before."""

Font = ImageFont.FreeTypeFont
Colour = tuple[int, int, int]
Groups = Sequence[tuple[str, str, Sequence[GalleryPicture]]]


@dataclass(frozen=True, slots=True)
class _Layout:
    """Sizes in pixels of everything that repeats."""

    columns: int
    edge: int  # of the square that holds a thumbnail

    @property
    def caption(self) -> int:
        if self.edge < SMALLEST_CAPTION:
            return 0
        return 8 + round(LINE_HEIGHT * (PROMPT_SIZE * PROMPT_LINES + SMALL_SIZE * 2))

    @property
    def heading(self) -> int:
        return round(TITLE_SIZE * LINE_HEIGHT) + round(COUNT_SIZE * LINE_HEIGHT) + GAP

    @property
    def width(self) -> int:
        return 2 * MARGIN + self.columns * self.edge + (self.columns - 1) * GAP

    @property
    def places(self) -> range:
        """The left edges of a row's squares."""
        return range(MARGIN, MARGIN + self.columns * (self.edge + GAP), self.edge + GAP)

    def group_height(self, count: int) -> int:
        rows = -(-count // self.columns)
        return self.heading + rows * (self.edge + self.caption + GAP)

    def height(self, counts: list[int]) -> int:
        return 2 * MARGIN + sum(self.group_height(n) for n in counts) + GAP * (len(counts) - 1) - GAP


def make_contact_sheet(
    results: Path, pictures: list[GalleryPicture], out: Path, *, columns: int, thumbnail_px: int
) -> None:
    """Write a PNG with the pictures in rows of at most `columns`, grouped by sheet and checkpoint.

    Each stands in a square of `thumbnail_px`, which shrinks when the page would pass MAX_PIXELS; a page that would be
    higher than MOST_EDGE has longer rows. Pictures' paths are relative to `results`; their thumbnails there are updated, and drawn
    from, or copied from the page before, of which rows that stay are kept as they are. Raises ImageError (E-IMAGE) that names a
    missing or damaged picture.
    """
    records = update_thumbnails(results, pictures, thumbnail_px)
    groups = group_pictures([picture for picture in pictures if picture.is_result])
    layout = _fit(columns, thumbnail_px, [len(members) for _, _, members in groups])
    by_name = {picture.name: record for picture, record in zip(pictures, records, strict=True)}
    bands = [_key(band, layout, by_name) for band in _divide(layout, groups)]
    texts, before = _identity(records), read_bands(out)
    drawn = [band for band in bands if band.key not in before]
    few = FEW * sum(len(band.members) for band in drawn) < len(by_name)
    thumbnails = _Thumbnails(results, layout.edge, by_name, None if few else DrawnCells(out))
    images = in_threads(partial(_draw_cells, layout, thumbnails), drawn)
    made = {id(band): _finish_band(layout, band, image) for band, image in zip(drawn, images, strict=True)}
    texts.add(*_note_cells(layout, bands, by_name))
    joined = [(band.key, made.get(id(band)) or before[band.key]) for band in bands]
    height = sum(band.height for band in bands)
    chunks = [(kind, body) for kind, body, *_ in texts.chunks]
    write_bytes(out, join_bands(layout.width, height, joined, chunks))


def _identity(records: list[PictureRecord]) -> PngInfo:
    """One hash of all pictures: the file changes whenever a picture does, even if the thumbnails look the same.

    The gallery is rebuilt when a contact sheet has changed.
    """
    text = PngInfo()
    text.add_text("pictures", digest_pictures(record.sha256 for record in records))
    return text


def _fit(columns: int, thumbnail_px: int, counts: list[int]) -> _Layout:
    layout = _Layout(max([1, *(min(columns, count) for count in counts)]), thumbnail_px)
    while layout.width * layout.height(counts) > MAX_PIXELS and layout.edge > 32:
        layout = _Layout(layout.columns, max(32, layout.edge * 4 // 5))
    while layout.height(counts) > MOST_EDGE and layout.columns < max(counts):
        layout = _Layout(layout.columns + 1, layout.edge)
    return layout


@dataclass(frozen=True, slots=True)
class _Band:
    """A row of pictures, a group's heading with the space above it, or space alone. An empty `key` is that of a row not to be kept."""

    height: int
    title: str = ""
    count: str = ""
    members: tuple[GalleryPicture, ...] = ()
    key: str = ""


def _divide(layout: _Layout, groups: Groups) -> Iterator[_Band]:
    """The page from top to bottom; below a row of pictures there is a GAP."""
    above = MARGIN
    for sheet, checkpoint, members in groups:
        count = f"{len(members):,} picture{'' if len(members) == 1 else 's'}"
        yield _Band(above + layout.heading, f"{sheet} · {checkpoint}", count)
        for start in range(0, len(members), layout.columns):
            row = tuple(members[start : start + layout.columns])
            yield _Band(layout.edge + layout.caption + GAP, members=row)
        above = GAP
    yield _Band(MARGIN - GAP if groups else 2 * MARGIN)


def _key(band: _Band, layout: _Layout, records: Mapping[str, PictureRecord]) -> _Band:
    """The band with a hash of all that is drawn in it and what draws it, unless a thumbnail's hash isn't known."""
    cells = [records[picture.name].thumbnail_sha256 for picture in band.members]
    if not all(cells):
        return band
    captions = [_caption(picture) for picture in band.members] if layout.caption else []
    sizes = (layout.width, layout.edge, band.height)
    parts = [sizes, band.title, band.count, cells, captions, CONTACT_SHEET, __version__, zlib.ZLIB_RUNTIME_VERSION]
    return replace(band, key=hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32])


@dataclass(frozen=True, slots=True)
class _Thumbnails:
    """Draws thumbnails in squares of `edge` pixels. `cells` is the page before, None if they are read from their files."""

    results: Path
    edge: int
    records: Mapping[str, PictureRecord]
    cells: DrawnCells | None

    def draw(self, page: Image.Image, x: int, picture: GalleryPicture) -> None:
        """Draw a picture's thumbnail in the square at the page's upper edge that begins at `x`."""
        sha256 = self.records[picture.name].thumbnail_sha256
        known = self.cells.copy(cell_key(sha256, self.edge)) if self.cells is not None and sha256 else None
        image = known or self._fit(read_thumbnail(self.results, picture))
        ImageDraw.Draw(page).rectangle((x, 0, x + self.edge - 1, self.edge - 1), fill=EDGE)
        page.paste(image, _place(x, 0, self.edge, image.size))

    def _fit(self, image: Image.Image) -> Image.Image:
        size = _fitted(self.edge, *image.size)
        return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)  # a copy, where it fits already


def _fitted(edge: int, width: int, height: int) -> tuple[int, int]:
    scale = edge / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _place(x: int, y: int, edge: int, size: tuple[int, int]) -> tuple[int, int]:
    return x + (edge - size[0]) // 2, y + (edge - size[1]) // 2


def _note_cells(layout: _Layout, bands: Sequence[_Band], records: Mapping[str, PictureRecord]) -> tuple[bytes, bytes]:
    """Where each picture stands on the page, as the chunk for the next one."""
    boxes, top = dict[str, Box](), 0
    for band in bands:
        for x, picture in zip(layout.places, band.members, strict=False):
            record = records[picture.name]
            size = _fitted(layout.edge, record.thumbnail_width, record.thumbnail_height)
            if record.thumbnail_sha256:
                key = cell_key(record.thumbnail_sha256, layout.edge)
                boxes.setdefault(key, (*_place(x, top, layout.edge, size), *size))
        top += band.height
    return cells_chunk(boxes)


def _draw_cells(layout: _Layout, thumbnails: _Thumbnails, band: _Band) -> Image.Image:
    page = Image.new("RGB", (layout.width, band.height), PAPER)
    for x, picture in zip(layout.places, band.members, strict=False):
        thumbnails.draw(page, x, picture)
    return page


def _finish_band(layout: _Layout, band: _Band, page: Image.Image) -> Band:
    """Draw a band's text, and compress it."""
    pen, width = ImageDraw.Draw(page), layout.width - 2 * MARGIN
    if band.title:
        top = band.height - layout.heading
        title_font, count_font = _font(TITLE_SIZE, "Semibold"), _font(COUNT_SIZE)
        pen.text((MARGIN, top), _shorten(band.title, lambda t: _width(t, title_font) <= width), INK, title_font)
        pen.text((MARGIN, top + round(TITLE_SIZE * LINE_HEIGHT)), band.count, FAINT, count_font)
    if layout.caption:
        for x, picture in zip(layout.places, band.members, strict=False):
            _draw_caption(pen, x, layout.edge + 8, layout.edge, picture)
    return encode_band(page)


def _draw_caption(pen: ImageDraw.ImageDraw, x: int, y: int, width: int, picture: GalleryPicture) -> None:
    prompt, *facts = _caption(picture)
    y += _draw_lines(pen, x, y, width, prompt, PROMPT_SIZE, INK, PROMPT_LINES) + 2
    for line in facts:
        y += _draw_lines(pen, x, y, width, line, SMALL_SIZE, FAINT, 1)


def _caption(picture: GalleryPicture) -> tuple[str, str, str]:
    """The prompt and two lines of settings."""
    request = picture.request
    prompt = str(request.get("prompt", "")) or "(no prompt)"
    negative = request.get("negative_prompt")
    loras = ", ".join(use["name"] for use in request.get("loras", ()))  # those of the prompt's tags are seen there
    about = (picture.id, f"seed {picture.seed}", picture.last_stage, negative and f"not: {negative}")
    sampling = f"{request.get('sampler', '')} · {request.get('steps', '')} steps · CFG {request.get('cfg_scale', 0):g}"
    return prompt, " · ".join(filter(None, about)), sampling + (f" · {loras}" if loras else "")


def _draw_lines(
    pen: ImageDraw.ImageDraw, x: int, y: int, width: int, text: str, size: int, colour: Colour, most: int
) -> int:
    """Draw at most so many lines of a text, shortened to fit; returns their height."""
    if not coverage(MAIN) >= set(map(ord, "".join(text.split()))):
        text = shorten_middle(text, most * width)  # no letter is narrower than a pixel
        fitted = _shorten(text, lambda each: len(set_text(each, size, width).lines) <= most)
        block = set_text(fitted, size, width)
        draw_text(pen, block, x, y, width, colour)
        return block.height
    font = _font(size)
    if most == 1:
        lines = [_shorten(text, lambda each: _width(each, font) <= width)]
    else:
        lines = _wrap(_shorten(text, lambda each: len(_wrap(each, font, width)) <= most), font, width)
    for line in lines:
        pen.text((x, y), line, colour, font)
        y += round(size * LINE_HEIGHT)
    return len(lines) * round(size * LINE_HEIGHT)


def _shorten(text: str, fits: Callable[[str], bool]) -> str:
    """The longest form of `text` that fits, shortened in its middle."""
    text = " ".join(text.split())
    if fits(text):
        return text
    low, high = 1, len(text)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(shorten_middle(text, middle)) else (low, middle)
    return shorten_middle(text, low)


def _wrap(text: str, font: Font, width: int) -> list[str]:
    """Lines of at most `width` pixels, broken between words, or within a word that is wider than a line.

    Stops soon after PROMPT_LINES: what follows doesn't fit anyway.
    """
    lines, used, space = [""], 0.0, _letter_width(" ", font)
    for word in text.split(" "):
        if len(lines) > PROMPT_LINES:
            break
        if lines[-1] and used + space + _width(word, font) <= width:
            lines[-1] += f" {word}"
            used += space + _width(word, font)
            continue
        if lines[-1]:
            lines.append("")
            used = 0.0
        for letter in word:
            if len(lines) > PROMPT_LINES:
                break
            if lines[-1] and used + _letter_width(letter, font) > width:
                lines.append("")
                used = 0.0
            lines[-1] += letter
            used += _letter_width(letter, font)
    return lines


@lru_cache(maxsize=4096)
def _width(text: str, font: Font) -> float:
    """In pixels, without kerning: measuring a whole text costs FreeType more than drawing it."""
    return sum(_letter_width(letter, font) for letter in text)


@lru_cache(maxsize=4096)
def _letter_width(letter: str, font: Font) -> float:
    return font.getlength(letter)


@cache
def _font(size: int, weight: str = "Regular") -> Font:
    """Source Sans, as it has always drawn the captions of contact sheets: without kerning."""
    return ImageFont.truetype(
        RESOURCES / "fonts" / f"SourceSansPro-{weight}.otf", size, layout_engine=ImageFont.Layout.BASIC
    )
