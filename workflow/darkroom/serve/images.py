"""Pictures that clients send: bytes become a checked PNG, or a coded error.

A picture comes in base64, with or without the head of a `data:` URI (RFC 2397), or as a file in a form; never by an address,
a path or a name. Its content says what it is. Sizes are checked before anything is decoded, and decoding happens in a few
threads, so that a large picture doesn't hold up other requests.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import io
import re
import struct
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, Self, TypeVar
from urllib.parse import urlsplit

from darkroom.base.text import shorten
from darkroom.errors import LimitError, RequestError, SsrfError, UnsupportedError
from darkroom.serve import image_pixels

if TYPE_CHECKING:
    from PIL.Image import Image

    from darkroom.config import ServeConfig

T = TypeVar("T")

Meaning = Literal["picture", "mask", "transparency"]
"""What a file stands for: a `picture` (transparent parts become white), A1111's `mask` (white is made anew), or OpenAI's, where
`transparency` is made anew."""

_THREADS = 2
_HEADS = {"PNG": (b"\x89PNG\r\n\x1a\n",), "JPEG": (b"\xff\xd8\xff",)}
_OTHERS = {
    b"GIF8": "a GIF",
    b"BM": "a BMP",
    b"II*\0": "a TIFF",
    b"MM\0*": "a TIFF",
    b"%PDF": "a PDF",
    b"8BPS": "a Photoshop file",
    b"<svg": "an SVG",
    b"<?xml": "an SVG",
    b"\0\0\1\0": "an icon",
    b"\x76\x2f\x31\x01": "an OpenEXR file",
}
_BRANDS = {b"avif": "an AVIF", b"heic": "a HEIC", b"heix": "a HEIC", b"mif1": "a HEIF"}
_PLACE = re.compile(r"\s*(?:[a-z][a-z0-9+.-]*:|[/\\~]|[^\s/]*[./\\])", re.IGNORECASE)
"""How addresses and paths begin. A JPEG in base64 begins with a slash too."""
_START = 128
"""So many characters say whether a text is a picture in base64."""
_SEND = "send a PNG, JPEG or WebP"


@dataclass(frozen=True, slots=True)
class InputPicture:
    """A picture that was sent: `png` holds its pixels alone (RGB, or L for a mask), `sha256` is of these bytes.

    `is_transparent` if parts of what was sent were fully transparent, `infotext` its A1111 metadata.
    """

    png: bytes
    sha256: str
    width: int
    height: int
    is_transparent: bool = False
    infotext: str = ""

    @classmethod
    def of_png(cls, png: bytes, *, is_transparent: bool = False, infotext: str = "") -> Self:
        """The picture of a PNG's bytes as `image_pixels.write_png` gives them."""
        width, height = struct.unpack(">II", png[16:24])
        return cls(png, hashlib.sha256(png).hexdigest(), width, height, is_transparent, infotext)

    @property
    def size(self) -> tuple[int, int]:
        return self.width, self.height


class ImageReader:
    """Decodes pictures in a few threads, within the limits of a configuration."""

    def __init__(self, limits: ServeConfig) -> None:
        self._limits = limits
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="images")

    async def read(
        self,
        data: str | bytes,
        field: str,
        meaning: Meaning = "picture",
        size: tuple[int, int] | None = None,
        where: str = "request",
    ) -> InputPicture:
        """The picture in a file's bytes, or in a text in base64; `field` and `where` say what it came in, for errors.

        A mask is brought to `size` (width, height) if it has another one. Raises RequestError (E-REQUEST) for what is no
        picture, damaged, animated or of a kind that isn't read, LimitError (E-LIMIT) for too many bytes or pixels, and
        SsrfError (E-SSRF) for an address or a path.
        """
        return await self.run(partial(read_image, data, field, self._limits, meaning, size, where))

    def run(self, work: Callable[[], T]) -> Awaitable[T]:
        """Do work on pictures in one of the threads."""
        return asyncio.get_running_loop().run_in_executor(self._pool, work)


def read_image(
    data: str | bytes,
    field: str,
    limits: ServeConfig,
    meaning: Meaning = "picture",
    size: tuple[int, int] | None = None,
    where: str = "request",
) -> InputPicture:
    """As `ImageReader.read`, in this thread."""
    what = f"{where}: {field}"
    content = decode_base64(data, what, limits) if isinstance(data, str) else data
    image, infotext = _open(content, what, limits)
    is_transparent = image_pixels.has_holes(image)
    made = _interpret(image, what, meaning)
    if size is not None and made.size != size:
        made = made.resize(size)
    return InputPicture.of_png(image_pixels.write_png(made), is_transparent=is_transparent, infotext=infotext)


def decode_base64(text: str, what: str, limits: ServeConfig) -> bytes:
    """The bytes of a text in base64, bare or in a `data:` URI; `what` is for errors, which `ImageReader.read` names."""
    refuse_place(text, what)
    text = text.lstrip()
    head, comma, body = text.partition(",") if text[:5].lower() == "data:" else ("", "", text)
    if head and not (comma and head.lower().endswith(";base64")):
        raise RequestError(what, None, "is a data: URI without base64", "send data:image/png;base64,…")
    if len(body) * 3 // 4 > limits.max_image_bytes + 1024:
        raise _too_many_bytes(what, len(body) * 3 // 4, limits)
    try:
        return _decode(body)
    except (binascii.Error, ValueError):
        raise RequestError(what, None, "is no base64", "send the file's bytes in base64") from None


def refuse_place(text: str, what: str) -> None:
    """Raise SsrfError (E-SSRF) for an address or a path where a picture in base64 should be."""
    start = text[:_START]
    if start.lstrip()[:5].lower() == "data:" or not _PLACE.match(start):
        return
    try:
        is_picture = kind_of(_decode(start[: _START // 2])) != "no picture"
    except (binascii.Error, ValueError):
        is_picture = False
    if not is_picture:
        why = "no address or path that comes with a request is opened"
        raise SsrfError(what, _host(text), why, "send the file's bytes in base64")


def _decode(text: str) -> bytes:
    compact = re.sub(r"\s+", "", text)
    return base64.b64decode(compact + "=" * (-len(compact) % 4), validate=True)


def kind_of(content: bytes) -> str:
    """`PNG`, `JPEG` or `WEBP`; anything else in words, with its article."""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "WEBP"
    for kind, heads in _HEADS.items():
        if content.startswith(heads):
            return kind
    if content[4:8] == b"ftyp":
        return _BRANDS.get(content[8:12], "a video")
    start = content.lstrip()[:16].lower() if content[:1] in b" \t\r\n<" else content
    return next(
        (name for head, name in _OTHERS.items() if start.startswith(head)), "no picture" if content else "empty"
    )


def _open(content: bytes, what: str, limits: ServeConfig) -> tuple[Image, str]:
    """The decoded picture, the right way up, and its infotext."""
    from PIL import Image, ImageOps

    if len(content) > limits.max_image_bytes:
        raise _too_many_bytes(what, len(content), limits)
    kind = kind_of(content)
    if kind not in ("PNG", "JPEG", "WEBP"):
        raise RequestError(what, None, f"is {kind}; PNG, JPEG and WebP are read", _SEND)
    bombs = (Image.DecompressionBombError, Image.DecompressionBombWarning)
    try:
        with Image.open(io.BytesIO(content), formats=[kind]) as image:
            if image.width * image.height > limits.max_image_pixels:
                raise _too_many_pixels(what, image.size, limits)
            if kind != "JPEG" and getattr(image, "n_frames", 1) > 1:
                raise UnsupportedError(what, None, "is animated", "send one of its pictures")
            image.load()
            return ImageOps.exif_transpose(image), image_pixels.infotext_in(content)
    except bombs:
        raise _too_many_pixels(what, None, limits) from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, IndexError, KeyError, TypeError, OverflowError):
        raise RequestError(what, None, f"is a damaged or incomplete {kind}", "send the whole file") from None


def _interpret(image: Image, what: str, meaning: Meaning) -> Image:
    if meaning == "mask":
        return image_pixels.as_mask(image)
    if meaning == "transparency":
        mask = image_pixels.as_transparency(image)
        if mask.getbbox() is None:
            why = "has no transparent part, so nothing would be edited"
            raise RequestError(what, None, why, "make the part to be edited transparent")
        return mask
    return image_pixels.as_picture(image)


def _host(text: str) -> str | None:
    """Scheme and host of an address, without the rest, which may contain a password or a token."""
    try:
        parts = urlsplit(text.strip())
    except ValueError:
        return None
    return shorten(f"{parts.scheme}://{parts.hostname}") if parts.hostname else parts.scheme or None


def _too_many_bytes(what: str, count: int, limits: ServeConfig) -> LimitError:
    why = f"a picture file may have {limits.max_image_bytes:,} bytes"
    return LimitError(what, f"{count:,} bytes", why, "send a smaller file")


def _too_many_pixels(what: str, size: tuple[int, int] | None, limits: ServeConfig) -> LimitError:
    shown = f"{size[0]}x{size[1]}" if size else None
    return LimitError(what, shown, f"may have {limits.max_image_pixels:,} pixels", "send a smaller picture")
