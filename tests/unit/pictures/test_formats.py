"""Every registered picture format keeps its promises, and files are told apart by their suffix."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from darkroom.errors import ImageError
from darkroom.pictures.formats import (
    FORMATS,
    PNG,
    PictureFormat,
    check_picture,
    find_format,
    format_of,
    read_texts,
    recognize,
)
from darkroom.pictures.marking import GENERATED, XMP, write_packet

TEXTS = {
    "parameters": "snow 雪 & <lora:a:1>\nSteps: 2",
    "darkroom": '{"request":{"prompt":"\\u96ea & <b>"},"model":"tiny"}',
    "study": '{"axes":{"look":"a"}}',
    XMP: write_packet(GENERATED),
}


@pytest.fixture(params=FORMATS.values(), ids=FORMATS)
def kind(request: pytest.FixtureRequest) -> PictureFormat:
    found: PictureFormat = request.param
    return found


@pytest.fixture
def data(kind: PictureFormat) -> bytes:
    image = Image.linear_gradient("L").convert("RGB").resize((64, 32))
    return kind.encode(image, TEXTS)


def test_a_format_gives_back_pixels_and_metadata(kind: PictureFormat, data: bytes) -> None:
    image, texts = kind.decode(data, "x"), kind.read_text(data, "x")
    assert (image.mode, image.size) == ("RGB", (64, 32))
    assert texts == TEXTS
    assert recognize(data, "x") is kind and read_texts(data) == TEXTS


def test_a_truncated_file_is_seen_at_once(kind: PictureFormat, data: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"a{kind.suffix}"
    for length in range(0, len(data), 97):
        path.write_bytes(data[:length])
        assert not kind.is_whole(path)
        with pytest.raises(ImageError, match=path.name):
            check_picture(path)
    path.write_bytes(data)
    assert kind.is_whole(path)
    check_picture(path)


def test_a_formats_names_are_those_of_the_field(kind: PictureFormat) -> None:
    assert kind.mime_type.startswith("image/")
    assert kind.suffix == kind.suffix.lower() and kind.suffix.startswith(".")


@pytest.mark.parametrize("path", ["a.png", Path("results/b.PNG")])
def test_the_suffix_names_the_format_in_any_case(path: Path | str) -> None:
    assert find_format(path) is format_of(path) is PNG


@pytest.mark.parametrize("path", ["a", "a.txt", "png", "models/sdxl-1.0"])
def test_another_suffix_is_no_picture(path: str) -> None:
    assert find_format(path) is None
    with pytest.raises(ImageError, match=r"is none of \.png"):
        format_of(path)
