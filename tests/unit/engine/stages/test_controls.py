"""Controls in the engine: which pass they act in and with what picture, what can't be, and that nothing of them stays."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from darkroom import errors
from darkroom.engine import Engine, control_pictures
from darkroom.engine.control_pictures import View, make_control_picture, preprocess
from darkroom.engine.controls import Active, ControlNets, scales_of
from darkroom.engine.memory import has_room
from darkroom.engine.picture_files import PictureFiles
from darkroom.request.control import Control
from tests.fixtures.controlnets import write_control
from tests.unit.engine.stages.pictures import box_mask, digest, file_of, noisy_picture, on_picture, request_of


def pixels(small: Engine, request: Any, files: dict[str, bytes]) -> bytes:
    return small.render(request, pictures=files).image.tobytes()


def test_the_picture_after_one_with_controls_is_that_of_a_fresh_engine(
    small: Engine, small_model: Path, controlnets: Path, guide: bytes
) -> None:
    fresh = Engine.load(small_model, device="cpu")
    plain = pixels(fresh, request_of(), {})
    fresh.close()
    led = request_of(control=[{"model": "edges", "image": digest(guide)}])
    first = pixels(small, led, {digest(guide): guide})
    assert pixels(small, request_of(), {}) == plain != first
    assert pixels(small, led, {digest(guide): guide}) == first
    nothing = request_of(control=[{"model": "edges", "image": digest(guide), "weight": 0}])
    assert pixels(small, nothing, {digest(guide): guide}) == plain


def test_stages_have_the_requests_controls_unless_they_have_their_own(
    small: Engine, controlnets: Path, guide: bytes
) -> None:
    control = {"model": "edges", "image": digest(guide)}
    files, hires = {digest(guide): guide}, {"scale": 2, "upscaler": "Lanczos", "steps": 2}
    both = pixels(small, request_of({"hires": hires}, control=[control]), files)
    first = pixels(small, request_of({"hires": {**hires, "control": []}}, control=[control]), files)
    second = pixels(small, request_of({"hires": {**hires, "control": [control]}}), files)
    neither = pixels(small, request_of({"hires": hires}), {})
    assert len({both, first, second, neither}) == 4


def test_facts_name_the_models(small: Engine, controlnets: Path, guide: bytes) -> None:
    request = request_of(control=[{"model": "promax", "type": "tile", "image": digest(guide)}])
    used = small.render(request, pictures={digest(guide): guide}).facts.assets
    assert [(asset.kind, asset.name) for asset in used] == [("controlnets", "promax")]
    assert used[0].sha256 == digest((controlnets / "promax.safetensors").read_bytes())


@pytest.mark.parametrize("stage", ["tile", "inpaint"])
def test_a_part_is_led_by_its_part_of_the_picture(small: Engine, controlnets: Path, stage: str) -> None:
    """A guide that is even within the part gives what any other does that is even there in the same way."""
    mask = file_of(box_mask(128, 128, (8, 8, 40, 40)))
    settings: dict[str, Any] = {"denoising_strength": 0.5, "steps": 2}
    if stage == "inpaint":
        settings |= {"mask": digest(mask), "mask_blur": 0, "only_masked": True, "padding": 8, "width": 64, "height": 64}
    else:
        settings |= {"scale": 1, "tile": 64, "overlap": 0}
    given = noisy_picture(128, 128)
    made = []
    for far in ("black", "white"):
        drawn = given.copy()
        ImageDraw.Draw(drawn).rectangle(
            (64, 64, 127, 127), fill=far
        )  # no part of the mask's surroundings, or of the first tile
        data = file_of(drawn)
        request, files = on_picture(
            given, {stage: {**settings, "control": [{"model": "edges", "image": digest(data)}]}}
        )
        files |= {digest(data): data, **({digest(mask): mask} if stage == "inpaint" else {})}
        made.append(np.asarray(small.render(request, pictures=files).image))
    assert np.array_equal(made[0][:48, :48], made[1][:48, :48])
    assert (stage == "inpaint") == np.array_equal(made[0], made[1])


def test_all_tiles_share_what_a_preprocessor_makes(
    small: Engine, controlnets: Path, guide: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def count(image: Image.Image, control: Control) -> Image.Image:
        made.append(control)
        return preprocess(image, control)

    monkeypatch.setattr(control_pictures, "preprocess", count)
    control = {"model": "edges", "image": digest(guide), "preprocessor": "canny"}
    tile = {"scale": 1, "tile": 64, "overlap": 0, "denoising_strength": 0.5, "steps": 2, "control": [control]}
    request, files = on_picture(noisy_picture(128, 128), {"tile": tile})
    pixels(small, request, files | {digest(guide): guide})
    assert len(made) == 1


@pytest.mark.parametrize(
    ("control", "error"),
    [
        ({"model": "edge"}, "E-CONTROL ControlNet 'edge': there is none of that name. Hint: did you mean 'edges'"),
        ({"model": "edges", "type": "canny"}, "E-CONTROL ControlNet 'edges': is no Union"),
        (
            {"model": "union"},
            "E-CONTROL ControlNet 'union': is a Union, and the control has no type. Hint: write type: and one of openpose",
        ),
        ({"model": "union", "type": "tile"}, "E-CONTROL ControlNet 'union': doesn't know tile"),
        (
            {"model": "wide"},
            "E-CONTROL ControlNet 'wide': is made for another UNet: its block_out_channels is 32-64-112, the checkpoint's 8-16-28",
        ),
        ({"model": "edges", "image": None}, "E-CONTROL control 'edges': has no image"),
    ],
)
def test_what_cannot_be_is_one_coded_line(
    small: Engine, controlnets: Path, guide: bytes, control: dict[str, Any], error: str
) -> None:
    write_control(controlnets / "wide.safetensors")
    request = request_of(control=[{"image": digest(guide), **control}])
    with pytest.raises(errors.ControlError) as caught:
        small.render(request, pictures={name: guide for name in request.pictures})
    assert str(caught.value).startswith(error)
    assert pixels(small, request_of(), {}) == pixels(small, request_of(), {})


def test_factors_of_the_modes() -> None:
    assert scales_of(Control(model="x", weight=0.5), 10) == [0.5] * 10
    soft = scales_of(Control(model="x", weight=0.5, mode="prompt"), 10)
    assert (
        soft
        == [0.5 * 0.825 ** (12 - number) for number in range(10)]
        == scales_of(Control(model="x", weight=0.5, mode="control"), 10)
    )


def test_cards_that_have_room_for_a_controlnet_beside_sdxl() -> None:
    sdxl, control = 7_105_000_000, 2_503_000_000
    assert [has_room(sdxl + control, size * 10**9) for size in (12, 16, 24, 80)] == [False, False, True, True]


@pytest.mark.parametrize("gigabytes", [2, 12])
def test_models_take_turns_where_there_is_no_room_and_are_refused_where_they_never_fit(
    small: Engine, controlnets: Path, guide: bytes, gigabytes: int
) -> None:
    """The device is a CPU that is told to have so much memory, with a gigabyte of other weights on it."""
    request, files = request_of(control=[{"model": "edges", "image": digest(guide)}]), {digest(guide): guide}
    unet, total = small._pipeline.unet, gigabytes * 10**9
    nets = ControlNets(small.library, unet, "fp32", "cpu", 10**9, total, is_offloaded=True)

    def prepare() -> list[Active]:
        return nets.prepare(request.control, PictureFiles(request, files, 0), View.of_all((64, 64)))

    if gigabytes == 2:
        with pytest.raises(
            errors.OutOfMemoryError, match=r"E-OOM ControlNet 'edges': .* takes 2\.8 GB, and there are 2\.0"
        ):
            prepare()
        return
    (active,) = prepare()
    own = [parameter.data_ptr() for parameter in active.model.parameters()]
    nets.end()
    assert [parameter.data_ptr() for parameter in active.model.parameters()] == own
    assert prepare()[0].model is active.model and nets.drop() and not nets.drop()


def square() -> Image.Image:
    image = Image.new("RGB", (64, 64), "black")
    ImageDraw.Draw(image).rectangle((16, 16, 47, 47), fill="white")
    return image


def edges(pixels: Any, low: int | None = None, high: int | None = None) -> Any:
    """One channel of what canny makes of RGB pixels (h, w, 3)."""
    control = Control(model="x", preprocessor="canny", low_threshold=low, high_threshold=high)
    return np.asarray(preprocess(Image.fromarray(pixels), control))[..., 0]


def test_canny_draws_the_outline_one_pixel_wide() -> None:
    made = edges(np.asarray(square()))
    assert set(np.unique(made)) == {0, 255}
    rows = np.flatnonzero(made[32])
    assert list(rows) in ([15, 47], [16, 47], [15, 48], [16, 48])
    assert (made[20:44, 20:44] == 0).all() and (made[:14] == 0).all()


def test_canny_keeps_weak_edges_that_lead_to_strong_ones() -> None:
    values = np.zeros((40, 40, 3), np.uint8)
    values[:, 20:] = np.linspace(30, 120, 40, dtype=np.uint8)[:, None, None]  # an edge that grows from top to bottom
    assert (edges(values, 100, 300)[2:-2].max(axis=1) == 255).all()
    assert edges(values[:15], 100, 300).max() == 0  # weak ones alone
    assert edges(values, 1000, 1000).max() == 0


def test_canny_is_what_it_was_before_it_was_opencvs() -> None:
    """Pictures that were led by canny stay as they are only while this holds: another digest is another revision."""
    drawn = np.asarray(noisy_picture(96, 64).filter(ImageFilter.GaussianBlur(2)).resize((192, 128)))
    assert (
        hashlib.sha256(edges(drawn, 20, 60).tobytes()).hexdigest()
        == "5d5bf3d029c53862efaf9d940c1019a3f100f3ace83aea4172752191997f9d1c"
    )


@pytest.mark.parametrize("name", ["softedge", "lineart"])
def test_lines_are_white_on_black(name: str) -> None:
    image = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(image).line((8, 32, 56, 32), fill="black", width=2)
    made = np.asarray(preprocess(image, Control(model="x", preprocessor=name)))
    assert made.shape == (64, 64, 3) and made[28:36, 20:44].max() > 120 and made[:16].max() < 30


def test_the_simple_preprocessors() -> None:
    image = noisy_picture(32, 32)
    values = np.asarray(image).astype(int)
    assert np.array_equal(np.asarray(preprocess(image, Control(model="x", preprocessor="invert"))), 255 - values)
    grey = np.asarray(preprocess(image, Control(model="x", preprocessor="grayscale")))
    assert np.array_equal(grey[..., 0], np.asarray(image.convert("L"))) and (grey[..., 0] == grey[..., 2]).all()
    blurred = np.asarray(preprocess(image, Control(model="x", preprocessor="blur", sigma=20.0)))
    assert blurred.std() < values.std() / 3


def test_parts_of_a_control_picture_agree_with_the_whole() -> None:
    control = Control(model="x", preprocessor="canny", image="0" * 64)
    whole = make_control_picture(control, square, View.of_all((64, 64)))
    part = make_control_picture(control, square, View.of_all((64, 64)).part((32, 32, 64, 64), (32, 32)))
    assert part.tobytes() == whole.crop((32, 32, 64, 64)).tobytes()


def test_a_preprocessor_works_at_the_resolution_that_the_control_says() -> None:
    given = noisy_picture(256, 128)
    control = Control(model="x", preprocessor="canny", processor_res=64, resize_mode="stretch")
    made = make_control_picture(control, lambda: given, View.of_all((512, 256)))
    small = preprocess(given.resize((128, 64), Image.Resampling.LANCZOS), control)
    assert made.tobytes() == small.resize((512, 256), Image.Resampling.LANCZOS).tobytes()
    perfect = make_control_picture(
        control.model_copy(update={"processor_res": None}), lambda: given, View.of_all((512, 256))
    )
    assert perfect.tobytes() != made.tobytes() and perfect.size == made.size


def test_requests_of_before_a_resolution_could_be_said_are_the_same_text() -> None:
    plain = request_of(control=[{"model": "x", "image": "0" * 64, "preprocessor": "canny"}])
    assert "processor_res" not in plain.to_json()
    said = request_of(control=[{"model": "x", "image": "0" * 64, "preprocessor": "canny", "processor_res": 512}])
    assert '"processor_res":512' in said.to_json().replace(" ", "")
