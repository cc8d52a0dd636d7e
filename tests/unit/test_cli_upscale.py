"""`darkroom upscale`: pictures of every format in and out, and mistakes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from darkroom.cli.command import main
from darkroom.pictures.formats import read_texts
from darkroom.pictures.png import read_png_text
from tests.fixtures.upscalers import write_upscaler

INFOTEXT = "a fox\nSteps: 20, Sampler: Euler, Seed: 1, Size: 40x30, Version: v1.10.1"
AFTER = INFOTEXT.replace(", Version", ", Postprocess upscale by: 2, Postprocess upscaler: mine, Version")


def size_of(path: str) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a picture and an upscaler."""
    monkeypatch.chdir(tmp_path)
    write_upscaler(tmp_path / "mine.safetensors")
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3)).astype(np.uint8)
    texts = PngImagePlugin.PngInfo()
    texts.add_text("parameters", INFOTEXT)
    Image.fromarray(pixels).save(tmp_path / "fox.png", pnginfo=texts)
    return tmp_path


def test_a_png_keeps_its_metadata(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["upscale", "fox.png", "--model", "mine.safetensors", "--output", "large.png"]) == 0
    assert capsys.readouterr().out.startswith("large.png: 40×30 to 80×60 by mine [")
    assert size_of("large.png") == (80, 60)
    assert read_png_text("large.png")["parameters"] == AFTER


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_jpeg_and_webp_go_in_and_out(suffix: str, here: Path) -> None:
    assert main(["upscale", "fox.png", "--model", "Lanczos", "--output", f"a{suffix}", "--scale", "1.5"]) == 0
    assert main(["upscale", f"a{suffix}", "--model", "mine.safetensors", "--output", f"b{suffix}"]) == 0
    assert size_of(f"b{suffix}") == (120, 90)
    assert read_texts(Path(f"b{suffix}").read_bytes())["parameters"] == AFTER


def test_a_name_is_looked_up_in_the_models_folder(here: Path) -> None:
    (here / "kept/upscalers").mkdir(parents=True)
    (here / "mine.safetensors").rename(here / "kept/upscalers/mine.safetensors")
    command = ["upscale", "fox.png", "--model", "mine", "--models-dir", "kept", "--size", "55x44", "-o", "x.png"]
    assert main(command) == 0
    assert size_of("x.png") == (55, 44)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["fox.png", "--model", "nine"], "E-UPSCALER upscaler 'nine': there is none of that name"),
        (
            ["fox.png", "--model", "gone.safetensors"],
            "E-UPSCALER upscaler 'gone': its file gone.safetensors is missing",
        ),
        (["fox.png", "--model", "Lanczos", "--size", "80*60"], "E-REQUEST size '80*60'"),
        (["fox.png", "--model", "Lanczos", "--scale", "0"], "E-REQUEST scale '0'"),
        (["fox.png", "--model", "Lanczos", "--tile", "512"], "E-REQUEST tile '512': means nothing to Lanczos"),
        (["gone.png", "--model", "Lanczos"], "E-IMAGE picture 'gone.png': is missing"),
        (["mine.safetensors", "--model", "Lanczos"], "E-IMAGE picture 'mine.safetensors'"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], told: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["upscale", *arguments, "--output", "x.png"]) in (1, 2)
    assert capsys.readouterr().err.startswith(told)
    assert not Path("x.png").exists()


def transparent(pixels: Image.Image, path: Path) -> None:
    pixels.convert("RGBA").point(lambda value: value // 2).save(path)


def deep(pixels: Image.Image, path: Path) -> None:
    pixels.convert("L").convert("I;16").save(path)


def moving(pixels: Image.Image, path: Path) -> None:
    pixels.save(path, save_all=True, append_images=[pixels.rotate(180)])


@pytest.mark.parametrize(
    ("save", "lost"),
    [(transparent, "transparent pixels"), (deep, "more than 8 bits a channel"), (moving, "several frames")],
)
def test_a_picture_that_would_lose_something_is_refused(
    save: Callable[[Image.Image, Path], None], lost: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Image.open("fox.png") as image:
        save(image, here / "other.png")
    assert main(["upscale", "other.png", "--model", "Lanczos", "--output", "x.png"]) == 1
    assert f"has {lost}, which an upscaler can't keep" in capsys.readouterr().err


def test_a_photo_is_turned_as_its_camera_says(here: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open("fox.png") as image:
        image.save("photo.jpg", exif=exif)
    assert main(["upscale", "photo.jpg", "--model", "Lanczos", "--output", "x.png"]) == 0
    assert size_of("x.png") == (60, 80)
