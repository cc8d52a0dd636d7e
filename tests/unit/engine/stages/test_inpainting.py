"""Inpainting and outpainting: no byte changes outside of the mask, and what is inside is made anew."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

from darkroom.engine import Engine
from darkroom.engine.masks import blurred, doubled
from darkroom.errors import RequestError
from darkroom.request.stages.inpaint import MaskedContent
from tests.unit.engine.stages.pictures import box_mask, digest, file_of, noisy_picture, on_picture

BOX = (16, 24, 39, 47)
Array = np.ndarray[Any, Any]


def inpainted(engine: Engine, image: Image.Image, mask: Image.Image, **settings: Any) -> Array:
    data = file_of(mask)
    request, files = on_picture(image, {"inpaint": {"mask": digest(data), **settings}})
    return np.asarray(engine.render(request, pictures={**files, digest(data): data}).image)


def changed(made: Array, image: Image.Image) -> Array:
    """Where pixels differ."""
    return (made != np.asarray(image)).any(axis=-1)


@pytest.mark.parametrize("content", get_args(MaskedContent))
@pytest.mark.parametrize("only_masked", [False, True])
@pytest.mark.parametrize("size", [(64, 64), (75, 83)])
def test_no_byte_changes_outside_of_the_blurred_mask(
    small: Engine, size: tuple[int, int], content: str, only_masked: bool
) -> None:
    image, mask = noisy_picture(*size), box_mask(*size, BOX)
    made = inpainted(small, image, mask, masked_content=content, only_masked=only_masked, mask_blur=2, padding=8)
    reach = np.asarray(blurred(mask, 2)) > 0
    assert made.shape == (size[1], size[0], 3)
    assert not (changed(made, image) & ~reach).any()
    assert changed(made, image)[24:48, 16:40].mean() > 0.9
    assert reach[22:50, 14:42].all()
    assert not reach[:18].any()


def test_each_content_gives_another_picture(small: Engine, picture: Image.Image) -> None:
    made = {
        inpainted(small, picture, box_mask(64, 64, BOX), masked_content=c).tobytes() for c in get_args(MaskedContent)
    }
    assert len(made) == 4


def test_the_mask_turned_round(small: Engine, picture: Image.Image) -> None:
    mask = box_mask(64, 64, BOX)
    made = inpainted(small, picture, mask, invert=True, mask_blur=0)
    assert not changed(made, picture)[24:48, 16:40].any()
    other = Image.fromarray(255 - np.asarray(mask))
    assert (made == inpainted(small, picture, other, mask_blur=0)).all()


def test_a_mask_of_another_size_is_brought_to_the_pictures(small: Engine, picture: Image.Image) -> None:
    made = inpainted(small, picture, box_mask(32, 32, (8, 12, 19, 23)), mask_blur=0)
    assert (made == inpainted(small, picture, box_mask(64, 64, BOX), mask_blur=0)).all()


def test_the_part_may_be_worked_on_at_another_size(small: Engine, picture: Image.Image) -> None:
    steps = {"only_masked": True, "padding": 4, "mask_blur": 0}
    large = inpainted(small, picture, box_mask(64, 64, BOX), width=128, height=96, **steps)
    assert large.shape == (64, 64, 3)
    assert (large != inpainted(small, picture, box_mask(64, 64, BOX), **steps)).any()


def test_the_whole_picture_may_be_brought_to_another_size_first(small: Engine, picture: Image.Image) -> None:
    made = inpainted(small, picture, box_mask(64, 64, BOX), width=96, height=64, resize_mode="fill", mask_blur=0)
    assert made.shape == (64, 96, 3)
    assert (made[:24, 16:80] == np.asarray(picture)[:24]).all()
    assert (made[:24, :16] == np.asarray(picture)[:24, :1]).all()


@pytest.mark.parametrize("invert", [False, True])
def test_a_mask_of_nothing_is_an_error(small: Engine, picture: Image.Image, invert: bool) -> None:
    mask = Image.new("L", (64, 64), 255 if invert else 0)
    with pytest.raises(RequestError, match=f"mask .* has nothing {'black' if invert else 'white'} in it"):
        inpainted(small, picture, mask, invert=invert)


@pytest.mark.parametrize("only_masked", [False, True])
def test_a_strength_of_0_changes_nothing(small: Engine, picture: Image.Image, only_masked: bool) -> None:
    mask = box_mask(64, 64, BOX)
    assert not changed(inpainted(small, picture, mask, denoising_strength=0, only_masked=only_masked), picture).any()


def test_the_paste_covers_what_was_made_anew_and_is_soft_at_its_edge(small: Engine, picture: Image.Image) -> None:
    mask = box_mask(64, 64, BOX)
    overlay = np.asarray(doubled(blurred(mask, 4)))
    assert (overlay[24:48, 16:40] >= 254 // 2).all()
    assert ((overlay > 0) & (overlay < 255)).any()
    made = inpainted(small, picture, mask, mask_blur=4)
    assert not changed(made, picture)[overlay == 0].any()


@pytest.mark.parametrize("sides", [{"left": 16}, {"right": 24, "up": 8}, {"left": 8, "right": 8, "up": 8, "down": 16}])
@pytest.mark.parametrize("size", [(64, 64), (69, 66)])
def test_outpainting_keeps_the_picture_but_for_the_edge(
    small: Engine, size: tuple[int, int], sides: dict[str, int]
) -> None:
    image = noisy_picture(*size)
    request, files = on_picture(image, {"outpaint": {**sides, "mask_blur": 6}})
    made = small.render(request, pictures=files).image
    left, up, right, down = (sides.get(side, 0) for side in ("left", "up", "right", "down"))
    assert made.size == (size[0] + left + right, size[1] + up + down)
    inner = np.asarray(made.crop((left, up, left + size[0], up + size[1])))
    fade = {side: 6 if length else 0 for side, length in sides.items()}
    kept = np.zeros(inner.shape[:2], bool)
    kept[fade.get("up", 0) : size[1] - fade.get("down", 0), fade.get("left", 0) : size[0] - fade.get("right", 0)] = True
    assert not changed(inner, image)[kept].any()
    assert changed(inner, image)[~kept].any()
    edges = image.resize(made.size)  # what is new isn't only the repeated edge
    assert made.tobytes() != edges.tobytes()
