from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL.Image import Image, Transpose

from darkroom.engine import Engine
from tests.fixtures.checkpoints import shrink_architecture
from tests.fixtures.controlnets import write_control
from tests.fixtures.loras import layers_of, lora_tensors, write_lora_file
from tests.fixtures.plain import make_marked_model, plain_pipeline
from tests.unit.engine.stages.pictures import file_of, noisy_picture

UNIONS = {"union": 6, "promax": 8}
"""Unions by name, with their number of types."""


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of few channels in a models folder, with the LoRA `strong`."""
    models = tmp_path_factory.mktemp("stages") / "models"
    architecture = shrink_architecture("darkroom-demo", models / "architecture")
    (models / "diffusers").mkdir()
    write_lora_file(models / "loras/strong.safetensors", lora_tensors(layers_of(architecture, "unet")))
    return make_marked_model(models / "diffusers", "small", {}, architecture)


@pytest.fixture(scope="session")
def small(small_model: Path) -> Iterator[Engine]:
    engine = Engine.load(small_model, device="cpu")
    yield engine
    engine.close()


@pytest.fixture
def picture() -> Image:
    """64 × 64 pixels, of which no two neighbours are alike."""
    return noisy_picture(64, 64)


@pytest.fixture(scope="session")
def controlnets(small_model: Path) -> Path:
    """The folder of the ControlNets that the engine finds by these names."""
    models = small_model.parent.parent
    folder = models / "controlnets"
    write_control(folder / "edges.safetensors", architecture=models / "architecture", seed=1)
    write_control(folder / "depths.safetensors", architecture=models / "architecture", layout="ldm", seed=2)
    write_control(folder / "plain-depths.safetensors", architecture=models / "architecture", seed=2)
    for name, types in UNIONS.items():
        write_control(folder / f"{name}.safetensors", architecture=models / "architecture", types=types, seed=3)
    return folder


@pytest.fixture
def guide() -> bytes:
    return file_of(noisy_picture(64, 64).transpose(Transpose.ROTATE_90))


@pytest.fixture(scope="module")
def plain(small_model: Path) -> Any:
    """The same model as diffusers loads it."""
    return plain_pipeline(small_model)
