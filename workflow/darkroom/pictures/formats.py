"""Picture formats: what kinds of file a finished picture can be, and what can be done with each.

A new format is one line in FORMATS, and functions that keep the promises below. Standard library only at import, and no
dataclass: a cluster's job imports this with every picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from darkroom.errors import ImageError, UnsupportedError
from darkroom.pictures import lossy, png

TYPE_CHECKING = False  # as in typing, whose import every picture of a cluster's job would pay for
if TYPE_CHECKING:
    from PIL import Image


class PictureFormat:
    """One kind of file.

    `name` is the configuration's, `suffix` begins with a dot, in lower case, and `suffixes` are all that files of it have.
    `max_edge` is the longest edge in pixels, `quality` the encoder's usual one (None where nothing is lost).
    `encode(image, texts, quality)` gives the bytes of an RGB picture with its metadata by keyword (`parameters`, `darkroom`,
    `study`, the XMP packet), the same bytes for the same arguments. `is_whole(path)` tells quickly whether a file was
    written to its end. `check(data, path)` checks all bytes as far as that is possible without decoding,
    `decode(data, path)` gives the RGB picture after that, `read_text(data, path)` its metadata by keyword; these raise
    ImageError (E-IMAGE) that names `path`.
    """

    def __init__(
        self,
        name: str,
        suffixes: tuple[str, ...],
        max_edge: int,
        quality: int | None,
        *,
        encode: Callable[[Image.Image, Mapping[str, str], int], bytes],
        is_whole: Callable[[Path | str], bool],
        check: Callable[[bytes, Path | str], None],
        decode: Callable[[bytes, Path | str], Image.Image],
        read_text: Callable[[bytes, Path | str], dict[str, str]],
    ) -> None:
        self.name, self.mime_type = name, f"image/{name}"
        self.suffix, self.suffixes = suffixes[0], suffixes
        self.max_edge, self.quality = max_edge, quality
        self._encode = encode
        self.is_whole = is_whole
        self.check = check
        self.decode = decode
        self.read_text = read_text

    def encode(self, image: Image.Image, texts: Mapping[str, str], quality: int | None = None) -> bytes:
        """The picture's bytes; see the class. Raises LimitError (E-LIMIT) for what the format has no room for."""
        return self._encode(image, texts, self.quality or 0 if quality is None else quality)


def _lossy(name: str, suffixes: tuple[str, ...], max_edge: int, quality: int) -> PictureFormat:
    functions = (lossy.encode, lossy.is_whole, lossy.check, lossy.decode, lossy.read_text)
    encode, is_whole, check, decode, read_text = (partial(function, name.upper()) for function in functions)
    own = {"encode": encode, "is_whole": is_whole, "check": check, "decode": decode, "read_text": read_text}
    return PictureFormat(name, suffixes, max_edge, quality, **own)  # type: ignore[arg-type]


PNG = PictureFormat(
    "png",
    (".png",),
    2**31 - 1,
    None,
    encode=lambda image, texts, _quality: png.encode_texts(image, texts),
    is_whole=png.is_whole,
    check=png.check_png,
    decode=png.decode_png,
    read_text=png.text_of_png,
)
WEBP = _lossy("webp", (".webp",), 16_383, 90)
JPEG = _lossy("jpeg", (".jpg", ".jpeg"), 65_535, 92)
AVIF = _lossy("avif", (".avif",), 32_768, 80)

FORMATS = {each.name: each for each in (PNG, WEBP, JPEG, AVIF)}
"""The formats by name."""
BY_SUFFIX = {suffix: each for each in FORMATS.values() for suffix in each.suffixes}
"""The formats by every suffix that they have."""


def find_format(path: Path | str) -> PictureFormat | None:
    """The format that a file's suffix names, in any case; None if it isn't a picture's."""
    return BY_SUFFIX.get(Path(path).suffix.lower())


def format_of(path: Path | str) -> PictureFormat:
    """As `find_format`; raises ImageError (E-IMAGE) for another suffix."""
    found = find_format(path)
    if found is None:
        raise ImageError("picture", path, f"is none of {', '.join(BY_SUFFIX)}", "check the path")
    return found


def recognize(data: bytes, path: object) -> PictureFormat:
    """The format that a file's first bytes say, whatever its name. Raises ImageError (E-IMAGE) with `path`."""
    if data.startswith(png.SIGNATURE):
        return PNG
    if data.startswith(b"\xff\xd8\xff"):
        return JPEG
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return WEBP
    if data[4:8] == b"ftyp" and data[8:12] in (b"avif", b"avis"):
        return AVIF
    raise ImageError("picture", path, "is no PNG, JPEG, WebP or AVIF", "give a picture's file")


def read_texts(data: bytes, path: Path | str = "picture") -> dict[str, str]:
    """The metadata of a picture of any format by keyword, as a PNG has it. Raises ImageError (E-IMAGE) with `path`."""
    return recognize(data, path).read_text(data, path)


def check_picture(path: Path | str) -> None:
    """Read a picture fully and decode its pixels. Raises ImageError (E-IMAGE) that names the file."""
    format_of(path).decode(png.read_picture(path), path)


def check_can_write(kind: PictureFormat) -> None:
    """Raise UnsupportedError (E-UNSUPPORTED) for a format that this Pillow was built without."""
    if kind is PNG:
        return
    from PIL import Image, features

    Image.preinit()
    if not features.check({"jpeg": "jpg"}.get(kind.name, kind.name)):
        hint = "install Pillow from PyPI, whose wheels have it, or choose another format"
        raise UnsupportedError("format", kind.name, "this Pillow was built without it", hint)


def convert_png(data: bytes, kind: PictureFormat, quality: int | None = None) -> bytes:
    """A PNG's pixels and metadata in another format; a PNG stays as it is.

    The same bytes for the same arguments. Raises LimitError (E-LIMIT), and ImageError (E-IMAGE) for a broken PNG.
    """
    if kind is PNG:
        return data
    return kind.encode(PNG.decode(data, "picture"), PNG.read_text(data, "picture"), quality)
