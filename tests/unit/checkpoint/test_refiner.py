"""SDXL's refiner: converted from a single file as diffusers does it, and taken as the folder that diffusers saves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from darkroom import errors
from darkroom.checkpoint import convert, verify_model
from darkroom.checkpoint.architectures import detect, load_architecture
from darkroom.checkpoint.header import Header, TensorInfo
from darkroom.checkpoint.weights import weight_path
from tests.fixtures.checkpoints import REFINER, shrink_architecture, write_random_checkpoint
from tests.fixtures.folders import set_in

COMPONENTS = ("unet", "vae", "text_encoder_2")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small refiner in the original layout, and its architecture."""
    folder = tmp_path_factory.mktemp("refiner")
    architecture = shrink_architecture(REFINER, folder / "architecture")
    return write_random_checkpoint(folder / "refiner.safetensors", architecture, seed=4), architecture


@pytest.fixture(scope="module")
def model(source: tuple[Path, Path]) -> Path:
    file, architecture = source
    convert(file, file.parent / "model", architecture=str(architecture))
    return file.parent / "model"


def same_bits(folder: Path, component: str, theirs: dict[str, Any]) -> None:
    import torch
    from safetensors.torch import load_file

    ours = load_file(folder / weight_path(component, "fp16"))
    expected = {name: tensor for name, tensor in theirs.items() if not name.endswith("position_ids")}
    assert ours.keys() == expected.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor.view(torch.int16), expected[name].contiguous().view(torch.int16)), name


def test_a_file_with_the_refiners_keys_is_one_whatever_its_projection_looks_like() -> None:
    shapes = load_architecture(REFINER).source_shapes()
    assert "conditioner.embedders.0.model.transformer.resblocks.9.mlp.c_proj.bias" in shapes
    shapes["conditioner.embedders.0.model.text_projection.weight"] = shapes.pop(
        "conditioner.embedders.0.model.text_projection"
    )
    tensors = {name: TensorInfo("F16", shape, 0, 2) for name, shape in shapes.items()}
    found = detect(Header(tensors, {}, 8, 8))
    assert (found.name, found.reason.split(" of ")[0]) == (REFINER, str(len(shapes)))


def test_it_is_converted_as_diffusers_does_it(
    source: tuple[Path, Path], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from diffusers import StableDiffusionXLImg2ImgPipeline

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert not (model / "text_encoder").exists()
    assert not (model / "tokenizer").exists()
    pipeline = StableDiffusionXLImg2ImgPipeline.from_single_file(
        str(source[0]), config=str(model), torch_dtype=torch.float16, local_files_only=True
    )
    assert (pipeline.text_encoder, pipeline.tokenizer) == (None, None)
    for component in COMPONENTS:
        same_bits(model, component, getattr(pipeline, component).state_dict())


def test_the_folder_that_diffusers_saves_is_taken_as_it_is(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from diffusers import StableDiffusionXLImg2ImgPipeline

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    options = {"variant": "fp16", "dtype": torch.float16, "local_files_only": True}
    theirs = StableDiffusionXLImg2ImgPipeline.from_pretrained(model, **options)
    assert theirs.config.requires_aesthetics_score
    theirs.save_pretrained(tmp_path / "theirs", variant="fp16", max_shard_size="2MB")
    assert verify_model(tmp_path / "theirs").architecture == "custom"
    convert(tmp_path / "theirs", tmp_path / "ours")
    again = StableDiffusionXLImg2ImgPipeline.from_pretrained(tmp_path / "ours", **options)
    for component in COMPONENTS:
        one, other = (getattr(each, component).state_dict() for each in (theirs, again))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one), component


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("requires_aesthetics_score", False, "is not SDXL's refiner but a model for pictures made of pictures"),
        ("text_encoder", ["transformers", "CLIPTextModel"], "is not a part of SDXL's refiner"),
        ("tokenizer", ["transformers", "CLIPTokenizer"], "is not a part of SDXL's refiner"),
        ("text_encoder_2", [None, None], "only CLIPTextModelWithProjection of transformers can stand here"),
        ("_class_name", "StableDiffusionXLPipeline", "text_encoder"),
    ],
)
def test_a_folder_that_is_half_a_refiner_is_refused(
    model: Path, tmp_path: Path, key: str, value: object, why: str
) -> None:
    import shutil

    shutil.copytree(model, tmp_path / "model")
    set_in("model_index.json", key, value)(tmp_path / "model")
    with pytest.raises((errors.IndexFileError, errors.ModelError), match=why):
        verify_model(tmp_path / "model")
