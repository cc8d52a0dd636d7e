"""Pictures in other formats than PNG: JPEG and WebP, with the infotext where other programs look for it.

That is EXIF's UserComment (CIPA DC-008, 4.6.5: eight bytes name the character code), as A1111 writes and reads it.
"""

from __future__ import annotations

import io
import struct

from darkroom.errors import ImageError, LimitError
from darkroom.pictures.png import decode_png, text_of_png
from darkroom.pictures.user_comment import decode_user_comment

MIME_TYPES = {"png": "image/png", "webp": "image/webp", "jpeg": "image/jpeg"}
"""What `convert_png` can make, and its type."""
_EXIF, _USER_COMMENT = 0x8769, 0x9286
_MOST_EXIF_BYTES = 65_500  # a JPEG's segment holds 65,533 with EXIF's own head


def convert_png(png: bytes, output_format: str, quality: int) -> bytes:
    """A PNG in a format of `MIME_TYPES`; `quality` from 0 to 100 is the encoder's.

    The same bytes for the same arguments. The request (`darkroom`) isn't kept, only the infotext. Raises LimitError
    (E-LIMIT) for an infotext that is too long for a JPEG.
    """
    if output_format == "png":
        return png
    from PIL import Image

    infotext = text_of_png(png, "picture").get("parameters", "")
    exif = Image.Exif()
    exif.get_ifd(_EXIF)[_USER_COMMENT] = b"UNICODE\0" + infotext.encode("utf-16-be")
    if output_format == "jpeg" and len(exif.tobytes()) > _MOST_EXIF_BYTES:
        why = f"the metadata has {len(exif.tobytes()):,} bytes, and a JPEG holds {_MOST_EXIF_BYTES:,}"
        raise LimitError("request: output_format", output_format, why, "ask for webp or png, or shorten the prompts")
    buffer = io.BytesIO()
    image = decode_png(png, "picture")
    image.save(buffer, output_format.upper(), quality=quality, exif=exif, **_options(output_format))
    return buffer.getvalue()


def _options(output_format: str) -> dict[str, int]:
    return {"subsampling": 0} if output_format == "jpeg" else {"method": 4}


def infotext_of(data: bytes, path: object = None) -> str:
    """The infotext of a JPEG or a WebP, empty without one; no pixels are decoded. Raises ImageError (E-IMAGE) with `path`.

    Whatever program has written it, and in which encoding.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=["JPEG", "WEBP"]) as image:
            exif = image.getexif()
            comment = exif.get_ifd(_EXIF).get(_USER_COMMENT, b"")
    except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError):
        raise ImageError("picture", path, "is no PNG, JPEG or WebP that can be read", "give a picture's file") from None
    if not isinstance(comment, bytes):
        return str(comment)
    return decode_user_comment(comment, is_little_endian=exif.endian == "<")
