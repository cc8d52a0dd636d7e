"""A PNG made of bands: rows of pixels that are compressed by themselves, so that a band which stays is neither drawn nor compressed again.

Each band is an IDAT chunk of its own. Its first row has no filter and its end is a full flush, so it depends on no band before it. A private
chunk has as JSON, for each band, its key, the Adler-32 of its filtered rows and their length in bytes. PNG specification, third edition, 5, 9 and
10; RFC 1950 for the checksum over all bands, which follows from theirs.
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from darkroom.errors import ImageError
from darkroom.pictures.png import IEND, SIGNATURE, read_chunks, read_picture, write_chunk

_CHUNK = b"drBD"  # ancillary, private, not to be kept by who changes the pixels: PNG specification, 5.4
_LEVEL = 3  # against 6: four fifths of the time, a tenth more bytes for photographs, a third for flat colours
_BEGIN = b"\x78\x5e"  # of a zlib stream
_END = b"\x03\x00"  # of a deflate stream: an empty last block
_ADLER = 65521


@dataclass(frozen=True, slots=True)
class Band:
    """Compressed rows, with the Adler-32 and the length in bytes of what was compressed."""

    data: bytes
    adler: int
    length: int


def encode_band(image: Image.Image) -> Band:
    """The band of an image in RGB."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=0)  # for Pillow's choice of filters
    packed = b"".join(body for kind, body in read_chunks(buffer, "a band", check=True) if kind == b"IDAT")
    first, row = image.crop((0, 0, image.width, 1)).tobytes(), 1 + 3 * image.width
    # Pillow takes the row above the first for black, which it isn't where another band stands there.
    filtered = b"\0" + first + zlib.decompress(packed)[row:]
    compressor = zlib.compressobj(_LEVEL, wbits=-zlib.MAX_WBITS, strategy=zlib.Z_FILTERED)
    data = compressor.compress(filtered) + compressor.flush(zlib.Z_FULL_FLUSH)
    return Band(data, zlib.adler32(filtered), len(filtered))


def join_bands(
    width: int, height: int, bands: Iterable[tuple[str, Band]], chunks: Iterable[tuple[bytes, bytes]]
) -> bytes:
    """A PNG in RGB of keyed bands from top to bottom, with further chunks before its pixels. A band without a key isn't found again."""
    low, high, known, body = 1, 0, [], []
    for key, band in bands:
        high = (high + (band.adler >> 16) + band.length * (low - 1)) % _ADLER
        low = (low + (band.adler & 0xFFFF) - 1) % _ADLER
        known.append([key, band.adler, band.length])
        body.append(write_chunk(b"IDAT", band.data))
    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes((8, 2, 0, 0, 0))  # 8 bits, RGB
    about = zlib.compress(json.dumps(known, separators=(",", ":")).encode(), 1)
    before = [(b"IHDR", head), *chunks, (_CHUNK, about), (b"IDAT", _BEGIN)]
    end = write_chunk(b"IDAT", _END + (high << 16 | low).to_bytes(4, "big"))
    return b"".join([SIGNATURE, *(write_chunk(*each) for each in before), *body, end, IEND])


def read_bands(path: Path) -> Mapping[str, Band]:
    """The bands of a file by their keys; none if it is missing, damaged, or not made of bands."""
    try:
        chunks = list(read_chunks(io.BytesIO(read_picture(path)), path, check=True))
        known = json.loads(zlib.decompress(next(body for kind, body in chunks if kind == _CHUNK)))
        pixels = [body for kind, body in chunks if kind == b"IDAT"][1:-1]
        pairs = zip(known, pixels, strict=True)
        return {str(key): Band(data, int(adler), int(length)) for (key, adler, length), data in pairs if key}
    except (ImageError, ValueError, TypeError, StopIteration, zlib.error):
        return {}
