"""Texts of picture files: every place and encoding that tools use, and what is too large, broken or hidden."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import pytest
from PIL import Image

from darkroom.cli.command import main
from darkroom.errors import ImageError
from darkroom.replay.picture_texts import MAX_TEXT_BYTES, read_picture_texts
from darkroom.replay.readers import read_foreign
from tests.fixtures.foreign_pictures import (
    INFOTEXT,
    NOVELAI_TEXTS,
    graph,
    save_exif,
    save_hidden,
    save_png,
    save_raw_png,
    user_comment,
)

TEXT = "雪の中の狐 😀, é\nNegative prompt: 悪い\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 64x64"
ENCODINGS = {
    "A1111": user_comment(TEXT),
    "little endian": user_comment(TEXT, "utf-16-le"),
    "with a mark": user_comment(TEXT, "utf-16"),
    "big endian with a mark": b"UNICODE\0\xfe\xff" + TEXT.encode("utf-16-be"),
    "UTF-8 behind UNICODE": user_comment(TEXT, "utf-8"),
    "UTF-8 behind ASCII": user_comment(TEXT, "utf-8", b"ASCII\0\0\0"),
    "UTF-16 behind ASCII": user_comment(TEXT, "utf-16-le", b"ASCII\0\0\0"),
    "no code": user_comment(TEXT, "utf-8", b""),
    "UTF-16 without a code": user_comment(TEXT, "utf-16-be", b""),
    "undefined code": user_comment(TEXT, "utf-8", b"\0" * 8),
    "filled up": user_comment(TEXT) + b"\0" * 40,
}


@pytest.mark.parametrize("name", ENCODINGS)
def test_a_user_comment_is_read_whatever_its_encoding(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for suffix in ("jpg", "webp", "png"):
        picture = read_foreign(save_exif(tmp_path / f"x.{suffix}", ENCODINGS[name]))
        assert picture is not None
        assert picture.settings["prompt"] == "雪の中の狐 😀, é"
        assert picture.settings["negative_prompt"] == "悪い"
    assert main(["show", str(tmp_path / "x.jpg"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] == TEXT, "other commands read it alike"


def test_every_kind_of_text_chunk_is_read(tmp_path: Path) -> None:
    plain = "ä fox\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 64x64"
    chunks = {
        "Latin-1": (b"tEXt", b"parameters\0" + plain.encode("latin-1")),
        "UTF-8 where Latin-1 should be": (b"tEXt", b"parameters\0" + plain.encode()),
        "compressed": (b"zTXt", b"parameters\0\0" + zlib.compress(plain.encode("latin-1"))),
        "international": (b"iTXt", b"parameters\0\0\0de\0Angaben\0" + plain.encode()),
        "international, compressed": (b"iTXt", b"parameters\0\1\0\0\0" + zlib.compress(plain.encode())),
    }
    for name, chunk in chunks.items():
        picture = read_foreign(save_raw_png(tmp_path / "x.png", chunk))
        assert picture is not None, name
        assert picture.settings["prompt"] == "ä fox", name


def test_what_is_too_large_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    bomb = zlib.compress(b"x" * (4 * MAX_TEXT_BYTES), 9)
    for chunk in (
        (b"zTXt", b"parameters\0\0" + bomb),
        (b"iTXt", b"parameters\0\1\0\0\0" + bomb),
        (b"tEXt", b"prompt\0" + b"x" * (MAX_TEXT_BYTES + 1)),
    ):
        with pytest.raises(ImageError, match=r"E-IMAGE .* more than 16\.8 MB"):
            read_foreign(save_raw_png(tmp_path / "x.png", chunk))
    with pytest.raises(ImageError, match="nested too deeply"):
        read_foreign(save_png(tmp_path / "x.png", {"prompt": '{"class_type":' + "[" * 200_000 + "]" * 200_000 + "}"}))
    with pytest.raises(ImageError, match="no JSON"):
        read_foreign(save_png(tmp_path / "x.png", {"prompt": '{"class_type": '}))


def test_a_workflow_of_any_size_is_passed_over(tmp_path: Path) -> None:
    workflow = (b"tEXt", b"workflow\0" + b"x" * 50_000_000)
    bomb = (b"zTXt", b"workflow\0\0" + zlib.compress(b"x" * 100_000_000, 9))
    prompt = (b"tEXt", b"prompt\0" + json.dumps(graph()).encode())
    picture = read_foreign(save_raw_png(tmp_path / "x.png", workflow, bomb, prompt))
    assert picture is not None
    assert picture.settings["seed"] == 7


def test_damaged_files_are_coded_errors(tmp_path: Path) -> None:
    whole = save_png(tmp_path / "whole.png", {"parameters": INFOTEXT}).read_bytes()
    jpeg = save_exif(tmp_path / "whole.jpg", user_comment(INFOTEXT)).read_bytes()
    broken = {
        "cut.png": whole[:-20],
        "short.png": whole[:20],
        "checksum.png": whole.replace(b"a fox", b"a dog"),
        "text.png": b"hello",
        "empty.png": b"",
        "cut.jpg": jpeg[:30],
    }
    for name, data in broken.items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(ImageError) as caught:
            read_foreign(path)
        assert name in str(caught.value)
    with pytest.raises(ImageError, match="does not exist"):
        read_foreign(tmp_path / "none.png")


def test_a_picture_that_says_nothing_is_nobodys(tmp_path: Path) -> None:
    assert read_foreign(save_png(tmp_path / "x.png", {"Title": "a holiday"})) is None
    assert read_foreign(save_exif(tmp_path / "x.jpg", tags={0x0131: "GIMP", 0x010F: "Canon"})) is None
    assert read_foreign(save_exif(tmp_path / "y.jpg", user_comment("a photograph of my cat"))) is None


def test_hidden_text_is_found_in_alpha_and_in_colours(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    picture = read_foreign(save_hidden(path, json.dumps(NOVELAI_TEXTS)))
    assert picture is not None
    assert picture.tool.startswith("NovelAI")
    for mark in (b"stealth_pnginfo", b"stealth_rgbinfo", b"stealth_rgbcomp"):
        picture = read_foreign(save_hidden(path, INFOTEXT, mark=mark))
        assert picture is not None
        assert picture.settings["prompt"] == "a fox, (snow:1.2)"
    Image.new("RGBA", (32, 32), (1, 2, 3, 255)).save(path)
    assert read_picture_texts(path).texts == {}


def test_a_hidden_text_that_lies_about_its_length_is_no_text(tmp_path: Path) -> None:
    path = save_hidden(tmp_path / "x.png", INFOTEXT, mark=b"stealth_pnginfo")
    pixels = Image.open(path)
    pixels.crop((0, 0, 16, 64)).save(path)  # cut off: the length is that of the whole
    assert read_picture_texts(path).texts == {}


def test_the_files_own_size_counts_where_none_is_stated_and_is_compared_where_one_is(tmp_path: Path) -> None:
    without = INFOTEXT.replace("Size: 64x64, ", "")
    picture = read_foreign(save_png(tmp_path / "x.png", {"parameters": without}, size=(96, 64)))
    assert picture is not None
    assert (picture.settings["width"], picture.settings["height"]) == (96, 64)
    assert "the metadata states no size, so it is that of the file, 96 x 64" in picture.differs
    picture = read_foreign(save_png(tmp_path / "x.png", {"parameters": INFOTEXT}, size=(128, 128)))
    assert picture is not None
    assert "the file has 128 x 128 pixels, these settings make 64 x 64" in picture.differs
    odd = read_foreign(save_png(tmp_path / "x.png", {"parameters": without}, size=(97, 64)))
    assert odd is not None
    assert not odd.settings.keys() & {"width", "height"}
