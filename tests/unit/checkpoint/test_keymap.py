"""The key map against the models that diffusers and transformers build from the same configs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from darkroom import errors
from darkroom.checkpoint import convert
from darkroom.checkpoint.architectures import ARCHITECTURES, architecture_names, expected_tensors, load_architecture
from darkroom.checkpoint.header import Shape
from darkroom.checkpoint.keymap import COMPONENTS, component_entries
from darkroom.checkpoint.weights import weight_path
from tests.fixtures.checkpoints import shrink_architecture, write_random_checkpoint

SDXL_UNET = json.loads((ARCHITECTURES / "sdxl-base/unet/config.json").read_text())
DEPTHS = "transformer_layers_per_block"


def build(component: str, config: dict[str, Any]) -> Any:
    """The module that the pipeline has for a component, without memory for its numbers."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    with torch.device("meta"):
        if component == "text_encoder":
            return CLIPTextModel(CLIPTextConfig(**config))
        if component == "text_encoder_2":
            return CLIPTextModelWithProjection(CLIPTextConfig(**config))
        return {"unet": UNet2DConditionModel, "vae": AutoencoderKL}[component].from_config(config)


def classic(component: str, state: dict[str, Any]) -> dict[str, Any]:
    """Newer transformers leave `text_model.` out of the first text encoder's names."""
    if component != "text_encoder":
        return state
    return {f"text_model.{name.removeprefix('text_model.')}": value for name, value in state.items()}


def shapes_in(component: str, config: dict[str, Any]) -> dict[str, Shape]:
    state = classic(component, build(component, config).state_dict())
    return {name: tuple(tensor.shape) for name, tensor in state.items() if not name.endswith("position_ids")}


def shapes_here(component: str, config: dict[str, Any]) -> dict[str, Shape]:
    return {entry.name: entry.shape for entry in component_entries(component, config)}


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize("name", architecture_names())
def test_every_architecture_has_the_tensors_of_the_libraries_own_models(name: str, component: str) -> None:
    config = load_architecture(name).configs.components.get(component)
    if config is None:
        assert (name, component) == ("sdxl-refiner", "text_encoder")
        return
    assert shapes_here(component, config) == shapes_in(component, config)


@pytest.mark.parametrize(
    "changes",
    [
        {"mid_block_type": None, "layers_per_block": 1, DEPTHS: [1, 2, 5]},
        {DEPTHS: 3},
        {DEPTHS: [[1, 1], [1, 2], [3, 4]], f"reverse_{DEPTHS}": [[5, 6, 7], 2, [1]]},
        {DEPTHS: [1, 2, 3], f"reverse_{DEPTHS}": [3, 2, 4]},
        {DEPTHS: [0, 1, 0]},
    ],
)
def test_uneven_unets_have_the_tensors_that_diffusers_gives_them(changes: dict[str, Any]) -> None:
    config = SDXL_UNET | changes
    assert shapes_here("unet", config) == shapes_in("unet", config)


@pytest.mark.parametrize(
    ("name", "unet", "published_bytes"),
    [
        ("sdxl-base", 2_567_463_684, 6_938_040_706),
        ("ssd-1b", 1_331_334_404, 4_465_671_506),
        ("segmind-vega", 745_225_604, 3_293_395_670),
        ("sdxl-refiner", 2_259_526_660, 6_075_981_930),
    ],
)
def test_architectures_are_as_large_as_the_published_models(name: str, unet: int, published_bytes: int) -> None:
    counts = {
        component: sum(math.prod(shape) for shape in shapes.values())
        for component, shapes in expected_tensors(load_architecture(name)).items()
    }
    assert counts["unet"] == unet
    # The published fp16 files hold a header besides, and a few tensors that no component has.
    assert 0 < published_bytes - 2 * sum(counts.values()) < 400_000


@pytest.mark.parametrize("name", ["ssd-1b", "segmind-vega"])
def test_distilled_checkpoints_are_converted_as_diffusers_does(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from diffusers import StableDiffusionXLPipeline
    from safetensors.torch import load_file

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = shrink_architecture(name, tmp_path / "small")
    source = write_random_checkpoint(tmp_path / "c.safetensors", folder, seed=5)
    model = tmp_path / "model"
    assert convert(source, model, architecture=str(folder)).architecture == "small"
    pipeline = StableDiffusionXLPipeline.from_single_file(
        str(source), config=str(model), torch_dtype=torch.float16, local_files_only=True
    )
    for component in COMPONENTS:
        theirs = classic(component, getattr(pipeline, component).state_dict())
        ours = load_file(model / weight_path(component, "fp16"))
        assert set(ours) == {key for key in theirs if not key.endswith("position_ids")}
        for key, tensor in ours.items():
            assert torch.equal(tensor.view(torch.int16), theirs[key].contiguous().view(torch.int16)), (component, key)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({DEPTHS: [1, [2, 2], [4, 4]]}, f"need reverse_{DEPTHS}"),
        ({DEPTHS: [1, 2, [4]], f"reverse_{DEPTHS}": [4, 2, 1]}, "must have one number for each layer"),
        ({DEPTHS: [1, 2, 4], f"reverse_{DEPTHS}": [[4, 4], 2, 1]}, "must have one number for each layer"),
        ({DEPTHS: [1, 2, 4], f"reverse_{DEPTHS}": [4, 2]}, "differ in length"),
        ({DEPTHS: [1, 2, []], f"reverse_{DEPTHS}": [4, 2, 1]}, f"{DEPTHS} .*: must be numbers from 0 to 256"),
        ({DEPTHS: [1, 2, "4"]}, f"{DEPTHS} .*: must be numbers from 0 to 256"),
        ({DEPTHS: 257}, "must be numbers from 0 to 256"),
        ({DEPTHS: 256, "layers_per_block": 256}, "more than 2048 transformer layers"),
        ({"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"}, "Input should be"),
    ],
)
def test_a_unet_config_that_cannot_be_is_refused_by_the_field(
    changes: dict[str, Any], why: str, tmp_path: Path
) -> None:
    folder = shrink_architecture("sdxl-base", tmp_path / "odd")
    config = folder / "unet/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    with pytest.raises(errors.IndexFileError, match=f"unet/config.json.*{why}"):
        load_architecture(folder)
