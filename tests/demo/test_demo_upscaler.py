"""The upscaler that ships: small, of a known architecture, and closer to the drawing than Lanczos."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from PIL import Image
from safetensors import safe_open

from darkroom.engine.library import Library
from darkroom.engine.placement import Placement
from darkroom.engine.upscalers import Upscalers
from darkroom.upscalers import load_upscaler
from demo.pictures import draw
from demo.score_upscaler import kept_scenes, psnr, ssim

FILE = Path(__file__).resolve().parents[2] / "workflow/resources/demo/darkroom-demo-upscale-2x.safetensors"


@pytest.fixture(scope="module")
def upscalers(tmp_path_factory: pytest.TempPathFactory) -> Upscalers:
    library = Library(tmp_path_factory.mktemp("models"))
    library.add("upscalers", "ours", FILE)
    return Upscalers(library, "fp32", Placement("cpu", takes_turns=False))


def test_it_is_small_and_says_what_it_is() -> None:
    assert FILE.stat().st_size < 2_000_000
    with safe_open(FILE, "pt") as file:
        assert file.metadata()["modelspec.title"] == "Darkroom demo: upscale 2×"
        assert file.metadata()["modelspec.license"] == "Apache-2.0"
    found = load_upscaler(FILE, "ours")
    assert (found.architecture, found.scale) == ("RealESRGAN Compact", 2)


def test_it_comes_closer_to_kept_drawings_than_lanczos(upscalers: Upscalers) -> None:
    gains = []
    for scene in kept_scenes(random.Random(5), 10):
        wanted = draw(scene, 256)
        small = wanted.resize((128, 128), Image.Resampling.LANCZOS)
        ours, plain = (upscalers.upscale(small, name, scale=2) for name in ("ours", "Lanczos"))
        gains.append((psnr(ours, wanted) - psnr(plain, wanted), ssim(ours, wanted) - ssim(plain, wanted)))
    mean = [sum(each) / len(gains) for each in zip(*gains, strict=True)]
    assert mean[0] > 0.3 and mean[1] > 0


def test_the_measures_tell_equal_pictures_from_others() -> None:
    first, second = (draw(scene, 64) for scene in kept_scenes(random.Random(6), 2))
    assert ssim(first, first) == pytest.approx(1) and psnr(first, first) > 100
    assert ssim(first, second) < 0.9 and psnr(first, second) < 30
