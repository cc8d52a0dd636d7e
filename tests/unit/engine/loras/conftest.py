from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from darkroom.engine.loras import LoraWeights
from darkroom.loras import LoraFile
from tests.fixtures.loras import lora_tensors
from tests.unit.engine.loras.states import LAYERS, State, load, make, state, weight_files


@pytest.fixture(scope="session")
def pipeline(model_dir: Path) -> Any:
    """One that all tests share; `weights` puts it back."""
    return load(model_dir)


@pytest.fixture(scope="session")
def fresh(model_dir: Path) -> State:
    """The weights as they are loaded."""
    return state(load(model_dir))


@pytest.fixture
def weights(pipeline: Any, model_dir: Path) -> Iterator[LoraWeights]:
    weights = LoraWeights(pipeline, weight_files(model_dir))
    yield weights
    weights.use([])


@pytest.fixture
def three(tmp_path: Path) -> list[LoraFile]:
    """LoRAs of which each two share some layers."""
    parts = (LAYERS[::2], LAYERS[::3], LAYERS[::5])
    return [make(tmp_path, f"lora{i}", lora_tensors(layers, seed=i)) for i, layers in enumerate(parts)]
