"""The format PNG: encoding with metadata, reading the metadata, checking files for damage.

Text chunks: `parameters` is the infotext that other tools read, `darkroom` is JSON with the exact request, from
which the picture can be rendered again, and a study's picture has `study`, JSON with its cell. The XMP packet of
`darkroom.pictures.marking` has a keyword of its own. Pillow is imported only to encode or decode pixels; reading text and `is_whole`
need the standard library alone. Format: PNG specification, third edition (W3C), chapters 5 and 11.
"""

from __future__ import annotations

import io
import json
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from darkroom.errors import ImageError
from darkroom.pictures.marking import XMP

TYPE_CHECKING = False  # as in typing, whose import every picture of a cluster's job would pay for
if TYPE_CHECKING:
    from typing import BinaryIO

    from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
IEND = b"\x00\x00\x00\x00IEND\xaeB`\x82"
STUDY = "study"
"""The keyword of the text chunk with a study's cell."""
_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
REDO = "delete the file and run the same command again"
MAX_PIXELS = 8192 * 8192
_WHERE = "check the path; a picture of a run is made by `snakemake --cores 1 results/`"
_MAX_TEXT = 2**22  # of all chunks together; a compressed one can be a thousand times as long as it looks
# Level 1 takes two thirds of level 6's time on a noisy 1024 x 1024 picture (112 against 178 ms) and half on a flat one;
# the noisy file is a tenth larger.
_COMPRESS_LEVEL = 1


def encode_texts(image: Image.Image, texts: Mapping[str, str]) -> bytes:
    """A PNG with these text chunks by keyword; the same arguments give the same bytes under the same Pillow."""
    from PIL.PngImagePlugin import PngInfo

    chunks = PngInfo()
    for keyword, text in texts.items():
        # add_text writes tEXt where Latin-1 allows and iTXt elsewhere. A NUL would end the text for a reader.
        add = chunks.add_itxt if keyword == XMP else chunks.add_text
        add(keyword, text.replace("\0", "\ufffd"))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=chunks, compress_level=_COMPRESS_LEVEL)
    return buffer.getvalue()


def add_study(png: bytes, study: str) -> bytes:
    """The PNG with a third text chunk, `study`: JSON with the cell of a study that the picture is (ASCII)."""
    return png[: -len(IEND)] + write_chunk(b"tEXt", STUDY.encode() + b"\0" + study.encode("ascii")) + IEND


def replace_texts(png: bytes, texts: Mapping[str, str], path: Path | str) -> bytes:
    """A PNG with these text chunks in place of its own; its pixels' bytes stay as they are.

    The bytes are those that `encode_texts` and `add_study` give. Raises ImageError (E-IMAGE) with `path` for a damaged one.
    """
    before, rest = list[bytes](), list[bytes]()
    for kind, body in read_chunks(io.BytesIO(png), path, check=True):
        if kind not in _TEXT_CHUNKS:
            (before if kind == b"IHDR" else rest).append(write_chunk(kind, body))
    before += [_write_text(keyword, text) for keyword, text in texts.items() if keyword != STUDY]
    rest[-1:-1] = [_write_text(STUDY, texts[STUDY])] if STUDY in texts else []
    return SIGNATURE + b"".join(before + rest)


def _write_text(keyword: str, text: str) -> bytes:
    text = text.replace("\0", "\ufffd")
    if keyword != XMP and all(ord(sign) < 256 for sign in text):
        return write_chunk(b"tEXt", keyword.encode("latin-1") + b"\0" + text.encode("latin-1"))
    return write_chunk(b"iTXt", keyword.encode("latin-1") + b"\0\0\0\0\0" + text.encode())


def write_chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk with its length and checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@cache
def library_versions() -> dict[str, str]:
    """The versions that decide a picture's pixels, by distribution name; imports none of them."""
    from importlib.metadata import version

    return {name: version(name) for name in ("darkroom", "torch", "diffusers", "transformers")}


def is_whole(path: Path | str) -> bool:
    """Whether a file begins as a PNG and ends with a complete IEND chunk, which a truncated file doesn't."""
    try:
        with Path(path).open("rb", buffering=0) as file:
            if file.read(len(SIGNATURE)) != SIGNATURE:
                return False
            if os.fstat(file.fileno()).st_size < len(SIGNATURE) + len(IEND):
                return False
            file.seek(-len(IEND), os.SEEK_END)
            return file.read() == IEND
    except OSError:
        return False


def read_picture(path: Path | str) -> bytes:
    """A picture's bytes; raises ImageError (E-IMAGE) if it is missing or can't be read."""
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise ImageError("picture", path, "is missing", _WHERE) from None
    except OSError as error:
        raise ImageError("picture", path, error.strerror or "can't be read", "check the file") from None


def decode_png(data: bytes, path: Path | str) -> Image.Image:
    """The RGB picture in a PNG's bytes after checking all of them; `path` is for the ImageError (E-IMAGE)."""
    from PIL import Image

    check_png(data, path)
    try:
        return Image.open(io.BytesIO(data), formats=["PNG"]).convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError("picture", path, f"is damaged ({error})", REDO) from None


def check_png(data: bytes, path: Path | str) -> None:
    """Check all bytes of a PNG by its chunks' checksums, without decoding. Raises ImageError (E-IMAGE) with `path`."""
    width, height = struct.unpack(">II", _first_chunk(data, path))
    if width * height > MAX_PIXELS:
        raise ImageError("picture", path, f"claims {width}x{height} pixels", REDO)
    for _ in read_chunks(io.BytesIO(data), path, check=True):
        pass
    if not data.endswith(IEND):
        raise ImageError("picture", path, "has bytes after its end", REDO)


def read_size(path: Path | str) -> tuple[int, int]:
    """Width and height in pixels, without reading the picture. Raises ImageError (E-IMAGE) for what is no PNG."""
    try:
        with Path(path).open("rb") as file:
            width, height = struct.unpack(">II", _first_chunk(file.read(64), path))
            return width, height
    except FileNotFoundError:
        raise ImageError("picture", path, "is missing", _WHERE) from None
    except OSError as error:
        raise ImageError("picture", path, error.strerror or "can't be read", "check the file") from None


def read_png_text(path: Path | str) -> dict[str, str]:
    """The text chunks by keyword, without decoding pixels. Raises ImageError (E-IMAGE) for a damaged file."""
    try:
        with Path(path).open("rb") as file:
            return _read_text(file, path)
    except FileNotFoundError:
        raise ImageError("picture", path, "is missing", _WHERE) from None
    except OSError as error:
        raise ImageError("picture", path, error.strerror or "can't be read", "check the file") from None


def text_of_png(data: bytes, path: Path | str) -> dict[str, str]:
    """As `read_png_text`, from bytes in memory."""
    return _read_text(io.BytesIO(data), path)


def read_warnings(texts: Mapping[str, str]) -> list[str]:
    """The engine's warnings in a picture's texts; empty if there are none or they can't be read."""
    try:
        found = json.loads(texts.get("darkroom", "{}")).get("warnings", [])
    except (ValueError, RecursionError, AttributeError):
        return []
    return [text for text in found if isinstance(text, str)] if isinstance(found, list) else []


def _read_text(file: BinaryIO, path: Path | str) -> dict[str, str]:
    texts: dict[str, str] = {}
    room = _MAX_TEXT
    for kind, body in read_chunks(file, path, check=False):
        if kind in _TEXT_CHUNKS:
            try:
                keyword, text = _decode_text(kind, body, room)
            except (ValueError, zlib.error):
                raise ImageError("picture", path, "has a damaged text chunk", REDO) from None
            texts[keyword] = text
            room -= len(text)
    return texts


def _decode_text(kind: bytes, body: bytes, room: int) -> tuple[str, str]:
    keyword, rest = body.split(b"\0", 1)
    if kind == b"tEXt":
        return keyword.decode("latin-1"), rest.decode("latin-1")
    if kind == b"zTXt":
        return keyword.decode("latin-1"), _inflate(rest[1:], room).decode("latin-1")
    is_compressed, tagged = rest[:1] == b"\1", rest[2:]
    _language, _translated, text = tagged.split(b"\0", 2)
    return keyword.decode("latin-1"), (_inflate(text, room) if is_compressed else text).decode("utf-8")


def _inflate(data: bytes, room: int) -> bytes:
    inflater = zlib.decompressobj()
    text = inflater.decompress(data, max(1, room))  # 0 would be no limit
    if inflater.unconsumed_tail:
        raise ValueError("more text than a picture carries")
    return text


def _first_chunk(data: bytes, path: Path | str) -> bytes:
    """Width and height as IHDR, the first chunk, holds them."""
    if data[: len(SIGNATURE)] != SIGNATURE or data[12:16] != b"IHDR" or len(data) < 24:
        raise ImageError("picture", path, "is not a PNG", REDO)
    return data[16:24]


def read_chunks(file: BinaryIO, path: Path | str, *, check: bool) -> Iterator[tuple[bytes, bytes]]:
    """Each chunk up to IEND as (kind, body). Without `check`, other bodies than text are skipped and given as b"".

    Raises ImageError (E-IMAGE) for a damaged file.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if file.read(len(SIGNATURE)) != SIGNATURE:
        raise ImageError("picture", path, "is not a PNG", REDO)
    while True:
        head = file.read(8)
        length, kind = struct.unpack(">I4s", head) if len(head) == 8 else (0, b"")
        if not kind or file.tell() + length + 4 > size:
            raise ImageError("picture", path, "is cut off", REDO)
        if check or kind in _TEXT_CHUNKS:
            body, crc = file.read(length), file.read(4)
            if zlib.crc32(body, zlib.crc32(kind)) != int.from_bytes(crc, "big"):
                raise ImageError("picture", path, f"is damaged (checksum of {kind.decode('latin-1')})", REDO)
            yield kind, body
        else:
            file.seek(length + 4, os.SEEK_CUR)
            yield kind, b""
        if kind == b"IEND":
            return
