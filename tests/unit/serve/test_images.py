"""Pictures from clients: what they mean, which are refused, and that a small file can't cost much."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import struct
import threading
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from darkroom.config import ServeConfig
from darkroom.errors import DarkroomError, LimitError, RequestError, SsrfError, UnsupportedError
from darkroom.serve.image_pixels import crop_to_shape
from darkroom.serve.images import ImageReader, InputPicture, Meaning, read_image

LIMITS = ServeConfig(max_image_bytes=200_000, max_image_pixels=256 * 256)
RED, WHITE, BLACK = (255, 0, 0), (255, 255, 255), (0, 0, 0)


def file_of(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def read(data: str | bytes, meaning: Meaning = "picture", size: tuple[int, int] | None = None) -> InputPicture:
    return read_image(data, "image", LIMITS, meaning, size)


def pixels(picture: InputPicture) -> Image.Image:
    return Image.open(io.BytesIO(picture.png))


def halves(mode: str, left: Any, right: Any) -> Image.Image:
    """A picture of 64 x 64 whose left and right halves are of one colour each."""
    image = Image.new(mode, (64, 64), left)
    image.paste(right, (32, 0, 64, 64))
    return image


def ends(picture: InputPicture) -> tuple[Any, Any]:
    image = pixels(picture)
    return image.getpixel((2, 2)), image.getpixel((61, 2))


def gif_palette() -> Image.Image:
    image = halves("P", 0, 1)
    image.putpalette([*RED, 0, 0, 255])
    return image


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("head", [None, "data:image/{};base64,", "data:application/octet-stream;base64,"])
def test_three_kinds_are_read_whatever_they_are_called(kind: str, head: str | None) -> None:
    data = file_of(Image.new("RGB", (64, 72), RED), kind, **({"lossless": True} if kind == "WEBP" else {}))
    sent: str | bytes = data if head is None else head.format("gif") + base64.b64encode(data).decode()
    picture = read(sent)
    assert picture.size == pixels(picture).size == (64, 72)
    assert picture.png.startswith(b"\x89PNG")
    assert picture.sha256 == hashlib.sha256(picture.png).hexdigest()
    assert pixels(picture).mode == "RGB"
    assert np.abs(np.asarray(pixels(picture)).astype(int) - RED).max() < 3


def test_base64_as_clients_write_it() -> None:
    text = base64.b64encode(file_of(Image.new("RGB", (64, 64), RED))).decode()
    lines = "\n".join(text[start : start + 76] for start in range(0, len(text), 76))
    assert (
        read(text).sha256 == read(lines).sha256 == read(text.rstrip("=")).sha256 == read("DATA:;BASE64," + text).sha256
    )


def test_equal_pixels_are_the_same_picture() -> None:
    """Metadata, colour profile and compression change nothing of the hash; nothing of them is handed on."""
    image = Image.new("RGB", (64, 64), RED)
    other = file_of(image, compress_level=9, icc_profile=b"x" * 200, dpi=(300, 300))
    assert read(file_of(image)).sha256 == read(other).sha256
    assert pixels(read(other)).info == {}


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (halves("L", 0, 200), (BLACK, (200, 200, 200))),
        (halves("1", 0, 1), (BLACK, WHITE)),
        (gif_palette(), (RED, (0, 0, 255))),
        (halves("LA", (0, 255), (0, 0)), (BLACK, WHITE)),
        (halves("RGBA", (255, 0, 0, 255), (255, 0, 0, 0)), (RED, WHITE)),
        (halves("RGBA", (0, 0, 0, 255), (0, 0, 0, 127)), (BLACK, (128, 128, 128))),
        (Image.fromarray(np.repeat(np.array([[0, 65535]], np.uint16), 32, 1).repeat(64, 0)), (BLACK, WHITE)),
        (Image.fromarray(np.repeat(np.array([[257, 32896]], np.uint16), 32, 1).repeat(64, 0)), ((1,) * 3, (128,) * 3)),
    ],
)
def test_what_a_file_stores_means_what_it_should(image: Image.Image, expected: tuple[Any, Any]) -> None:
    assert ends(read(file_of(image))) == expected


def test_a_palettes_transparent_colour_becomes_white() -> None:
    assert ends(read(file_of(gif_palette(), transparency=1))) == (RED, WHITE)


def test_sixteen_bits_with_a_transparent_value() -> None:
    image = Image.fromarray(np.repeat(np.array([[0, 1000]], np.uint16), 32, 1).repeat(64, 0))
    assert ends(read(file_of(image, transparency=1000))) == (BLACK, WHITE)


def test_cmyk_is_print_and_not_inverted() -> None:
    left, right = ends(read(file_of(halves("CMYK", (0, 255, 255, 0), (0, 0, 0, 0)), "JPEG", quality=100)))
    assert np.abs(np.array([left, right]) - [RED, WHITE]).max() < 6


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_cameras_orientation_is_applied(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    picture = read(file_of(Image.new("RGB", (96, 64), RED), kind, exif=exif))
    assert picture.size == (64, 96)


def test_masks_of_both_worlds_side_by_side() -> None:
    """White is made anew for A1111, the transparent part for OpenAI: one file has both meanings, the other way round."""
    both = file_of(halves("RGBA", (0, 0, 0, 255), (0, 0, 0, 0)))
    assert ends(read(both, "mask")) == (255, 0)
    assert ends(read(both, "transparency")) == (0, 255)


def test_a_mask_without_transparency_is_read_by_its_brightness() -> None:
    assert ends(read(file_of(halves("RGB", BLACK, WHITE)), "mask")) == (0, 255)
    assert ends(read(file_of(halves("RGBA", (0, 0, 0, 255), (255, 255, 255, 255))), "mask")) == (0, 255)


@pytest.mark.parametrize("image", [halves("RGB", BLACK, WHITE), halves("RGBA", (0, 0, 0, 255), (9, 9, 9, 255))])
def test_a_mask_that_edits_nothing_is_refused(image: Image.Image) -> None:
    with pytest.raises(RequestError, match="nothing would be edited"):
        read(file_of(image), "transparency")


def test_a_mask_is_brought_to_the_pictures_size() -> None:
    assert read(file_of(halves("L", 0, 255)), "mask", (128, 96)).size == (128, 96)


def test_transparent_parts_are_noted() -> None:
    assert read(file_of(halves("RGBA", (0, 0, 0, 255), (0, 0, 0, 0)))).is_transparent
    assert not read(file_of(halves("RGBA", (0, 0, 0, 255), (0, 0, 0, 9)))).is_transparent
    assert not read(file_of(halves("L", 0, 1))).is_transparent


def bomb() -> bytes:
    """A PNG of 65,000 x 65,000 grey pixels in few bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", 65_000, 65_000, 8, 0, 0, 0, 0)
    lines = chunk(b"IDAT", zlib.compress(bytes(10**6)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + lines + chunk(b"IEND", b"")


def animation(kind: str) -> bytes:
    frames = [Image.new("RGB", (64, 64), colour) for colour in (RED, WHITE)]
    return file_of(frames[0], kind, save_all=True, append_images=frames[1:])


PHOTO = file_of(Image.effect_noise((128, 128), 80).convert("RGB"), "JPEG")
NOISE = file_of(Image.effect_noise((128, 128), 80).convert("RGB"))
REFUSED: list[tuple[str, str | bytes, type[DarkroomError], str]] = [
    ("bytes", b"\x89PNG\r\n\x1a\n" + bytes(300_000), LimitError, "200,000 bytes"),
    ("bytes in base64", base64.b64encode(bytes(300_000)).decode(), LimitError, "200,000 bytes"),
    ("pixels", file_of(Image.new("L", (257, 256))), LimitError, "257x256.*65,536 pixels"),
    ("a bomb", bomb(), LimitError, "65,536 pixels"),
    ("an animated PNG", animation("PNG"), UnsupportedError, "animated"),
    ("an animated WebP", animation("WEBP"), UnsupportedError, "animated"),
    ("a GIF", animation("GIF"), RequestError, "is a GIF"),
    ("a BMP", file_of(Image.new("RGB", (64, 64)), "BMP"), RequestError, "is a BMP"),
    ("a TIFF", file_of(Image.new("RGB", (64, 64)), "TIFF"), RequestError, "is a TIFF"),
    ("an AVIF", b"\0\0\0\x1cftypavif" + bytes(99), RequestError, "is an AVIF"),
    ("a video", b"\0\0\0\x1cftypisom" + bytes(99), RequestError, "is a video"),
    ("an SVG", b"  <svg xmlns='x'/>", RequestError, "is an SVG"),
    ("a page", b"<!DOCTYPE html>", RequestError, "no picture"),
    ("nothing", b"", RequestError, "is empty"),
    ("a cut JPEG", PHOTO[: len(PHOTO) // 2], RequestError, "damaged or incomplete JPEG"),
    ("a cut PNG", NOISE[: len(NOISE) // 2], RequestError, "damaged or incomplete PNG"),
    ("a PNG's head", NOISE[:20], RequestError, "damaged or incomplete PNG"),
    ("a WebP's head", b"RIFF\0\0\0\0WEBPVP8 ", RequestError, "damaged or incomplete WEBP"),
    ("a flipped bit", NOISE[:900] + bytes([NOISE[900] ^ 1]) + NOISE[901:], RequestError, "damaged or incomplete PNG"),
    ("words", "a lighthouse", RequestError, "no picture"),
    ("a text", "What to draw?", RequestError, "no base64"),
    ("no base64", "data:image/png;base64,!!!", RequestError, "no base64"),
    ("a data: URI in plain text", "data:image/png,abc", RequestError, "without base64"),
    ("an address", "http://user:secret@127.0.0.1/a.png", SsrfError, "http://127.0.0.1'"),
    ("another scheme", "file:///etc/passwd", SsrfError, "is opened"),
    ("a path", "/etc/passwd", SsrfError, "is opened"),
    ("a relative path", "../secret.png", SsrfError, "is opened"),
    ("a file's name", "cat.png", SsrfError, "is opened"),
    ("a network share", "\\\\host\\share\\cat.png", SsrfError, "is opened"),
]


@pytest.mark.parametrize(("sent", "kind", "reason"), [each[1:] for each in REFUSED], ids=[each[0] for each in REFUSED])
def test_what_is_refused(sent: str | bytes, kind: type[DarkroomError], reason: str) -> None:
    with pytest.raises(kind, match=reason) as caught:
        read(sent)
    assert "request: image" in str(caught.value)
    assert "secret@" not in str(caught.value)


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", lambda _: pytest.fail("decoded"))
    with pytest.raises(LimitError):
        read(file_of(Image.new("L", (2000, 2000))))


def test_the_event_loop_goes_on_while_a_picture_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    held, before = threading.Event(), set(threading.enumerate())
    monkeypatch.setattr("darkroom.serve.images.kind_of", lambda _: held.wait(60) and "PNG")

    async def go() -> list[InputPicture]:
        reader = ImageReader(LIMITS)
        png = file_of(Image.new("RGB", (64, 64), RED))
        reading = [asyncio.ensure_future(reader.read(png, "image")) for _ in range(5)]
        await asyncio.sleep(0)
        assert not any(each.done() for each in reading)
        held.set()
        return await asyncio.gather(*reading)

    assert len({picture.sha256 for picture in asyncio.run(go())}) == 1
    decoders = [each for each in set(threading.enumerate()) - before if each.name.startswith("images")]
    assert len(decoders) <= 2


def test_the_middle_of_a_picture_in_another_shape() -> None:
    wide = halves("RGB", BLACK, WHITE)
    cut = Image.open(io.BytesIO(crop_to_shape(file_of(wide), 100, 50)))
    assert cut.size == (64, 32)
    assert (cut.getpixel((0, 0)), cut.getpixel((63, 31))) == (BLACK, WHITE)
