"""A PNG made of bands is one that any decoder reads, and a band of it can stand anywhere on another page."""

from __future__ import annotations

import io
import random
import zlib
from pathlib import Path

import pytest
from PIL import Image

from darkroom.pictures.png import read_chunks
from darkroom.pictures.png_bands import Band, encode_band, join_bands, read_bands

WIDTH = 61


def draw(seed: int, height: int) -> Image.Image:
    """Columns that resemble one another, so that filters refer to the row above; the first row has sharp steps."""
    numbers = random.Random(seed)
    row = bytes(128 >> (x + seed) % 8 for x in range(WIDTH) for _ in "RGB")
    rows = [bytes((each + numbers.randrange(4)) % 256 for each in row) for _ in range(height - 1)]
    return Image.frombytes("RGB", (WIDTH, height), b"".join([row, *rows]))


def save(path: Path, bands: list[tuple[str, Band]], height: int) -> Path:
    path.write_bytes(join_bands(WIDTH, height, bands, [(b"tEXt", b"pictures\0digest")]))
    return path


def pixels(path: Path) -> bytes:
    with Image.open(path) as image:
        assert image.text == {"pictures": "digest"}
        return image.convert("RGB").tobytes()


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2)])
def test_bands_in_any_order_are_the_picture(order: tuple[int, ...], tmp_path: Path) -> None:
    images = [draw(seed, height) for seed, height in enumerate((7, 1, 2000, 12))]
    found = [(f"band {place}", encode_band(images[place])) for place in order]
    path = save(tmp_path / "page.png", found, 2020)
    assert pixels(path) == b"".join(images[place].tobytes() for place in order)
    chunks = read_chunks(io.BytesIO(path.read_bytes()), path, check=True)
    stream = b"".join(body for kind, body in chunks if kind == b"IDAT")
    assert len(zlib.decompress(stream)) == 2020 * (1 + 3 * WIDTH)  # raises an error if the checksum is wrong
    assert read_bands(path) == dict(found)


def test_a_band_without_a_key_is_not_found_again_and_others_are_no_pages_of_bands(tmp_path: Path) -> None:
    path = save(tmp_path / "page.png", [("", encode_band(draw(1, 3))), ("kept", encode_band(draw(2, 3)))], 6)
    assert list(read_bands(path)) == ["kept"]
    whole = path.read_bytes()
    path.write_bytes(whole[:60] + bytes([whole[60] ^ 1]) + whole[61:])
    assert read_bands(path) == {}
    draw(1, 3).save(path)
    assert read_bands(path) == {}
    assert read_bands(tmp_path / "missing.png") == {}
