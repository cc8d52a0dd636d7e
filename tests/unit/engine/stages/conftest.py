from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL.Image import Image

from darkroom.engine import Engine
from tests.fixtures.checkpoints import shrink_architecture
from tests.fixtures.loras import layers_of, lora_tensors, write_lora_file
from tests.fixtures.plain import make_marked_model
from tests.unit.engine.stages.pictures import noisy_picture


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
