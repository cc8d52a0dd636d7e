"""What `darkroom replay` is given that is no picture, or one that means harm: a line with a code, and nothing written."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from darkroom.cli.command import main


def png(**texts: str) -> bytes:
    """A small PNG with these text chunks."""
    chunks = PngInfo()
    for keyword, text in texts.items():
        chunks.add_text(keyword, text)
    file = BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG", pnginfo=chunks)
    return file.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))


def with_chunk(kind: bytes, body: bytes) -> bytes:
    data = png()
    return data[:33] + chunk(kind, body) + data[33:]


def own(**changes: object) -> bytes:
    return png(darkroom=json.dumps({"request": {"prompt": "x"}, "model": "tiny", **changes}))


BOMB = zlib.compress(b"\0" * 2**26, 9)
FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "text": (lambda: b"a red circle\n" * 100, "is no PNG, JPEG, WebP or AVIF"),
    "empty": (lambda: b"", "is no PNG, JPEG, WebP or AVIF"),
    "cut off": (lambda: own()[:-20], "is cut off"),
    "without metadata": (png, "does not say how it was made"),
    "zTXt bomb": (lambda: with_chunk(b"zTXt", b"darkroom\0\0" + BOMB), "has a text (darkroom) of more than"),
    "iTXt bomb": (lambda: with_chunk(b"iTXt", b"darkroom\0\1\0\0\0" + BOMB), "has a text (darkroom) of more than"),
    "50 MB": (lambda: with_chunk(b"tEXt", b"darkroom\0" + b"x" * 50_000_000), "has a text (tEXt) of more than"),
    "50 MB of something else": (lambda: with_chunk(b"prVt", b"x" * 50_000_000), "does not say how it was made"),
    "nested": (lambda: png(darkroom="[" * 200_000), "metadata of Darkroom that can't be read"),
    "no settings": (lambda: png(darkroom='{"request": {"prompt": 7}}'), "has settings that can't be read"),
    "unknown setting": (
        lambda: png(darkroom='{"request": {"prompt": "x", "magic": 1}}'),
        "has settings that can't be read",
    ),
    "changed afterwards": (lambda: own(postprocess=["something"]), "was changed after it was made"),
    "broken tag": (
        lambda: png(darkroom=json.dumps({"request": {"prompt": "<lora:a:much>"}})),
        "E-IMAGE picture",
    ),
    "of a model that isn't there": (lambda: own(model_hash="0123456789"), "E-MODEL model 'tiny [0123456789]'"),
}


@pytest.mark.parametrize("name", FILES)
def test_it_is_a_line_with_a_code(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, words = FILES[name]
    picture, output = tmp_path / "given.png", tmp_path / "out.png"
    picture.write_bytes(make())
    options = ["--models-dir", str(tmp_path / "models"), "--config", "none.yaml"]
    for action in (["-o", str(output)], ["--check"]):
        assert main(["replay", str(picture), *action, *options]) == 1
        error = capsys.readouterr().err
        assert words in error and error.startswith(("E-IMAGE picture", "E-MODEL")) and "Traceback" not in error
        assert len(error.splitlines()) == 1 and len(error) < 1_000
    assert sorted(tmp_path.iterdir()) == [picture]


def test_the_mistakes_of_all_pictures_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "one.png").write_bytes(b"no picture")
    command = ["replay", str(tmp_path / "one.png"), str(tmp_path / "two.png"), "--check", "--config", "none.yaml"]
    assert main(command) == 1
    lines = capsys.readouterr().err.splitlines()
    assert "one.png" in lines[0] and "two.png': does not exist" in lines[1]
