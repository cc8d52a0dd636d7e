from __future__ import annotations

import json
import random
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from darkroom.errors import ImageError
from darkroom.pictures.formats import check_picture
from darkroom.pictures.png import IEND, SIGNATURE, decode_png, is_whole, library_versions, read_png_text
from darkroom.request.render_request import RenderRequest
from demo.pictures import draw, make_scene
from tests.fixtures.pngs import encode_png

REQUEST = RenderRequest(prompt="a fox\0 in the snow — 雪", seed=7)


def picture() -> Image.Image:
    return draw(make_scene(random.Random(3)), 64)


def encode(infotext: str = "a fox\nSteps: 1") -> bytes:
    return encode_png(picture(), infotext, REQUEST.to_json(), facts={"model": "alpha", "versions": {"torch": "2"}})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "fox.png"
    path.write_bytes(encode())
    return path


def chunk_kinds(data: bytes) -> list[bytes]:
    place, kinds = len(SIGNATURE), []
    while place < len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        kinds.append(kind)
        place += 12 + length
    return kinds


def test_pixels_and_texts_come_back(path: Path) -> None:
    assert Image.open(path).tobytes() == picture().tobytes()
    texts = read_png_text(path)
    assert texts["parameters"] == "a fox\nSteps: 1"
    chunk = json.loads(texts["darkroom"])
    assert RenderRequest.from_settings(chunk["request"]) == REQUEST
    assert (chunk["model"], chunk["versions"]) == ("alpha", {"torch": "2"})
    assert Image.open(path).text == texts


def test_the_same_arguments_give_the_same_bytes() -> None:
    assert encode() == encode()


@pytest.mark.parametrize(("infotext", "kind"), [("Café\nSteps: 1", b"tEXt"), ("雪, €", b"iTXt")])
def test_text_is_latin_1_where_it_can_be(infotext: str, kind: bytes, path: Path) -> None:
    data = encode(infotext)
    path.write_bytes(data)
    assert kind in chunk_kinds(data)
    assert read_png_text(path)["parameters"] == infotext


def test_a_nul_does_not_cut_the_text_off(path: Path) -> None:
    path.write_bytes(encode("before\0after"))
    assert read_png_text(path)["parameters"] == "before\ufffdafter"


def test_compressed_text_of_other_programs_is_read(path: Path) -> None:
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    text.add_text("parameters", "x" * 5000, zip=True)
    text.add_itxt("note", "雪" * 5000, zip=True)
    picture().save(path, pnginfo=text)
    assert read_png_text(path) == {"parameters": "x" * 5000, "note": "雪" * 5000}


@pytest.mark.parametrize(("chunks", "size"), [(1, 2**26), (100, 2**20)])
def test_a_text_bomb_is_refused(path: Path, chunks: int, size: int) -> None:
    text = zlib.compress(b"\0" * size)
    bodies = [b"zTXt" + b"text %d\0\0" % number + text for number in range(chunks)]
    whole = [struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body)) for body in bodies]
    path.write_bytes(SIGNATURE + b"".join(whole) + IEND)
    with pytest.raises(ImageError, match=r"E-IMAGE picture '.*fox\.png': has a damaged text chunk"):
        read_png_text(path)


def test_a_whole_file_passes(path: Path) -> None:
    assert is_whole(path)
    check_picture(path)


@pytest.mark.parametrize("keep", [0, 4, 20, 300, -13, -1])
def test_a_cut_file_is_told(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])
    assert not is_whole(path)
    with pytest.raises(ImageError, match=r"E-IMAGE picture '.*fox\.png'"):
        check_picture(path)


def test_every_flipped_byte_is_told(path: Path) -> None:
    whole = path.read_bytes()
    for place in range(0, len(whole), max(1, len(whole) // 200)):
        broken = bytearray(whole)
        broken[place] ^= 0x10
        with pytest.raises(ImageError, match=r"E-IMAGE picture '.*fox\.png'"):
            decode_png(bytes(broken), path)


def test_pixels_that_cannot_be_unpacked_are_told_though_the_checksum_is_right(path: Path) -> None:
    whole = path.read_bytes()
    start = whole.index(b"IDAT")
    (length,) = struct.unpack_from(">I", whole, start - 4)
    body = b"IDAT" + b"\xff" * length
    path.write_bytes(whole[:start] + body + struct.pack(">I", zlib.crc32(body)) + whole[start + 8 + length :])
    assert is_whole(path)
    with pytest.raises(ImageError, match="is damaged"):
        check_picture(path)


def test_what_is_no_picture_is_told(tmp_path: Path) -> None:
    (tmp_path / "page.png").write_text("<html>not a picture, but long enough to look at</html>")
    assert not is_whole(tmp_path / "page.png")
    assert not is_whole(tmp_path / "absent.png")
    assert not is_whole(tmp_path)
    with pytest.raises(ImageError, match="is not a PNG"):
        check_picture(tmp_path / "page.png")
    with pytest.raises(ImageError, match=r"absent\.png': is missing\. Hint: check the path; "):
        check_picture(tmp_path / "absent.png")
    with pytest.raises(ImageError, match=r"absent\.png': is missing\. Hint: check the path; "):
        read_png_text(tmp_path / "absent.png")


def test_a_pixel_bomb_is_refused_before_it_is_decoded(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", 60_000, 60_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    with pytest.raises(ImageError, match="claims 60000x60000 pixels"):
        decode_png(bytes(data), path)


def test_versions_are_known_without_importing_anything() -> None:
    assert set(library_versions()) == {"darkroom", "torch", "diffusers", "transformers"}
