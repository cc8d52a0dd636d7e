"""What a picture file says in words: a PNG's text chunks, EXIF of a PNG, JPEG, WebP or AVIF, and text hidden in the lowest bits.

Everything here comes from anybody. Chunks that no reader looks at are skipped unread, so a ComfyUI workflow of any size costs
nothing, and whatever is read has a limit before it is decompressed or decoded.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darkroom.base.text import format_bytes
from darkroom.errors import ImageError
from darkroom.pictures.inputs import MAX_BYTES
from darkroom.pictures.png import MAX_PIXELS, SIGNATURE
from darkroom.pictures.user_comment import decode_user_comment

if TYPE_CHECKING:
    from PIL.Image import Exif, Image

MAX_TEXT_BYTES = 2**24
"""Of one text, after decompression: a ComfyUI graph with a picture in it is still read."""
KEYWORDS = (
    *("parameters", "darkroom", "prompt", "invokeai_metadata", "sd-metadata", "Dream", "fooocus_scheme"),
    *("Comment", "Description", "Software", "Source", "Title", "generation_data", "study"),
)
"""The keywords of text chunks that readers look at."""
_EXIF_IFD, _USER_COMMENT, _MAKER_NOTE = 0x8769, 0x9286, 0x927C
_TAGS = {0x010E: "ImageDescription", 0x010F: "Make", 0x0110: "Model", 0x0131: "Software", 0x013B: "Artist"}
_FORMATS = ("PNG", "JPEG", "WEBP", "AVIF")
_GIVE = "give a picture as its tool saved it"
_HIDDEN = {b"stealth_pnginfo": 1, b"stealth_pngcomp": 1, b"stealth_rgbinfo": 3, b"stealth_rgbcomp": 3}
"""The marks that hidden text begins with, by the number of channels it is in."""


@dataclass(frozen=True, slots=True)
class PictureTexts:
    """A picture's width and height in pixels, its PNG texts by keyword, and its EXIF texts by tag name.

    Texts that were kept apart from their picture have no size.
    """

    path: Path
    size: tuple[int, int] | None
    texts: Mapping[str, str] = field(default_factory=dict)
    exif: Mapping[str, str] = field(default_factory=dict)

    @property
    def infotext(self) -> str:
        """The text where A1111 and most others write theirs; empty if there is none."""
        return self.texts.get("parameters") or self.exif.get("UserComment", "")

    @property
    def user_comment(self) -> str:
        return self.exif.get("UserComment", "")


def read_picture_texts(path: Path | str) -> PictureTexts:
    """All that readers look at. Raises ImageError (E-IMAGE) for what is no picture, damaged, or has more text than is read."""
    path = Path(path)
    return texts_of(read_file(path), path)


def texts_of(data: bytes, path: Path) -> PictureTexts:
    """As `read_picture_texts`, of bytes that have been read already."""
    if data.startswith(SIGNATURE):
        size, texts, block = _read_png(data, path)
        exif = _read_exif(block, path) if block else {}
    else:
        size, exif = _open(data, path)
        texts = {}
    if not texts and not exif:
        texts = _read_hidden(data, path)
    return PictureTexts(path, size, texts, exif)


def parse_json(text: str, what: str, path: object) -> Any:
    """JSON as Python writes it, NaN included. Raises ImageError (E-IMAGE) for what is none, and for one that is nested too deeply."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        why = "is nested too deeply" if isinstance(error, RecursionError) else "is no JSON that can be read"
        raise ImageError("picture", path, f"its text '{what}' {why}", _GIVE) from None


def parse_object(text: str) -> dict[str, Any]:
    """The JSON object that a text is; empty for anything else."""
    if text.lstrip()[:1] != "{":
        return {}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def read_file(path: Path) -> bytes:
    """A picture file's bytes. Raises ImageError (E-IMAGE) for one that is missing, too large, or can't be read."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ImageError("picture", path, f"has {size:,} bytes; at most {MAX_BYTES:,} are read", "save it smaller")
        return path.read_bytes()
    except OSError as error:
        why = "does not exist" if isinstance(error, FileNotFoundError) else error.strerror or "can't be read"
        raise ImageError("picture", path, why, "check the path") from None


def _read_png(data: bytes, path: Path) -> tuple[tuple[int, int], dict[str, str], bytes]:
    """Size, texts and EXIF block of a PNG. Only the chunks that are read are checked."""
    if data[12:16] != b"IHDR" or len(data) < 33:
        raise ImageError("picture", path, "is cut off", _GIVE)
    width, height = struct.unpack(">II", data[16:24])
    texts: dict[str, str] = {}
    block, place = b"", len(SIGNATURE)
    while True:
        length, kind = struct.unpack(">I4s", data[place : place + 8]) if place + 8 <= len(data) else (0, b"")
        if not kind or place + 12 + length > len(data):
            raise ImageError("picture", path, "is cut off", _GIVE)
        body = memoryview(data)[place + 8 : place + 8 + length]
        if kind in (b"tEXt", b"zTXt", b"iTXt"):
            keyword = bytes(body[:80]).split(b"\0")[0].decode("latin-1")
            if keyword in KEYWORDS:
                _check(kind, body, data, place, path)
                texts[keyword] = _decode(kind, bytes(body), keyword, path)
        elif kind == b"eXIf":
            _check(kind, body, data, place, path)
            block = bytes(body)
        elif kind == b"IEND":
            return (width, height), texts, block
        place += 12 + length


def _check(kind: bytes, body: memoryview, data: bytes, place: int, path: Path) -> None:
    if len(body) > MAX_TEXT_BYTES:
        _refuse_length(kind.decode("ascii"), path)
    end = place + 8 + len(body)
    if zlib.crc32(body, zlib.crc32(kind)) != int.from_bytes(data[end : end + 4], "big"):
        raise ImageError("picture", path, f"is damaged (checksum of {kind.decode('ascii')})", _GIVE)


def _refuse_length(what: str, path: Path) -> None:
    why = f"has a text ({what}) of more than {format_bytes(MAX_TEXT_BYTES)}"
    raise ImageError("picture", path, why, "take that text out of the picture")


def _decode(kind: bytes, body: bytes, keyword: str, path: Path) -> str:
    """A text chunk's text. A tEXt in UTF-8, which the format forbids and some programs write, is read as such."""
    rest = body[len(keyword.encode("latin-1")) + 1 :]
    try:
        if kind == b"iTXt":
            is_compressed, (_language, _translated, rest) = rest[:1] == b"\1", rest[2:].split(b"\0", 2)
            return (_inflate(rest, keyword, path) if is_compressed else rest).decode("utf-8", "replace")
        plain = _inflate(rest[1:], keyword, path) if kind == b"zTXt" else rest
    except (ValueError, zlib.error):
        raise ImageError("picture", path, f"its text '{keyword}' is damaged", _GIVE) from None
    return decode_text(plain)


def decode_text(plain: bytes) -> str:
    """UTF-8 where it is that, else Latin-1."""
    try:
        return plain.decode("utf-8")
    except UnicodeDecodeError:
        return plain.decode("latin-1")


def _inflate(data: bytes, what: str, path: Path, *, bits: int = 15) -> bytes:
    inflater = zlib.decompressobj(bits)
    plain = inflater.decompress(data, MAX_TEXT_BYTES)
    if inflater.unconsumed_tail:
        _refuse_length(what, path)
    return plain


def _open(data: bytes, path: Path) -> tuple[tuple[int, int], dict[str, str]]:
    """Size and EXIF texts of a picture that is no PNG; no pixels are decoded where the format allows."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _check_size(image, path)
            return image.size, _texts_of(image.getexif(), path)
    except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError):
        raise ImageError("picture", path, "is no PNG, JPEG, WebP or AVIF that can be read", _GIVE) from None


def _read_exif(block: bytes, path: Path) -> dict[str, str]:
    from PIL import Image

    exif = Image.Exif()
    try:
        exif.load(block if block.startswith(b"Exif\0\0") else b"Exif\0\0" + block)
        return _texts_of(exif, path)
    except (OSError, SyntaxError, ValueError, struct.error):
        raise ImageError("picture", path, "has damaged EXIF data", _GIVE) from None


def _texts_of(exif: Exif, path: Path) -> dict[str, str]:
    inner = exif.get_ifd(_EXIF_IFD)
    found = {name: exif.get(tag) for tag, name in _TAGS.items()}
    found["UserComment"] = inner.get(
        _USER_COMMENT, exif.get(_USER_COMMENT)
    )  # Fooocus writes it outside of its own block
    found["MakerNote"] = inner.get(_MAKER_NOTE, exif.get(_MAKER_NOTE))
    texts: dict[str, str] = {}
    for name, value in found.items():
        if isinstance(value, bytes | str) and value:
            if len(value) > MAX_TEXT_BYTES:
                _refuse_length(name, path)
            texts[name] = _exif_text(name, value, is_little_endian=exif.endian == "<")
    return {name: text for name, text in texts.items() if text.strip()}


def _exif_text(name: str, value: bytes | str, *, is_little_endian: bool) -> str:
    if isinstance(value, str):
        try:
            value = value.encode("latin-1")  # as Pillow has decoded it
        except UnicodeEncodeError:
            return str(value)
    if name == "UserComment":
        return decode_user_comment(value, is_little_endian=is_little_endian)
    return decode_text(value).rstrip("\0")


def _check_size(image: Image, path: Path) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise ImageError("picture", path, f"has {image.width} x {image.height} pixels", "save it smaller")


def _read_hidden(data: bytes, path: Path) -> dict[str, str]:
    """The texts in the lowest bits of the alpha channel, or of all colours, column by column; empty without any.

    Mark, length in bits (32 bits, the highest first), then JSON or an infotext, as it is or in gzip's format
    (github.com/NovelAI/novelai-image-metadata, and the A1111 extension sd_webui_stealth_pnginfo).
    """
    import numpy as np
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _check_size(image, path)
            if image.mode not in ("RGBA", "RGB") or image.format == "JPEG":
                return {}
            pixels = np.asarray(image)
    except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError):
        return {}
    for channels in (pixels[:, :, 3:4], pixels[:, :, :3]):
        if not channels.size:
            continue
        packed = np.packbits(np.ascontiguousarray(channels.transpose(1, 0, 2)).reshape(-1) & 1).tobytes()
        mark, length = packed[:15], int.from_bytes(packed[15:19], "big") // 8
        if _HIDDEN.get(mark) != channels.shape[2] or not 0 < length <= min(len(packed) - 19, MAX_TEXT_BYTES):
            continue
        return _hidden_texts(packed[19 : 19 + length], is_compressed=mark.endswith(b"comp"), path=path)
    return {}


def _hidden_texts(body: bytes, *, is_compressed: bool, path: Path) -> dict[str, str]:
    try:
        text = decode_text(_inflate(body, "hidden in its pixels", path, bits=31) if is_compressed else body)
    except zlib.error:
        raise ImageError("picture", path, "its text hidden in its pixels is damaged", _GIVE) from None
    fields = parse_object(text)
    if not fields:
        return {"parameters": text}
    return {
        key: value if isinstance(value, str) else json.dumps(value) for key, value in fields.items() if key in KEYWORDS
    }
