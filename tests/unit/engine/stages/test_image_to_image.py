"""img2img, hires, upscale and tile: sizes, shapes, what a strength of 0 does, and files of every kind."""

from __future__ import annotations

import io
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load

from darkroom.engine import Engine
from darkroom.engine.canvas import extend, fit
from darkroom.engine.picture_files import PictureFiles
from darkroom.engine.tiles import Quilt
from darkroom.errors import RequestError, UpscalerError
from darkroom.request.stages import Hires, Tile
from darkroom.request.stages.hires import LATENT_UPSCALERS
from tests.unit.engine.stages.pictures import digest, file_of, noisy_picture, on_picture, request_of


def rendered(engine: Engine, image: Image.Image, *stages: dict[str, Any], **settings: Any) -> Image.Image:
    request, files = on_picture(image, *stages, **settings)
    return engine.render(request, pictures=files).image


MODES = {  # A1111, modules/shared_items.py
    "Latent": {"mode": "bilinear", "antialias": False},
    "Latent (antialiased)": {"mode": "bilinear", "antialias": True},
    "Latent (bicubic)": {"mode": "bicubic", "antialias": False},
    "Latent (bicubic antialiased)": {"mode": "bicubic", "antialias": True},
    "Latent (nearest)": {"mode": "nearest", "antialias": False},
    "Latent (nearest-exact)": {"mode": "nearest-exact", "antialias": False},
}


def test_latents_are_enlarged_as_in_a1111(small: Engine) -> None:
    assert set(MODES) == set(LATENT_UPSCALERS)
    first = load(small.render(request_of(), keep_latents=True).latents or b"")["latent"]
    for name, mode in MODES.items():
        stage = {"hires": {"upscaler": name, "scale": 1.5, "denoising_strength": 0}}
        made = load(small.render(request_of(stage), keep_latents=True).latents or b"")["latent"]
        assert made.equal(torch.nn.functional.interpolate(first, size=(12, 12), **mode)), name


@pytest.mark.parametrize("upscaler", ["Latent", "Lanczos"])
def test_hires_of_another_shape_is_cropped_in_the_middle(small: Engine, picture: Image.Image, upscaler: str) -> None:
    """A1111: enlarged to 128 x 128, then 16 - 12 latents are left out, half on each side."""
    wide = Hires(width=128, height=96, upscaler=upscaler, denoising_strength=0)
    assert (wide.size_after(64, 64), wide.enlarged(64, 64)) == ((128, 96), (128, 128))
    made = rendered(small, picture, {"hires": wide.model_dump()})
    whole = rendered(small, picture, {"hires": {"upscaler": upscaler, "denoising_strength": 0}})
    assert made.size == (128, 96)
    if upscaler == "Lanczos":
        assert made == whole.crop((0, 16, 128, 112)) == picture.resize((128, 128), 1).crop((0, 16, 128, 112))


@pytest.mark.parametrize("size", [(64, 64), (75, 83)])
def test_a_strength_of_0_leaves_the_pixels(small: Engine, size: tuple[int, int]) -> None:
    image = noisy_picture(*size)
    for stage in ({"img2img": {"denoising_strength": 0}}, {"upscale": {"scale": 1}}):
        assert rendered(small, image, stage) == image
    grown = rendered(small, image, {"tile": {"denoising_strength": 0, "upscaler": "Nearest"}})
    assert grown == image.resize((size[0] * 2, size[1] * 2), Image.Resampling.NEAREST)


@pytest.mark.parametrize("stage", ["img2img", "tile"])
def test_a_picture_of_any_size_keeps_it(small: Engine, stage: str) -> None:
    image = noisy_picture(75, 83)
    assert rendered(
        small, image, {stage: {} if stage == "img2img" else {"scale": 1, "tile": 64, "overlap": 16}}
    ).size == (
        75,
        83,
    )


@pytest.mark.parametrize(("mode", "corner"), [("stretch", None), ("crop", None), ("fill", "repeated")])
def test_the_shape_is_changed_by_the_resize_mode(
    small: Engine, picture: Image.Image, mode: str, corner: str | None
) -> None:
    made = rendered(
        small, picture, {"img2img": {"width": 128, "height": 64, "resize_mode": mode, "denoising_strength": 0}}
    )
    assert made.size == (128, 64)
    if mode == "fill":
        assert made.crop((32, 0, 96, 64)) == picture
        assert (np.asarray(made)[:, :32] == np.asarray(picture)[:, :1]).all()
    elif mode == "crop":
        assert made == picture.resize((128, 128), Image.Resampling.LANCZOS).crop((0, 32, 128, 96))
    else:
        assert made == picture.resize((128, 64), Image.Resampling.LANCZOS)


def test_fitting_a_mask() -> None:
    mask = Image.new("L", (10, 20), 255)
    assert fit(mask, (40, 20), "fill") == Image.new("L", (40, 20), 255)
    assert extend(mask, 1, 2, 3, 4).size == (14, 26)


def test_tiles_reach_from_end_to_end_in_steps_of_8() -> None:
    tile = Tile(tile=128, overlap=32, scale=2)
    assert tile.places(128, 64) == ((0, 0), (64, 0), (128, 0))
    assert tile.places(64, 64) == ((0, 0),)
    lefts = [left for left, _ in tile.places(250, 64)]  # 500 pixels, 504 with what is added
    assert (lefts[0], lefts[-1]) == (0, 504 - 128)
    assert all(left % 8 == 0 for left in lefts)
    assert max(b - a for a, b in pairwise(lefts)) <= 128 - 32


def test_one_tile_is_the_untiled_picture(small: Engine, picture: Image.Image) -> None:
    """Of the same strength and upscaler; the noise is the seed's."""
    tiled = rendered(small, picture, {"tile": {"scale": 2, "tile": 128, "overlap": 0, "denoising_strength": 0.5}})
    plain = rendered(
        small, picture, {"upscale": {"scale": 2}}, {"img2img": {"denoising_strength": 0.5}}, sampler="Euler"
    )
    assert tiled == plain


@pytest.mark.parametrize("overlap", [8, 16, 24])
def test_tiles_fade_into_each_other_without_a_step(overlap: int) -> None:
    """Over `overlap` pixels around the middle of what they share; test_demo_stages.py compares pictures."""
    starts = (0, 40, 80)
    quilt = Quilt((144, 64), (64, 64), [(start, 0) for start in starts], overlap)
    for start, grey in zip(starts, (90, 150, 90), strict=True):
        quilt.add(Image.new("RGB", (64, 64), (grey,) * 3), start, 0)
    row = np.asarray(quilt.picture((144, 64)), int)[10, :, 0]
    assert np.abs(np.diff(row)).max() <= 60 / overlap + 1
    middle = 52  # of the first two, which share 40 to 64
    reach = overlap // 2
    assert set(row[: middle - reach]) == {90}
    assert row[middle - 1] + row[middle] == 240
    assert row[72] == 150


def test_pictures_are_turned_and_flattened(picture: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    tall = picture.crop((0, 0, 64, 32))
    clear = Image.new("RGBA", (64, 64), (255, 0, 0, 0))
    clear.paste((0, 0, 255, 255), (0, 0, 32, 64))
    deep = Image.fromarray((np.arange(64 * 64, dtype=np.uint16) * 16).reshape(64, 64))
    palette = picture.quantize(16)
    for kind, image, expected, options in (
        ("PNG", tall, tall.transpose(Image.Transpose.ROTATE_270), {"exif": exif}),
        (
            "PNG",
            clear,
            Image.fromarray(np.asarray([[0, 0, 255]] * 32 + [[255] * 3] * 32, np.uint8)[None].repeat(64, 0)),
            {},
        ),
        ("PNG", deep, Image.fromarray((np.asarray(deep) // 257).astype(np.uint8)).convert("RGB"), {}),
        ("PNG", palette, palette.convert("RGB"), {}),
        ("WEBP", picture, picture, {"lossless": True}),
        ("AVIF", picture, Image.open(io.BytesIO(file_of(picture, "AVIF"))).convert("RGB"), {}),
    ):
        data = file_of(image, kind, **options)
        request = request_of({"upscale": {}}, image=digest(data))
        found = PictureFiles(request, {digest(data): data}, 0).picture(digest(data))
        assert (found.mode, found.tobytes()) == ("RGB", expected.tobytes()), kind


def test_files_that_are_no_picture(picture: Image.Image) -> None:
    frames = io.BytesIO()
    picture.save(frames, "WEBP", save_all=True, append_images=[picture.rotate(90)])
    for data, words in (
        (b"", "cannot identify"),
        (file_of(picture)[:300], "truncated"),
        (file_of(picture, "BMP"), "cannot identify"),
        (frames.getvalue(), "several frames"),
    ):
        request = request_of({"upscale": {}}, image=digest(data))
        with pytest.raises(RequestError, match=f"E-REQUEST picture .*{words}"):
            PictureFiles(request, {digest(data): data}, 0).picture(digest(data))


def test_a_picture_survives_its_own_latents(small: Engine, picture: Image.Image) -> None:
    """Encoding takes the mean of what the VAE allows: the same each time, whatever torch's generator is at."""
    vae = small._pipeline.vae
    with torch.inference_mode():
        first = small._parts.codec.encode(vae, picture)
        torch.manual_seed(99)
        assert small._parts.codec.encode(vae, picture).equal(first)
    assert (first.dtype, first.shape) == (torch.float32, (1, 4, 8, 8))


def test_an_unknown_upscaler_is_told(small: Engine, picture: Image.Image) -> None:
    with pytest.raises(UpscalerError, match="upscaler 'SwinIR'"):
        rendered(small, picture, {"hires": {"upscaler": "SwinIR"}})
