"""ControlNet files: layouts are told by their keys, tensors are those of diffusers, and everything else is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darkroom import errors
from darkroom.checkpoint.architectures import ARCHITECTURES
from darkroom.controlnets import check_control_file, read_control_file
from darkroom.controlnets.control_layers import control_entries, find_layout, read_layers
from tests.fixtures.checkpoints import random_tensors, write_tensors
from tests.fixtures.controlnets import control_tensors, layers_for, write_control

HINTS = (16, 32, 96, 256)


def diffusers_model(kind: str, **config: Any) -> Any:
    """diffusers' own model for SDXL, without weights."""
    import torch
    from diffusers.models.controlnets import ControlNetModel, ControlNetUnionModel

    own = json.loads((ARCHITECTURES / "sdxl-base/unet/config.json").read_text())
    names = (
        "attention_head_dim",
        "block_out_channels",
        "down_block_types",
        "cross_attention_dim",
        "transformer_layers_per_block",
        "addition_embed_type",
        "addition_time_embed_dim",
        "projection_class_embeddings_input_dim",
        "use_linear_projection",
        "layers_per_block",
    )
    given = {name: own[name] for name in names} | {"conditioning_embedding_out_channels": HINTS} | config
    with torch.device("meta"):
        return (ControlNetUnionModel if kind == "union" else ControlNetModel)(**given)


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("single", {}),
        ("union", {"num_control_type": 6}),
        ("union", {"num_control_type": 8}),
        # The small ones at the Hub.
        (
            "single",
            {
                "down_block_types": ["DownBlock2D"] * 3,
                "mid_block_type": "UNetMidBlock2D",
                "transformer_layers_per_block": 1,
            },
        ),
    ],
)
def test_full_size_models_have_the_tensors_that_diffusers_makes(kind: str, config: dict[str, Any]) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in diffusers_model(kind, **config).state_dict().items()}
    layout = find_layout(expected)
    assert layout == "diffusers"
    layers = read_layers(expected, layout)
    assert {entry.name: entry.shape for entry in control_entries(layers)} == expected
    assert layers.types == config.get("num_control_type", 0) and layers.hint_channels == HINTS


def test_the_ldm_layout_becomes_what_diffusers_own_conversion_makes_of_it() -> None:
    from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint

    expected = diffusers_model("single")
    entries = control_entries(
        read_layers({name: tuple(t.shape) for name, t in expected.state_dict().items()}, "diffusers")
    )
    ldm = {f"control_model.{entry.source}": entry.name for entry in entries}
    config = {**expected.config, "class_embed_type": None}
    made = convert_controlnet_checkpoint(dict(ldm), config)
    shared = [entry.name for entry in entries if not entry.name.startswith("add_embedding.")]  # which it leaves out
    assert made == {name: name for name in shared}


@pytest.mark.parametrize("types", [0, 6, 8])
@pytest.mark.parametrize("layout", ["diffusers", "ldm"])
def test_both_layouts_give_the_same_numbers(types: int, layout: str, tmp_path: Path) -> None:
    wanted = control_tensors(types=types)
    path = write_control(tmp_path / "x.safetensors", types=types, layout=layout, dtype="F32")
    check_control_file(path, "x")
    found = read_control_file(path, "x")
    assert found.layout == layout and found.layers.types == types
    assert found.layers.unet.down_transformers == layers_for(types=types).unet.down_transformers
    data = path.read_bytes()[found.data_offset :]
    for name, info in found.tensors.items():
        values = np.frombuffer(data[info.start : info.end], np.float32).reshape(found.shapes[name])
        assert np.array_equal(values, wanted[name]), name


def for_another_family(width: int) -> dict[str, Any]:
    """A ControlNet without SDXL's embedding of sizes, whose text has that width."""
    return {
        key: np.zeros((len(value), width), np.float32) if key.endswith("attn2.to_k.weight") else value
        for key, value in control_tensors().items()
        if not key.startswith("add_embedding")
    }


ONE = np.zeros((4, 4), np.float32)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: {"lora_controlnet": ONE, **control_tensors()}, "is a Control-LoRA"),
        (lambda: {"lllite_unet_input_blocks.0.down.0.weight": ONE}, "is a ControlNet-LLLite"),
        (lambda: for_another_family(768), "is for Stable Diffusion 1.x, not for SDXL"),
        (lambda: for_another_family(1024), "is for Stable Diffusion 2.x, not for SDXL"),
        (lambda: {"adapter.body.0.resnets.0.block1.weight": ONE}, "is a T2I-Adapter, not a ControlNet"),
        (
            lambda: {"lora_unet_a.lora_down.weight": ONE, "lora_unet_a.lora_up.weight": ONE},
            "is a LoRA, not a ControlNet",
        ),
        (random_tensors, "is of no kind that Darkroom knows, not a ControlNet"),
    ],
)
def test_other_kinds_are_refused_by_name(make: Callable[[], dict[str, Any]], why: str, tmp_path: Path) -> None:
    with pytest.raises(errors.ControlError) as caught:
        read_control_file(write_tensors(tmp_path / "x.safetensors", make()), "mine")
    assert str(caught.value).startswith(f"E-CONTROL ControlNet 'mine': {why}")


def broken(change: str) -> dict[str, Any]:
    tensors = control_tensors()
    name = "controlnet_down_blocks.1.weight"
    if change == "missing":
        del tensors[name]
    elif change == "left over":
        tensors["controlnet_down_blocks.99.weight"] = tensors[name]
    elif change == "shape":
        tensors[name] = tensors[name][:2]
    else:
        tensors[name][0, 0] = np.nan
    return tensors


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ("missing", "E-KEYS ControlNet 'mine': 1 tensor (controlnet_down_blocks.1.weight) missing"),
        ("left over", "E-KEYS ControlNet 'mine': 1 tensor (controlnet_down_blocks.99.weight) left over"),
        ("shape", "E-KEYS ControlNet 'mine': the tensor 'controlnet_down_blocks.1.weight' is [2, "),
        ("nan", "E-NANWEIGHT tensor 'controlnet_down_blocks.1.weight': the ControlNet mine holds NaN or Inf there"),
    ],
)
def test_broken_files_are_refused(change: str, error: str, tmp_path: Path) -> None:
    with pytest.raises(errors.CheckpointError) as caught:
        check_control_file(write_tensors(tmp_path / "x.safetensors", broken(change)), "mine")
    assert str(caught.value).startswith(error)
