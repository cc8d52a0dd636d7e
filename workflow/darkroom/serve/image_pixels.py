"""What the pixels of a picture mean, whatever its file stores: palettes, 16 bits, grey, CMYK, transparency.

Pictures are Pillow's. Colours are taken as sRGB, as browsers and A1111 do without a colour profile; profiles are left out.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from darkroom.errors import ImageError
from darkroom.pictures.formats import read_texts

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

_WHITE = (255, 255, 255, 255)
_HALF = 128
_WITH_ALPHA = ("RGBA", "RGBa", "LA", "La", "PA")


def as_picture(image: Picture) -> Picture:
    """RGB; what is transparent becomes white, as A1111's `img2img_background_color` has it."""
    plain = _plain(image)
    if plain.mode == "RGBA":
        plain = Image.alpha_composite(Image.new("RGBA", plain.size, _WHITE), plain)
    return plain.convert("RGB")


def as_mask(image: Picture) -> Picture:
    """A1111's mask, mode L: white is made anew. In a picture with transparency the opaque part counts as white.

    After `create_binary_mask` (modules/processing.py).
    """
    plain = _plain(image)
    if plain.mode != "RGBA":
        return plain.convert("L")
    alpha = plain.getchannel("A")
    if alpha.getextrema()[0] == 255:
        return plain.convert("RGB").convert("L")
    return alpha.point(lambda value: 255 if value > _HALF else 0)


def as_transparency(image: Picture) -> Picture:
    """OpenAI's mask as one of A1111's kind, mode L: what is transparent, half or more, becomes white; the rest is black."""
    plain = _plain(image)
    if plain.mode != "RGBA":
        return Image.new("L", plain.size, 0)
    return plain.getchannel("A").point(lambda value: 255 if value < _HALF else 0)


def has_holes(image: Picture) -> bool:
    """Whether parts of a picture are fully transparent."""
    plain = _plain(image) if image.mode in _WITH_ALPHA or "transparency" in image.info else None
    return plain is not None and plain.mode == "RGBA" and plain.getchannel("A").getextrema()[0] == 0


def infotext_in(content: bytes) -> str:
    """The A1111 metadata of a file that can be decoded; empty without any."""
    try:
        return read_texts(content).get("parameters", "")
    except ImageError:
        return ""


def write_png(image: Picture) -> bytes:
    """A PNG of the pixels alone, without metadata and colour profile."""
    bare = image.copy()
    bare.info = {}
    buffer = io.BytesIO()
    bare.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def blend(first: bytes, second: bytes, share: float, text: str) -> bytes:
    """A PNG of two PNGs of one size, the second with that share (0 to 1), and `text` as its chunk `postprocessing`."""
    from PIL.PngImagePlugin import PngInfo

    one, other = (Image.open(io.BytesIO(png), formats=["PNG"]).convert("RGB") for png in (first, second))
    about = PngInfo()
    about.add_text("postprocessing", text)
    buffer = io.BytesIO()
    Image.blend(one, other, share).save(buffer, "PNG", compress_level=1, pnginfo=about)
    return buffer.getvalue()


def crop_to_shape(png: bytes, width: int, height: int) -> bytes:
    """The middle of a PNG, as much of it as has the shape of `width` to `height`."""
    image = Image.open(io.BytesIO(png), formats=["PNG"])
    scale = max(width / image.width, height / image.height)
    wide, high = min(image.width, round(width / scale)), min(image.height, round(height / scale))
    left, top = (image.width - wide) // 2, (image.height - high) // 2
    return write_png(image.crop((left, top, left + wide, top + high)))


def _plain(image: Picture) -> Picture:
    """The picture as 8-bit L, RGB, or RGBA if it has transparency."""
    if image.mode.startswith("I"):
        return _from_16_bits(image)
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        return image.convert("RGBA")
    return image if image.mode == "L" else image.convert("RGB")


def _from_16_bits(image: Picture) -> Picture:
    """Grey of 16 bits: Pillow would cut off what is above 255, or halve nothing."""
    values: Any = np.asarray(image).astype(np.float64)
    grey = Image.fromarray(np.round(np.clip(values, 0, 65535) / 257).astype(np.uint8), "L")
    transparent = image.info.get("transparency")
    if not isinstance(transparent, int):
        return grey
    grey = grey.convert("LA")
    grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8), "L"))
    return grey.convert("RGBA")
