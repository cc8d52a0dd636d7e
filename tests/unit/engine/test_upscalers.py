"""Upscaling: sizes, seams, order, cancelling, numbers that aren't finite, memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from darkroom import errors
from darkroom.engine import Engine
from darkroom.engine.chain import run_chain
from darkroom.engine.denoise import Cancelled
from darkroom.engine.library import Library
from darkroom.engine.placement import Placement
from darkroom.engine.upscalers import Upscalers, target_size
from darkroom.request.render_request import RenderRequest
from tests.fixtures.checkpoints import write_tensors
from tests.fixtures.upscalers import averaging, compact, esrgan, write_upscaler


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with upscalers."""
    folder = tmp_path_factory.mktemp("models")
    files = {
        "double": compact(2),
        "other": compact(2, seed=8),
        "averaging": averaging(),
        "four": compact(4),
        "deep": esrgan(4),
        "wide": esrgan(2, blocks=3),
    }
    for name, tensors in files.items():
        write_upscaler(folder / f"upscalers/{name}.safetensors", tensors)
    return folder


@pytest.fixture
def upscalers(models: Path) -> Upscalers:
    return Upscalers(Library(models), "fp32", Placement("cpu", takes_turns=False))


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    """Noise on shapes: a picture in which a seam has nowhere to hide."""
    rng = np.random.default_rng(1)
    ys, xs = np.mgrid[0:170, 0:230]
    base = np.stack([xs, ys, 120 * ((xs // 20 + ys // 20) % 2)], -1) + rng.integers(0, 40, (170, 230, 3))
    return Image.fromarray(base.clip(0, 255).astype(np.uint8))


def difference(one: Image.Image, other: Image.Image) -> int:
    return int(np.abs(np.asarray(one).astype(int) - np.asarray(other)).max())


@pytest.mark.parametrize(
    ("name", "how", "size"),
    [
        ("double", {"scale": 2}, (460, 340)),
        ("double", {"scale": 1.5}, (345, 255)),
        ("double", {"scale": 3}, (690, 510)),
        ("double", {"size": (300, 600)}, (300, 600)),
        ("four", {"scale": 2}, (460, 340)),
        ("Lanczos", {"scale": 1.3}, (299, 221)),
        ("Nearest", {"scale": 2}, (460, 340)),
    ],
)
def test_the_picture_has_the_size_that_was_asked_for(
    name: str, how: dict[str, object], size: tuple[int, int], upscalers: Upscalers, picture: Image.Image
) -> None:
    made = upscalers.upscale(picture, name, **how)  # type: ignore[arg-type]
    assert (made.size, made.mode) == (size, "RGB")


def test_a_scale_that_is_no_power_is_reached_from_above(upscalers: Upscalers, picture: Image.Image) -> None:
    """As in A1111: models run until the picture is large enough, and Lanczos makes it smaller."""
    twice = upscalers.upscale(upscalers.upscale(picture, "double", scale=2), "double", scale=2)
    expected = twice.resize((690, 510), Image.Resampling.LANCZOS)
    assert upscalers.upscale(picture, "double", scale=3).tobytes() == expected.tobytes()


def test_nearest_repeats_pixels(upscalers: Upscalers, picture: Image.Image) -> None:
    made = np.asarray(upscalers.upscale(picture, "Nearest", scale=2))
    assert (made[::2, ::2] == np.asarray(picture)).all() and (made[1::2, 1::2] == np.asarray(picture)).all()


def test_a_tile_equals_the_model_itself(upscalers: Upscalers, picture: Image.Image) -> None:
    made = upscalers.upscale(picture, "double", scale=2, tile=0)
    weights = {name: torch.from_numpy(tensor).half().float() for name, tensor in compact(2).items()}
    x = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None].float() / 255
    x = given = torch.nn.functional.pad(x, (4, 4, 4, 4), "replicate")
    for i in range(0, 7, 2):
        x = torch.conv2d(x, weights[f"body.{i}.weight"], weights[f"body.{i}.bias"], padding=1)
        x = x if i == 6 else torch.prelu(x, weights[f"body.{i + 1}.weight"])
    x = torch.pixel_shuffle(x, 2) + given.repeat_interleave(2, 2).repeat_interleave(2, 3)
    expected = (x.clamp(0, 1)[0, :, 8:-8, 8:-8].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    assert difference(made, Image.fromarray(expected)) <= 1


@pytest.mark.parametrize("name", ["double", "averaging"])
@pytest.mark.parametrize("tile", [56, 65, 100, 128])
def test_tiles_leave_no_seam_where_a_network_sees_no_further_than_its_context(
    tile: int, name: str, upscalers: Upscalers, picture: Image.Image
) -> None:
    whole = upscalers.upscale(picture, name, scale=2, tile=0)
    assert difference(whole, upscalers.upscale(picture, name, scale=2, tile=tile)) <= 1  # a rounding


def test_the_pictures_edges_are_no_frame(upscalers: Upscalers) -> None:
    """A network that pads with zeros sees black around a picture."""
    made = upscalers.upscale(Image.new("RGB", (60, 50), (200, 90, 30)), "averaging", scale=2)
    assert len(made.getcolors() or []) == 1


def test_without_context_there_would_be_a_seam(upscalers: Upscalers, picture: Image.Image) -> None:
    whole = upscalers.upscale(picture, "averaging", scale=2, tile=0)
    assert upscalers._loaded is not None and upscalers._loaded[1].context == 8
    upscalers._loaded = (upscalers._loaded[0], replace(upscalers._loaded[1], context=0))
    assert difference(whole, upscalers.upscale(picture, "averaging", scale=2, tile=100)) >= 8


@pytest.mark.parametrize("name", ["deep", "wide"])
def test_tiles_of_a_network_that_sees_further_differ_little(
    name: str, upscalers: Upscalers, picture: Image.Image
) -> None:
    whole = upscalers.upscale(picture, name, scale=2, tile=0)
    tiled = upscalers.upscale(picture, name, scale=2, tile=128)
    assert whole.getextrema() != ((0, 0), (0, 0), (0, 0)) and difference(whole, tiled) <= 2


def test_a_picture_does_not_depend_on_what_ran_before(upscalers: Upscalers, models: Path, picture: Image.Image) -> None:
    first = upscalers.upscale(picture, "double", scale=2, tile=96).tobytes()
    torch.manual_seed(5)
    upscalers.upscale(picture, "deep", scale=2)
    other = upscalers.upscale(picture, "other", scale=2, tile=96).tobytes()
    fresh = Upscalers(Library(models), "fp16", Placement("cpu", takes_turns=False))
    assert first == upscalers.upscale(picture, "double", scale=2, tile=96).tobytes() != other
    assert first == fresh.upscale(picture, "double", scale=2, tile=96).tobytes()


def test_torchs_own_random_numbers_stay_as_they_are(upscalers: Upscalers, picture: Image.Image) -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    upscalers.upscale(picture, "double", scale=2)
    assert torch.rand(3).equal(expected)


def test_progress_counts_the_tiles_of_all_passes(upscalers: Upscalers, picture: Image.Image) -> None:
    seen: list[tuple[int, int]] = []
    upscalers.upscale(picture, "double", scale=4, tile=128, on_tile=lambda done, total: seen.append((done, total)))
    assert seen == [(i + 1, len(seen)) for i in range(len(seen))] and len(seen) == 2 * 2 + 5 * 3


def test_a_cancelled_picture_stops_before_the_next_tile(upscalers: Upscalers, picture: Image.Image) -> None:
    seen: list[int] = []
    with pytest.raises(Cancelled):
        upscalers.upscale(
            picture, "double", scale=2, tile=96, cancelled=lambda: len(seen) == 2, on_tile=lambda n, _: seen.append(n)
        )
    assert seen == [1, 2]


def test_nan_is_an_error_and_not_a_black_picture(tmp_path: Path, picture: Image.Image) -> None:
    tensors = compact(2)  # finite numbers whose sums are not
    tensors |= {"body.0.weight": tensors["body.0.weight"] * 1e38, "body.2.weight": tensors["body.2.weight"] * 1e38}
    (tmp_path / "upscalers").mkdir()
    write_tensors(tmp_path / "upscalers/bad.safetensors", tensors, "F32")
    upscalers = Upscalers(Library(tmp_path), "fp32", Placement("cpu", takes_turns=False))
    with pytest.raises(errors.NanImageError, match="the upscaler bad gave NaN"):
        upscalers.upscale(picture, "bad", scale=2)


def test_half_precision_that_gives_nan_is_computed_again_in_fp32(
    models: Path, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    upscalers = Upscalers(Library(models), "fp32", Placement("cpu", takes_turns=False))
    expected = upscalers.upscale(picture, "double", scale=2)
    monkeypatch.setattr(Upscalers, "_number_format", lambda *_: "bf16")
    assert upscalers.upscale(picture, "double", scale=2) != expected
    upscaler = upscalers._load(upscalers._library.find("upscalers", "double"))
    plain = type(upscaler.descriptor).__call__

    def overflowing(model: object, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = plain(model, x)
        return made if x.dtype == torch.float32 else made * torch.nan

    monkeypatch.setattr(type(upscaler.descriptor), "__call__", overflowing)
    again = upscalers.upscale(picture, "double", scale=2)
    assert difference(again, expected) <= 1 and upscaler.descriptor.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"scale": 1}, "is not more than 1"),
        ({"scale": 9}, "at most 8"),
        ({"scale": float("nan")}, "is not more than 1"),
        ({"size": (230, 170)}, "is not larger than the picture's 230x170"),
        ({"size": (100, 600)}, "is not larger"),
        ({"size": (30000, 30000)}, "has more than 67,108,864 pixels"),
        ({}, "needs either a scale or a size"),
        ({"scale": 2, "size": (300, 300)}, "needs either"),
        ({"scale": 2, "tile": 39}, "give at least 40, or 0"),
        ({"scale": 2, "tile": -1}, "give at least 40, or 0"),
    ],
)
def test_settings_out_of_range_are_refused(
    how: dict[str, object], why: str, upscalers: Upscalers, picture: Image.Image
) -> None:
    with pytest.raises(errors.RequestError, match=why):
        upscalers.upscale(picture, "double", **how)  # type: ignore[arg-type]


def test_an_unknown_name_names_the_nearest(upscalers: Upscalers, picture: Image.Image) -> None:
    with pytest.raises(errors.UpscalerError, match="did you mean 'double'"):
        upscalers.upscale(picture, "doubel", scale=2)


def test_sizes_are_rounded_to_the_nearest_pixel() -> None:
    assert target_size((101, 33), 1.25, None) == (126, 41)


@pytest.fixture
def own_engine(model_dir: Path, models: Path) -> Iterator[Engine]:
    engine = Engine.load(model_dir, device="cpu", library=Library(models))
    yield engine
    engine.close()


def test_an_upscaler_goes_first_when_memory_is_short(
    own_engine: Engine, request_: RenderRequest, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = own_engine.render(request_).image.tobytes()
    own_engine.upscalers.upscale(picture, "double", scale=2)
    plain, left = run_chain, [1]

    def short_of_memory(*arguments: object) -> object:
        if own_engine.upscalers._loaded is not None:
            raise torch.OutOfMemoryError
        left.append(0)
        return plain(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("darkroom.engine.engine.run_chain", short_of_memory)
    assert own_engine.render(request_).image.tobytes() == expected and left == [1, 0]


def test_without_an_upscaler_to_drop_it_stays_an_error(
    own_engine: Engine, request_: RenderRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short_of_memory(*_: object) -> object:
        raise torch.OutOfMemoryError

    monkeypatch.setattr("darkroom.engine.engine.run_chain", short_of_memory)
    with pytest.raises(errors.OutOfMemoryError):
        own_engine.render(request_)


def test_offloading_takes_the_model_away_again(models: Path, picture: Image.Image) -> None:
    upscalers = Upscalers(Library(models), "fp32", Placement("cpu", takes_turns=True))
    upscalers.upscale(picture, "double", scale=2)
    assert upscalers._loaded is not None and upscalers._loaded[1].descriptor.device.type == "cpu"
    assert upscalers.drop() and not upscalers.drop()


@pytest.mark.parametrize(
    ("dtype", "half", "bfloat", "expected"),
    [
        ("fp16", True, True, "fp16"),
        ("fp16", False, True, "bf16"),
        ("bf16", True, False, "fp16"),
        ("fp16", False, False, "fp32"),
        ("fp32", True, True, "fp32"),
    ],
)
def test_a_gpu_takes_half_precision_where_the_architecture_stands_it(
    dtype: str, half: bool, bfloat: bool, expected: str, models: Path
) -> None:
    on_gpu = Upscalers(Library(models), dtype, Placement("cuda", takes_turns=False))
    upscaler = on_gpu._load(on_gpu._library.find("upscalers", "double"))
    upscaler.descriptor.supports_half, upscaler.descriptor.supports_bfloat16 = half, bfloat
    assert on_gpu._number_format(upscaler) == expected
    on_cpu = Upscalers(Library(models), dtype, Placement("cpu", takes_turns=False))
    assert on_cpu._number_format(upscaler) == "fp32"
