"""The arithmetic of masks, as in A1111's modules/processing.py and modules/masking.py."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from darkroom.engine.masks import blurred, doubled, filled, inverted, latent_mask, part_around, rounded
from tests.unit.engine.stages.pictures import box_mask


def test_a_mask_is_black_or_white_from_128_on() -> None:
    grey = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    assert np.asarray(rounded(grey, (16, 16))).ravel().tolist() == [0] * 129 + [255] * 127
    assert np.asarray(rounded(grey.convert("RGB"), (16, 16))).ravel().tolist() == [0] * 129 + [255] * 127


def test_of_a_transparent_mask_the_opaque_part_counts() -> None:
    mask = Image.new("RGBA", (8, 8), (255, 255, 255, 0))
    mask.paste((0, 0, 0, 255), (2, 2, 4, 4))
    assert rounded(mask, (8, 8)).getbbox() == (2, 2, 4, 4)
    opaque = Image.new("RGBA", (8, 8), "black")
    opaque.paste("white", (1, 1, 3, 3))
    assert rounded(opaque, (8, 8)).getbbox() == (1, 1, 3, 3)


@pytest.mark.parametrize("blur", [1, 4, 10])
def test_blurring_is_gaussian_over_two_and_a_half_deviations(blur: int) -> None:
    """OpenCV's kernel of 2 * int(2.5 * blur + 0.5) + 1 pixels, normalised, along both axes."""
    reach = int(2.5 * blur + 0.5)
    kernel = np.array([math.exp(-(x**2) / (2 * blur**2)) for x in range(-reach, reach + 1)])
    kernel /= kernel.sum()
    edge = Image.fromarray(np.repeat([[0] * 60 + [255] * 60], 9, axis=0).astype(np.uint8))
    values = np.asarray(blurred(edge, blur)).astype(int)
    expected = np.convolve([0] * 60 + [255] * 60, kernel, "same")
    assert np.abs(values[4, 30:90] - expected[30:90]).max() <= 1
    assert np.flatnonzero(values[4])[0] >= 60 - reach
    assert (values == values[4]).all()


def test_no_blur_leaves_the_mask() -> None:
    mask = box_mask(8, 8, (1, 1, 2, 2))
    assert blurred(mask, 0) == mask
    assert inverted(inverted(mask)) == mask
    assert set(doubled(Image.new("L", (1, 1), 100)).tobytes()) == {200}
    assert set(doubled(Image.new("L", (1, 1), 200)).tobytes()) == {255}


@pytest.mark.parametrize(
    ("box", "padding", "work", "part"),
    [
        ((192, 240, 319, 271), 0, (512, 512), (192, 192, 320, 320)),  # 128 x 32 becomes 128 x 128
        ((0, 0, 127, 31), 0, (512, 512), (0, 0, 128, 128)),  # moved into the picture
        ((384, 480, 511, 511), 0, (512, 512), (384, 384, 512, 512)),
        ((240, 100, 271, 227), 32, (512, 512), (160, 68, 352, 260)),
        ((100, 100, 199, 199), 0, (1024, 512), (50, 100, 250, 200)),
        ((0, 0, 511, 99), 0, (512, 1024), (0, 0, 512, 512)),  # as far as the picture goes
    ],
)
def test_the_part_around_a_mask_has_the_shape_that_is_worked_at(
    box: tuple[int, int, int, int], padding: int, work: tuple[int, int], part: tuple[int, int, int, int]
) -> None:
    assert part_around(box_mask(512, 512, box), padding, work) == part


def test_filling_takes_the_colours_around() -> None:
    image = Image.new("RGB", (96, 96), (200, 40, 40))
    image.paste((20, 20, 220), (48, 0, 96, 96))
    image.paste((255, 255, 255), (32, 32, 64, 64))
    mask = box_mask(96, 96, (32, 32, 63, 63))
    made = np.asarray(filled(image, mask)).astype(int)
    assert np.abs(made[:, :28] - np.asarray(image)[:, :28]).max() <= 3
    left, right = made[48, 34], made[48, 61]
    assert left[0] > right[0] + 30
    assert right[2] > left[2] + 30
    assert made[32:64, 32:64, 1].max() < 60  # nothing of the white that was there


def test_latents_are_made_anew_where_most_of_their_pixels_are_white() -> None:
    mask = latent_mask(box_mask(64, 32, (16, 8, 39, 20)))
    assert mask.shape == (1, 1, 4, 8)
    assert mask[0, 0].tolist() == [
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 1, 1, 1, 0, 0, 0],
        [0, 0, 1, 1, 1, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
    ]
