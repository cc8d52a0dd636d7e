"""Which files are upscalers, and what is said of those that aren't."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from darkroom import errors
from darkroom.upscalers import load_upscaler, pickle_hint
from darkroom.upscalers.spandrel_library import import_spandrel
from tests.fixtures.upscalers import Tensors, compact, convolution, esrgan, write_upscaler


@pytest.mark.parametrize(
    ("tensors", "architecture", "scale", "context"),
    [
        (compact(scale=2, layers=3), "RealESRGAN Compact", 2, 5),
        (compact(scale=4, layers=20), "RealESRGAN Compact", 4, 16),
        (esrgan(scale=4), "ESRGAN", 4, 16),
        ({f"module.{name}": tensor for name, tensor in compact().items()}, "RealESRGAN Compact", 2, 4),
    ],
)
def test_an_upscaler_is_known_by_its_tensors(
    tensors: Tensors, architecture: str, scale: int, context: int, tmp_path: Path
) -> None:
    found = load_upscaler(write_upscaler(tmp_path / "x.safetensors", tensors), "x")
    assert (found.architecture, found.scale, found.context) == (architecture, scale, context)


def grayscale() -> Tensors:
    return compact(channels=1)


def same_size() -> Tensors:
    return compact(scale=1)


def another_shape() -> Tensors:
    return compact() | {"body.2.bias": np.zeros(9, dtype=np.float32)}


def without_a_part() -> Tensors:
    tensors = esrgan()
    del tensors["body.0.rdb2.conv3.weight"]
    return tensors


def lora() -> Tensors:
    return {f"lora_unet_x.lora_{part}.weight": np.zeros((4, 4), dtype=np.float32) for part in ("up", "down")}


def a_layer() -> Tensors:
    return convolution(np.random.default_rng(0), "layer", 3, 3)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (grayscale, "makes 1 channels of 1, not RGB of RGB"),
        (same_size, "enlarges 1 times (RealESRGAN Compact)"),
        (another_shape, "don't fit the architecture"),
        (without_a_part, "don't fit the architecture"),
        (lora, "is a LoRA"),
        (a_layer, "is of no architecture that spandrel knows"),
    ],
)
def test_what_is_no_upscaler_of_pictures_is_refused(make: Callable[[], Tensors], why: str, tmp_path: Path) -> None:
    path = write_upscaler(tmp_path / "x.safetensors", make())
    with pytest.raises(errors.UpscalerError) as caught:
        load_upscaler(path, "mine")
    assert why in str(caught.value) and "E-UPSCALER upscaler 'mine'" in str(caught.value) and caught.value.hint


def test_a_number_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    tensors = compact()
    tensors["body.0.bias"][1] = np.nan
    with pytest.raises(errors.NanWeightError, match=r"body\.0\.bias"):
        load_upscaler(write_upscaler(tmp_path / "x.safetensors", tensors), "mine")


def test_a_cut_file_is_refused_as_an_upscaler(tmp_path: Path) -> None:
    path = write_upscaler(tmp_path / "x.safetensors")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(errors.FormatError, match="E-FORMAT upscaler 'mine'"):
        load_upscaler(path, "mine")


@pytest.mark.parametrize("wrap", ["params_ema", "params", ""])
@pytest.mark.parametrize("name", ["4x real.pth", "4x'real.pth"])
def test_the_hint_about_a_pickle_is_a_command_that_works(wrap: str, name: str, tmp_path: Path) -> None:
    weights = {key: torch.from_numpy(value) for key, value in compact().items()}
    torch.save({wrap: weights} if wrap else weights, tmp_path / name)
    with pytest.raises(errors.PickleError) as caught:
        load_upscaler(tmp_path / name, "mine")
    command = caught.value.hint.partition(": ")[2].replace("python", sys.executable, 1)
    assert command
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    assert load_upscaler((tmp_path / name).with_suffix(".safetensors"), "mine").scale == 2


def test_the_command_runs_no_code_of_a_pickle(tmp_path: Path) -> None:
    class Bad:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

    data = io.BytesIO()
    torch.save({"params": Bad()}, data)
    (tmp_path / "bad.pth").write_bytes(data.getvalue())
    command = pickle_hint("bad.pth").partition(": ")[2].replace("python", sys.executable, 1)
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode and "weights_only" in done.stderr.lower()
    assert not (tmp_path / "ran").exists()


def test_a_stand_in_for_torchvision_does_not_stay() -> None:
    """transformers asks whether it is there, and would fail at its first use."""
    code = (
        "import sys; from darkroom.upscalers.spandrel_library import import_spandrel as f; "
        "assert f().MAIN_REGISTRY.get('LaMa'); print([m for m in sys.modules if m.startswith('torchvision')])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    try:
        import torchvision  # noqa: F401
    except ImportError:
        assert done.stdout.strip() == "[]"


def test_spandrels_restricted_architectures_are_not_asked() -> None:
    assert import_spandrel().ModelLoader().registry is import_spandrel().MAIN_REGISTRY
    assert "spandrel_extra_arches" not in sys.modules
