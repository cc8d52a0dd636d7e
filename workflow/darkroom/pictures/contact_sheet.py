"""Contact sheets: all pictures of a prompt sheet on one PNG, each with its prompt and its settings."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from darkroom.base.files import write_bytes
from darkroom.pictures.drawn_cells import DrawnCells, cell_key
from darkroom.pictures.fonts import MAIN, coverage
from darkroom.pictures.grid_parts import MOST_EDGE
from darkroom.pictures.picture import GalleryPicture, group_pictures, shorten_middle
from darkroom.pictures.records import PictureRecord, digest_pictures
from darkroom.pictures.text_layout import draw_text, set_text
from darkroom.pictures.thumbnails import in_threads, read_thumbnail, update_thumbnails
from darkroom.resources import RESOURCES

PAPER, INK, FAINT, EDGE = (250, 250, 248), (28, 28, 30), (118, 118, 124), (226, 226, 222)
MARGIN, GAP = 32, 20
PROMPT_LINES = 3
TITLE_SIZE, COUNT_SIZE, PROMPT_SIZE, SMALL_SIZE = 26, 16, 16, 14
LINE_HEIGHT = 1.25
SMALLEST_CAPTION = 120  # px; below that width a caption can't be read
MAX_PIXELS = 64_000_000  # many viewers, and Pillow, refuse pictures from 89 million pixels on
_COMPRESS_LEVEL = 3  # against 6: four fifths of the time, a tenth more bytes for photographs, a third for flat colours

Font = ImageFont.FreeTypeFont
Colour = tuple[int, int, int]


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
    from, or copied from the page before. Raises ImageError (E-IMAGE) that names a missing or damaged picture.
    """
    records = update_thumbnails(results, pictures, thumbnail_px)
    groups = group_pictures([picture for picture in pictures if picture.is_result])
    counts = [len(members) for _, _, members in groups]
    layout = _fit(columns, thumbnail_px, counts)
    hashes = {picture.name: record.thumbnail_sha256 for picture, record in zip(pictures, records, strict=True)}
    thumbnails = _Thumbnails(results, layout.edge, hashes, DrawnCells(out))
    page = Image.new("RGB", (layout.width, max(2 * MARGIN, layout.height(counts))), PAPER)
    top = MARGIN
    for sheet, checkpoint, members in groups:
        _draw_group(page, layout, top, f"{sheet} · {checkpoint}", members, thumbnails)
        top += layout.group_height(len(members)) + GAP
    texts = _identity(records)
    thumbnails.cells.write(texts)
    buffer = io.BytesIO()
    page.save(buffer, "PNG", compress_level=_COMPRESS_LEVEL, pnginfo=texts)
    write_bytes(out, buffer.getvalue())


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
class _Thumbnails:
    """Draws thumbnails in squares of `edge` pixels. `hashes` are their SHA256 by picture, empty if it is not known."""

    results: Path
    edge: int
    hashes: Mapping[str, str]
    cells: DrawnCells

    def draw(self, page: Image.Image, x: int, y: int, picture: GalleryPicture) -> None:
        """Draw a picture's thumbnail in the square whose corner is at `x` and `y`."""
        sha256 = self.hashes[picture.name]
        key = cell_key(sha256, self.edge) if sha256 else ""
        image = self.cells.copy(key) or self._fit(read_thumbnail(self.results, picture))
        ImageDraw.Draw(page).rectangle((x, y, x + self.edge - 1, y + self.edge - 1), fill=EDGE)
        left, top = x + (self.edge - image.width) // 2, y + (self.edge - image.height) // 2
        page.paste(image, (left, top))
        if key:
            self.cells.add(key, (left, top, *image.size))

    def _fit(self, image: Image.Image) -> Image.Image:
        scale = self.edge / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)  # a copy, where it fits already


def _draw_group(
    page: Image.Image,
    layout: _Layout,
    top: int,
    title: str,
    members: list[GalleryPicture],
    thumbnails: _Thumbnails,
) -> None:
    pen = ImageDraw.Draw(page)
    width = layout.width - 2 * MARGIN
    title_font, count_font = _font(TITLE_SIZE, "Semibold"), _font(COUNT_SIZE)
    pen.text((MARGIN, top), _shorten(title, lambda t: _width(t, title_font) <= width), INK, title_font)
    count = f"{len(members):,} picture{'' if len(members) == 1 else 's'}"
    pen.text((MARGIN, top + round(TITLE_SIZE * LINE_HEIGHT)), count, FAINT, count_font)

    def draw(cell: tuple[int, int, GalleryPicture]) -> None:
        thumbnails.draw(page, *cell)

    cells = []
    for place, picture in enumerate(members):
        row, column = divmod(place, layout.columns)
        x = MARGIN + column * (layout.edge + GAP)
        y = top + layout.heading + row * (layout.edge + layout.caption + GAP)
        cells.append((x, y, picture))
    for (x, y, picture), _ in zip(cells, in_threads(draw, cells), strict=True):
        if layout.caption:
            _draw_caption(pen, x, y + layout.edge + 8, layout.edge, picture)


def _draw_caption(pen: ImageDraw.ImageDraw, x: int, y: int, width: int, picture: GalleryPicture) -> None:
    prompt = str(picture.request.get("prompt", "")) or "(no prompt)"
    y += _draw_lines(pen, x, y, width, prompt, PROMPT_SIZE, INK, PROMPT_LINES) + 2
    request = picture.request
    negative = request.get("negative_prompt")
    loras = ", ".join(use["name"] for use in request.get("loras", ()))  # those of the prompt's tags are seen there
    facts = (
        " · ".join(
            filter(None, (picture.id, f"seed {picture.seed}", picture.last_stage, negative and f"not: {negative}"))
        ),
        f"{request.get('sampler', '')} · {request.get('steps', '')} steps · CFG {request.get('cfg_scale', 0):g}"
        + (f" · {loras}" if loras else ""),
    )
    for line in facts:
        y += _draw_lines(pen, x, y, width, line, SMALL_SIZE, FAINT, 1)


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
