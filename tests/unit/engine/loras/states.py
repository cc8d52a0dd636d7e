"""The weights of a pipeline's parts, to be compared bit by bit, and small LoRAs for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from darkroom.engine.load import load_pipeline, prepare
from darkroom.engine.memory import decide
from darkroom.engine.weights import WeightFiles
from darkroom.loras import LoraFile, read_lora
from tests.fixtures.loras import Tensors, layers_of, write_lora_file

LAYERS = layers_of("darkroom-demo")
UNET_LAYERS = [layer for layer in LAYERS if layer.component == "unet"]
State = dict[tuple[str, str], Any]


def load(model_dir: Path, dtype: str = "fp32") -> Any:
    return load_pipeline(weight_files(model_dir), "cpu", dtype, decide("cpu", 0, "auto"))


def weight_files(model_dir: Path) -> WeightFiles:
    return WeightFiles(prepare(model_dir))


def state(pipeline: Any) -> State:
    """Every parameter of the parts that LoRAs change, copied."""
    return {
        (component, name): tensor.clone()
        for component in ("unet", "text_encoder", "text_encoder_2")
        for name, tensor in getattr(pipeline, component).named_parameters()
    }


def changed(found: State, expected: State) -> set[tuple[str, str]]:
    """Which tensors differ in a single bit."""
    assert found.keys() == expected.keys()
    return {place for place, tensor in found.items() if not bits(tensor).equal(bits(expected[place]))}


def bits(tensor: Any) -> Any:
    import torch

    return tensor.view(torch.int32 if tensor.element_size() == 4 else torch.int16)


def make(folder: Path, name: str, tensors: Tensors, **options: Any) -> LoraFile:
    return read_lora(write_lora_file(folder / f"{name}.safetensors", tensors, **options), name)
