"""Sets labels in any script: wrapped to a width, never cut, each character in a font that has it.

A label is a row of clusters: letters with the marks that belong to them. Lines are broken between words, within a word that
is wider than a line after a sign such as `-`, or else between two clusters. What no font has is drawn as its code point in
a box.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any

from PIL import ImageDraw

from darkroom.pictures.bidi import base_level, find_levels, reorder, without_controls
from darkroom.pictures.fonts import EMOJI, MAIN, SCRIPTS, Font, can_shape, find_font, is_invisible, load_font

_ABOVE, _BELOW, _LEADING = 0.94, 0.28, 0.06  # of a line, in parts of the size
_BREAK_AFTER = set("-/,;:_|+=&.)]}‐–—·")
_NOT_FIRST = set("、。，．・：；？！）］｝」』】〉》〕ー…‥,.:;?!)]}%ぁぃぅぇぉっゃゅょァィゥェォッャュョ々")
_NOT_LAST = set("「『（［｛【〈《〔([{")
_JOINER, _TONES = "\u200d", range(0x1F3FB, 0x1F400)
_REGIONS = range(0x1F1E6, 0x1F200)
_MIRRORED = str.maketrans("()[]{}<>«»", ")(][}{><»«")


@dataclass(frozen=True, slots=True)
class Cluster:
    """A letter with its marks, the level of its direction, and the font's file; None for a code point in a box."""

    text: str
    level: int
    font: str | None

    @property
    def is_space(self) -> bool:
        return self.text.isspace()


@dataclass(frozen=True, slots=True)
class Run:
    """Clusters of one font and direction in a row; `left` is where they begin, and `width` how far they go on."""

    text: str
    font: str | None
    is_rtl: bool
    left: float
    width: float


@dataclass(frozen=True, slots=True)
class Line:
    """Runs from left to right; `above` and `below` the baseline is all ink."""

    runs: tuple[Run, ...]
    width: float
    above: int
    below: int


@dataclass(frozen=True, slots=True)
class Block:
    """A text set in lines; `width` is that of the widest line. Sizes are in pixels."""

    lines: tuple[Line, ...]
    size: int
    font: str
    is_rtl: bool
    width: int
    height: int


@lru_cache(maxsize=2048)
def set_text(text: str, size: int, width: int, main: str = MAIN) -> Block:
    """The text in lines of at most `width` pixels; a cluster that is wider has a line to itself.

    `main` is the file of the font that is asked first.
    """
    clean = " ".join(without_controls(unicodedata.normalize("NFC", text)).split())
    clusters = _split(clean, main)
    setter = _Setter(clusters, size)
    lines = tuple(setter.set_line(start, end) for start, end in setter.break_lines(width)) or (setter.set_line(0, 0),)
    height = sum(line.above + line.below for line in lines) + round(_LEADING * size) * (len(lines) - 1)
    widest = math.ceil(max(line.width for line in lines))
    return Block(lines, size, main, base_level(clean) == 1, widest, height)


def draw_text(
    pen: ImageDraw.ImageDraw, block: Block, x: float, y: float, width: float, fill: Any, align: str = "start"
) -> None:
    """Draw a block with its top at y, between x and x + width. `align` is start, middle or end, of the text's direction."""
    share = {"start": 0.0, "middle": 0.5, "end": 1.0}[align]
    share = 1 - share if block.is_rtl else share
    for line in block.lines:
        left = round(x + (width - line.width) * share)
        for run in line.runs:
            if run.font is None:
                _draw_box(pen, run, left + run.left, y + line.above, block.size, fill)
                continue
            font, options = _face(run.text, run.font, block.size, run.is_rtl)
            pen.text((left + run.left, y + line.above), run.text, fill, font, anchor="ls", **options)
        y += line.above + line.below + round(_LEADING * block.size)


def _split(text: str, main: str) -> list[Cluster]:
    """The clusters of a text, with characters that no font has as clusters of their own."""
    clusters = []
    place = 0
    levels = find_levels(text)
    for part in _clusters(text):
        level = levels[place]
        place += len(part)
        font = main if main != MAIN and find_font(part) == MAIN else find_font(part)
        if font is not None:
            clusters.append(Cluster(part, level, font))
        else:
            clusters += [Cluster(letter, level, find_font(letter)) for letter in part if not is_invisible(letter)]
    return clusters


def _clusters(text: str) -> Iterator[str]:
    """Letters with their marks, joined emoji, flags, and syllables of scripts that stack consonants (cf. UAX #29)."""
    start = 0
    for place in range(1, len(text) + 1):
        if place == len(text) or not _goes_on(text, start, place):
            yield text[start:place]
            start = place


def _goes_on(text: str, start: int, place: int) -> bool:
    letter, before = text[place], text[place - 1]
    if _is_mark(letter) or ord(letter) in _TONES:
        return True
    if before == _JOINER and ord(letter) >= 0x2190:
        return True
    if unicodedata.combining(before) == 9 and letter.isalpha():  # a virama
        return True
    return ord(letter) in _REGIONS and ord(before) in _REGIONS and (place - start) % 2 == 1


def _is_wide(letter: str) -> bool:
    """True for Chinese characters and the like, between which a line may be broken."""
    return unicodedata.east_asian_width(letter) in ("W", "F")


class _Setter:
    """Breaks and sets clusters at one size."""

    def __init__(self, clusters: Sequence[Cluster], size: int) -> None:
        self._clusters, self._size = clusters, size

    def break_lines(self, width: int) -> Iterator[tuple[int, int]]:
        """Where lines begin and end; white space at their ends is left out."""
        start, count = 0, len(self._clusters)
        while start < count:
            end = self._fitting(start, width)
            stop = end if end == count else self._break_before(start, end)
            last = stop
            while last > start and self._clusters[last - 1].is_space:
                last -= 1
            yield start, last
            start = stop
            while start < count and self._clusters[start].is_space:
                start += 1

    def _fitting(self, start: int, width: int) -> int:
        """The end of the longest line from `start` that fits; at least one cluster."""
        step, count = 16, len(self._clusters)
        while start + step < count and self._width(start, start + step) <= width:
            step *= 2
        low, high = start + 1, min(count, start + step)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self._width(start, middle) <= width else (low, middle - 1)
        return low

    def _break_before(self, start: int, end: int) -> int:
        """The last place up to `end` where a line may be broken."""
        for is_allowed in (self._may_break, self._may_break_word):
            for place in range(end, start, -1):
                if is_allowed(place):
                    return place
        return end

    def _may_break(self, place: int) -> bool:
        before, after = self._clusters[place - 1], self._clusters[place]
        if before.is_space or after.is_space:
            return True
        if after.text[0] in _NOT_FIRST or before.text[-1] in _NOT_LAST:
            return False
        return _is_wide(before.text[0]) or _is_wide(after.text[0])

    def _may_break_word(self, place: int) -> bool:
        before, after = self._clusters[place - 1].text, self._clusters[place].text
        return before in _BREAK_AFTER and after not in _BREAK_AFTER

    def _width(self, start: int, end: int) -> float:
        while end > start and self._clusters[end - 1].is_space:
            end -= 1
        return sum(_measure(text, font, self._size, is_rtl)[0] for text, font, is_rtl, _ in self._runs(start, end))

    def _runs(self, start: int, end: int) -> Iterator[tuple[str, str | None, bool, int]]:
        """Text, font, direction and level of each run, in the order of reading."""
        boxes = iter(range(end - start))
        key = lambda each: (each.font, each.level, next(boxes) if each.font is None else -1)  # noqa: E731
        for (font, level, _), members in groupby(self._clusters[start:end], key):
            clusters = [each.text for each in members]
            yield _written(clusters, is_rtl=level % 2 == 1), font, level % 2 == 1, level

    def set_line(self, start: int, end: int) -> Line:
        """The line of these clusters."""
        runs = list(self._runs(start, end))
        above, below = math.ceil(_ABOVE * self._size), math.ceil(_BELOW * self._size)
        left, placed = 0.0, []
        for text, font, is_rtl, _ in reorder(runs, [level for *_, level in runs]):
            width, top, bottom = _measure(text, font, self._size, is_rtl)
            placed.append(Run(text, font, is_rtl, left, width))
            left += width
            above, below = max(above, -top), max(below, bottom)
        return Line(tuple(placed), left, above, below)


def _written(clusters: Sequence[str], *, is_rtl: bool) -> str:
    """The run's text for Pillow, which turns it round itself only with FriBiDi."""
    if is_rtl and not can_shape():
        return "".join(reversed(clusters)).translate(_MIRRORED)
    return "".join(clusters)


def _face(text: str, font: str, size: int, is_rtl: bool) -> tuple[Font, dict[str, Any]]:
    """The font to draw a run with, and options. Plain letters aren't shaped: then they stand more evenly."""
    is_plain = not is_rtl and font not in (*SCRIPTS, EMOJI) and not any(map(_is_mark, text))
    if is_plain or not can_shape():
        return load_font(font, size), {}
    return load_font(font, size, is_shaped=True), {"direction": "rtl" if is_rtl else "ltr"}


def _is_mark(letter: str) -> bool:
    return is_invisible(letter) or unicodedata.category(letter) in ("Mn", "Mc", "Me")


@lru_cache(maxsize=65536)
def _measure(text: str, font: str | None, size: int, is_rtl: bool) -> tuple[float, int, int]:
    """A run's width, and where its ink begins above and ends below the baseline."""
    if font is None:
        small = load_font(MAIN, _small(size))
        return small.getlength(_code(text)) + size / 2, -round(size * 0.8), round(size * 0.2)
    loaded, options = _face(text, font, size, is_rtl)
    _, top, _, bottom = loaded.getbbox(text, anchor="ls", **options)
    return loaded.getlength(text, **options), math.floor(top), math.ceil(bottom)


def _draw_box(pen: ImageDraw.ImageDraw, run: Run, x: float, baseline: float, size: int, fill: Any) -> None:
    edge = size / 8
    box = (x + edge, baseline - size * 0.8, x + run.width - edge, baseline + size * 0.2 - 1)
    pen.rectangle(box, outline=fill)
    middle = (x + run.width / 2, baseline - size * 0.3)
    pen.text(middle, _code(run.text), fill, load_font(MAIN, _small(size)), anchor="mm")


def _small(size: int) -> int:
    return max(9, round(size * 0.62))


def _code(text: str) -> str:
    return f"U+{ord(text):04X}"


def lacks_shaping(texts: Sequence[str]) -> bool:
    """True if a text has a script that has to be shaped, and Pillow can't: it found no FriBiDi."""
    if can_shape():
        return False
    return any(find_font(part) in SCRIPTS for text in texts for part in _clusters(text))
