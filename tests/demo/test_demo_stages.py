"""Stages with the demo checkpoint: what a person sees in the pictures."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from darkroom.checkpoint import convert
from darkroom.engine import Engine
from darkroom.request.render_request import RenderRequest

CHECKPOINT = Path(__file__).resolve().parents[2] / "workflow/resources/demo/darkroom-demo.safetensors"
PLAIN = {"prompt": "", "cfg_scale": 1.0}
"""What is there decides, and no text: the model would draw its shape into each tile."""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = tmp_path_factory.mktemp("demo") / "demo"
    convert(CHECKPOINT, folder)
    return Engine.load(folder)


@pytest.fixture(scope="module")
def first(engine: Engine) -> Image.Image:
    """A red circle on blue."""
    return engine.render(request_of()).image


def request_of(*stages: dict[str, Any]) -> RenderRequest:
    settings = {"prompt": "a red circle on a blue background", "width": 128, "height": 128, "cfg_scale": 4.0}
    return RenderRequest.from_settings({**settings, "steps": 15, "seed": 1, "stages": list(stages)})


def file_of(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def made(engine: Engine, first: Image.Image, stage: dict[str, Any], **pictures: bytes) -> Image.Image:
    return engine.render(request_of(stage), pictures={"before": file_of(first), **pictures}).image


def steepest(image: Image.Image) -> float:
    """The largest step of brightness between neighbours, on average over the rows that the circle is in."""
    grey = np.asarray(image.convert("L"), float)
    return float(np.abs(np.diff(grey, axis=1)).max(axis=1)[96:160].mean())


def test_hires_is_sharper_than_a_resize(engine: Engine, first: Image.Image) -> None:
    large = made(engine, first, {"hires": {**PLAIN, "upscaler": "Lanczos", "denoising_strength": 0.2, "steps": 6}})
    assert large.size == (256, 256)
    assert steepest(large) > 1.4 * steepest(first.resize((256, 256), Image.Resampling.LANCZOS))


def test_inpainting_changes_the_colour_inside_and_no_byte_outside(engine: Engine, first: Image.Image) -> None:
    mask = Image.new("L", (128, 128))
    ImageDraw.Draw(mask).rectangle((30, 30, 97, 97), fill=255)
    data = file_of(mask)
    stage = {"mask": hashlib.sha256(data).hexdigest(), "prompt": "a green star on a blue background", "mask_blur": 2}
    image = made(engine, first, {"inpaint": {**stage, "denoising_strength": 0.9}}, **{stage["mask"]: data})
    outside = np.ones((128, 128), bool)
    outside[25:103, 25:103] = False
    assert (np.asarray(image)[outside] == np.asarray(first)[outside]).all()
    red, green = (np.asarray(picture, int)[60:68, 60:68].reshape(-1, 3).mean(0) for picture in (first, image))
    assert red[0] > red[1] + 100
    assert green[1] > green[0] + 60


def test_tiles_show_no_seam(engine: Engine, first: Image.Image) -> None:
    settings = {**PLAIN, "scale": 2, "overlap": 32, "denoising_strength": 0.1, "steps": 20}
    tiled, whole = (np.asarray(made(engine, first, {"tile": {**settings, "tile": tile}}), float) for tile in (128, 256))
    assert np.abs(tiled - whole).mean() < 1  # of 255
    across, untiled = (np.abs(np.diff(each, axis=1)).mean(axis=(0, 2)) for each in (tiled, whole))
    assert (across < untiled + 1).all()
