"""Picture formats: what kinds of file a finished picture can be, and what can be done with each.

A new format is one module with these functions and one line in FORMATS. Standard library only at import, and no
dataclass: a cluster's job imports this with every picture.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from darkroom.errors import ImageError
from darkroom.pictures import png

TYPE_CHECKING = False  # as in typing, whose import every picture of a cluster's job would pay for
if TYPE_CHECKING:
    from PIL import Image


class PictureFormat:
    """One kind of file.

    `suffix` begins with a dot, in lower case. `encode(image, infotext, request_json, facts=…)` gives the bytes of an RGB
    picture with its metadata, the same bytes for the same arguments. `is_whole(path)` tells quickly whether a file was
    written to its end. `check(data, path)` checks all bytes without decoding, `decode(data, path)` gives the RGB picture
    after that, `read_text(data, path)` its metadata by keyword (`parameters`, `darkroom`); these raise ImageError
    (E-IMAGE) that names `path`.
    """

    def __init__(
        self,
        suffix: str,
        mime_type: str,
        *,
        encode: Callable[..., bytes],
        is_whole: Callable[[Path | str], bool],
        check: Callable[[bytes, Path | str], None],
        decode: Callable[[bytes, Path | str], Image.Image],
        read_text: Callable[[bytes, Path | str], dict[str, str]],
    ) -> None:
        self.suffix = suffix
        self.mime_type = mime_type
        self.encode = encode
        self.is_whole = is_whole
        self.check = check
        self.decode = decode
        self.read_text = read_text


PNG = PictureFormat(
    ".png",
    "image/png",
    encode=png.encode_png,
    is_whole=png.is_whole,
    check=png.check_png,
    decode=png.decode_png,
    read_text=png.text_of_png,
)

FORMATS = {each.suffix: each for each in (PNG,)}
"""The formats by suffix."""


def find_format(path: Path | str) -> PictureFormat | None:
    """The format that a file's suffix names, in any case; None if it isn't a picture's."""
    return FORMATS.get(Path(path).suffix.lower())


def format_of(path: Path | str) -> PictureFormat:
    """As `find_format`; raises ImageError (E-IMAGE) for another suffix."""
    found = find_format(path)
    if found is None:
        raise ImageError("picture", path, f"is none of {', '.join(FORMATS)}", "check the path")
    return found


def check_picture(path: Path | str) -> None:
    """Read a picture fully and decode its pixels. Raises ImageError (E-IMAGE) that names the file."""
    format_of(path).decode(png.read_picture(path), path)
