"""The fonts that ship with Darkroom: which of them covers a character.

Source Sans has Latin, Greek and Cyrillic; Noto Sans most other scripts, emoji and symbols; Droid Sans Fallback Chinese,
Japanese and Korean. So labels look the same on every machine, whatever fonts it has.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cache, lru_cache

from PIL import ImageFont, features

from darkroom.resources import RESOURCES

FOLDER = RESOURCES / "fonts"
MAIN = "SourceSansPro-Regular.otf"
EMOJI = "NotoEmoji-Regular.ttf"
_SCRIPTS = (
    "Arabic Hebrew Devanagari Bengali Gurmukhi Gujarati Oriya Tamil Telugu Kannada Malayalam Sinhala Thai Lao Khmer Myanmar "
    "Georgian Armenian Ethiopic"
)
SCRIPTS = tuple(f"NotoSans{script}-Regular.ttf" for script in _SCRIPTS.split())
"""The fonts of scripts whose letters have to be shaped, or run from right to left, and of a few others."""
CHAIN = (
    MAIN,
    "NotoSans-Regular.ttf",
    *SCRIPTS,
    "DroidSansFallback.ttf",
    EMOJI,
    *(f"NotoSans{symbols}-Regular.ttf" for symbols in ("Symbols", "Symbols2", "Math")),
)
"""The fonts' files in the order in which they are asked for a character."""
_ASEMOJI = "\ufe0f"

Font = ImageFont.FreeTypeFont


def can_shape() -> bool:
    """False if Pillow finds no FriBiDi: then joined scripts are drawn as single letters."""
    return bool(features.check("raqm"))


@cache
def load_font(file: str, size: int, is_shaped: bool = False) -> Font:
    """One of the fonts' files at a size in pixels. Shaped text has its letters joined and its marks placed."""
    engine = ImageFont.Layout.RAQM if is_shaped else ImageFont.Layout.BASIC
    return ImageFont.truetype(FOLDER / file, size, layout_engine=engine)


@lru_cache(maxsize=4096)
def find_font(cluster: str) -> str | None:
    """The file of the first font that has all of a cluster's visible characters; None if no font has."""
    wanted = {ord(each) for each in cluster if not is_invisible(each)}
    first = [EMOJI] if _ASEMOJI in cluster else []
    return next((file for file in (*first, *CHAIN) if wanted <= coverage(file)), None)


def is_invisible(letter: str) -> bool:
    """True for joiners, direction marks, variation selectors and tags, which have no glyph of their own."""
    code = ord(letter)
    return (
        code in (0xAD, 0x034F, 0x061C, 0x180E, 0xFEFF)
        or 0x200B <= code <= 0x200F
        or 0x202A <= code <= 0x202E
        or 0x2060 <= code <= 0x206F
        or 0xFE00 <= code <= 0xFE0F
        or 0xE0000 <= code <= 0xE0FFF
    )


@cache
def coverage(file: str) -> frozenset[int]:
    """The code points that a font's `cmap` table leads to a glyph (OpenType 1.9, formats 4 and 12)."""
    data = (FOLDER / file).read_bytes()
    table = _find_table(data, b"cmap")
    (count,) = struct.unpack_from(">H", table, 2)
    records = [struct.unpack_from(">HHI", table, 4 + 8 * number) for number in range(count)]
    found: set[int] = set()
    for platform, encoding, offset in records:
        (kind,) = struct.unpack_from(">H", table, offset)
        if (platform, encoding) in ((0, 3), (0, 4), (3, 1), (3, 10)):
            found.update(_format_12(table[offset:]) if kind == 12 else _format_4(table[offset:]) if kind == 4 else ())
    return frozenset(found)


def _find_table(data: bytes, tag: bytes) -> bytes:
    (count,) = struct.unpack_from(">H", data, 4)
    for number in range(count):
        name, _, offset, length = struct.unpack_from(">4sIII", data, 12 + 16 * number)
        if name == tag:
            return data[offset : offset + length]
    raise ValueError(f"no table {tag!r}")


def _format_12(table: bytes) -> Iterator[int]:
    (count,) = struct.unpack_from(">I", table, 12)
    for number in range(count):
        first, last, glyph = struct.unpack_from(">III", table, 16 + 12 * number)
        yield from range(first + (glyph == 0), last + 1)


def _format_4(table: bytes) -> Iterator[int]:
    (twice,) = struct.unpack_from(">H", table, 6)
    places = (14, 16 + twice, 16 + 2 * twice, 16 + 3 * twice)
    ends, starts, deltas, offsets = (struct.unpack_from(f">{twice // 2}H", table, place) for place in places)
    for number, (first, last, delta, offset) in enumerate(zip(starts, ends, deltas, offsets, strict=True)):
        for code in range(first, min(last, 0xFFFE) + 1):
            glyph = code
            if offset:
                place = places[3] + 2 * number + offset + 2 * (code - first)
                (glyph,) = struct.unpack_from(">H", table, place)
                if not glyph:
                    continue
            if (glyph + delta) & 0xFFFF:
                yield code
