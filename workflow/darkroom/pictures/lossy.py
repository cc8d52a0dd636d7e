"""The formats JPEG, WebP and AVIF: encoding with metadata, reading it, and checking that a file is whole.

The infotext is EXIF's UserComment (CIPA DC-008, 4.6.5: eight bytes name the character code), as A1111 writes and reads it:
`UNICODE` and UTF-16, the high byte first. Darkroom's own JSON is a part of the XMP packet. Pillow is imported only to
encode and to decode.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Mapping
from pathlib import Path

from darkroom.errors import ImageError, LimitError
from darkroom.pictures.marking import XMP, add_own, split_own
from darkroom.pictures.png import MAX_PIXELS, REDO
from darkroom.pictures.user_comment import decode_user_comment

TYPE_CHECKING = False  # as in typing, whose import every picture of a cluster's job would pay for
if TYPE_CHECKING:
    from typing import Any

    from PIL import Image

_EXIF, _USER_COMMENT = 0x8769, 0x9286
_INFOTEXT = "parameters"
_MOST_JPEG_BYTES = 65_500  # a JPEG's segment holds 65,533 with the head of EXIF or XMP
_BOX = struct.Struct(">I4s")
_OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"subsampling": 0, "optimize": True},
    "WEBP": {"method": 4},
    # Tiles by the number of threads would give other bytes on another machine.
    "AVIF": {"codec": "aom", "speed": 6, "autotiling": False, "max_threads": 1, "subsampling": "4:4:4"},
}


def encode(kind: str, image: Image.Image, texts: Mapping[str, str], quality: int) -> bytes:
    """A picture as JPEG, WEBP or AVIF, Pillow's names; the same bytes for the same arguments under the same Pillow.

    `quality` is the encoder's, 0 to 100. `texts` are a PNG's, by keyword. Raises LimitError (E-LIMIT) for more text than
    a JPEG holds, or more pixels than the format can have.
    """
    from PIL import Image

    own = {key: text for key, text in texts.items() if key not in (_INFOTEXT, XMP)}
    exif, xmp = Image.Exif(), add_own(texts.get(XMP, ""), own).encode()
    if infotext := texts.get(_INFOTEXT):
        exif.get_ifd(_EXIF)[_USER_COMMENT] = b"UNICODE\0" + infotext.encode("utf-16-be", "replace")
    about = {"exif": exif.tobytes()} | ({"xmp": xmp} if xmp else {})
    longest = max(map(len, about.values()))
    if kind == "JPEG" and longest > _MOST_JPEG_BYTES:
        why = f"the metadata has {longest:,} bytes, and a JPEG holds {_MOST_JPEG_BYTES:,}"
        raise LimitError("format", "jpeg", why, "choose webp, avif or png, or shorten the prompts")
    buffer = io.BytesIO()
    try:
        image.save(buffer, kind, quality=quality, **about, **_OPTIONS[kind])
    except (OSError, ValueError, struct.error) as error:
        why = f"a picture of {image.width} x {image.height} can't be encoded ({error})"
        raise LimitError("format", kind.lower(), why, "choose png") from None
    return buffer.getvalue()


def read_text(kind: str, data: bytes, path: object) -> dict[str, str]:
    """The texts as a PNG would have them, by keyword; no pixels are decoded. Raises ImageError (E-IMAGE) with `path`."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=[kind]) as image:
            exif = image.getexif()
            comment = exif.get_ifd(_EXIF).get(_USER_COMMENT, b"")
            packet = image.info.get("xmp", b"")
    except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError):
        raise ImageError("picture", path, f"is no {kind} that can be read", "give a whole file") from None
    xmp, own = split_own(packet.decode("utf-8", "replace") if isinstance(packet, bytes) else str(packet))
    is_bytes = isinstance(comment, bytes)
    infotext = decode_user_comment(comment, is_little_endian=exif.endian == "<") if is_bytes else str(comment)
    return {**({_INFOTEXT: infotext} if infotext else {}), **own, **({XMP: xmp} if xmp else {})}


def decode(kind: str, data: bytes, path: object) -> Image.Image:
    """The RGB picture. Raises ImageError (E-IMAGE) with `path` for one that is damaged or too large."""
    from PIL import Image

    check(kind, data, path)
    try:
        with Image.open(io.BytesIO(data), formats=[kind]) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImageError("picture", path, f"claims {image.width}x{image.height} pixels", REDO)
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError) as error:
        raise ImageError("picture", path, f"is damaged ({error})", REDO) from None


def check(kind: str, data: bytes, path: object) -> None:
    """Check that a file goes from its format's first byte to its last one. Raises ImageError (E-IMAGE) with `path`."""
    if not _IS_WHOLE[kind](io.BytesIO(data), len(data)):
        raise ImageError("picture", path, f"is cut off, or no {kind}", REDO)


def is_whole(kind: str, path: Path | str) -> bool:
    """Whether a file begins as one of its format and ends as its head says."""
    try:
        with Path(path).open("rb") as file:
            return _IS_WHOLE[kind](file, os.fstat(file.fileno()).st_size)
    except OSError:
        return False


def _is_jpeg(file: Any, size: int) -> bool:
    """From SOI to EOI (ITU-T T.81, B.1.1.3)."""
    if file.read(3) != b"\xff\xd8\xff" or size < 5:
        return False
    file.seek(-2, os.SEEK_END)
    return bool(file.read() == b"\xff\xd9")


def _is_webp(file: Any, size: int) -> bool:
    """RIFF's head says how many bytes follow it (RFC 9649, 2.4)."""
    head = file.read(12)
    return head[:4] == b"RIFF" and head[8:] == b"WEBP" and int.from_bytes(head[4:8], "little") + 8 == size


def _is_avif(file: Any, size: int) -> bool:
    """Boxes up to the last byte, among them the one with the pixels (ISO/IEC 14496-12, 4.2)."""
    place, kinds = 0, []
    while place + _BOX.size <= size:
        file.seek(place)
        length, kind = _BOX.unpack(file.read(_BOX.size))
        if length == 1:
            length = int.from_bytes(file.read(8), "big")
        if length < _BOX.size:
            return False
        kinds.append(kind)
        place += length
    return place == size and kinds[:1] == [b"ftyp"] and b"mdat" in kinds


_IS_WHOLE = {"JPEG": _is_jpeg, "WEBP": _is_webp, "AVIF": _is_avif}
