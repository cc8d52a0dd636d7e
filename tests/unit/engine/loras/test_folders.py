"""Base weights are read from folders of all forms, in all number formats, and are those that were loaded."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from darkroom.engine.loras import LoraWeights
from darkroom.loras import LoraFile
from tests.fixtures.folders import flatten_names, shard, without_infix
from tests.fixtures.tiers import full_except
from tests.unit.engine.loras.states import LAYERS, State, changed, load, state, weight_files


@pytest.mark.parametrize("dtype", full_except(["fp16"], ["fp16", "bf16"]))
def test_sums_are_rounded_once_to_the_pipelines_format(
    model_dir: Path, tmp_path: Path, three: list[LoraFile], fresh: State, dtype: str
) -> None:
    """Hence the sum of half-precision steps would not do; and the weights go back to the loaded bits."""
    half, full = load(model_dir, dtype), load(model_dir)
    before = state(half)
    choice = [(lora, 0.3, 0.9) for lora in three]
    weights = LoraWeights(half, weight_files(model_dir))
    weights.use(choice)
    LoraWeights(full, weight_files(model_dir)).use(choice)
    assert not changed(state(half), {p: t.to(before[p].dtype) for p, t in state(full).items()})
    weights.use([])
    assert not changed(state(half), before)


def fp32_weights(model: Path) -> None:
    """Other numbers in a format of which the pipeline's is a rounding."""
    import torch
    from safetensors.torch import load_file, save_file

    for path in model.rglob("*.safetensors"):
        generator = torch.Generator().manual_seed(0)
        tensors = {
            name: tensor.float() * (1 + 1e-4 * torch.rand(tensor.shape, generator=generator))
            for name, tensor in load_file(path).items()
        }
        save_file(tensors, path, metadata={"format": "pt"})


FOLDERS: dict[str, Callable[[Path], object]] = {
    "in shards": lambda model: [shard(model, part) for part in ("unet", "text_encoder", "text_encoder_2")],
    "without infix": without_infix,
    "flattened names": lambda model: [
        flatten_names(model / f"text_encoder{i}/model.fp16.safetensors") for i in ("", "_2")
    ],
    "in fp32": fp32_weights,
}


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("dtype", full_except(["fp16"], ["fp32", "fp16"]))
def test_folders_of_all_forms(model_dir: Path, tmp_path: Path, three: list[LoraFile], folder: str, dtype: str) -> None:
    model = shutil.copytree(model_dir, tmp_path / "model")
    FOLDERS[folder](model)
    pipeline = load(model, dtype)
    before = state(pipeline)
    weights = LoraWeights(pipeline, weight_files(model))
    weights.use([(lora, 0.5, 0.5) for lora in three])
    if folder != "in fp32":
        plain = load(model_dir, dtype)
        LoraWeights(plain, weight_files(model_dir)).use([(lora, 0.5, 0.5) for lora in three])
        assert not changed(state(pipeline), state(plain))
    assert len(changed(state(pipeline), before)) > len(LAYERS) // 2
    weights.use([])
    assert not changed(state(pipeline), before)


def test_a_model_replaced_by_another_folder_goes_on_with_the_one_that_was_loaded(
    model_dir: Path, tmp_path: Path, three: list[LoraFile], fresh: State
) -> None:
    model = shutil.copytree(model_dir, tmp_path / "model")
    pipeline = load(model)
    weights = LoraWeights(pipeline, weight_files(model))
    other = shutil.copytree(model_dir, tmp_path / "other")
    fp32_weights(other)
    model.rename(tmp_path / "gone")
    other.rename(model)
    shutil.rmtree(tmp_path / "gone")
    weights.use([(lora, 1.0, 1.0) for lora in three])
    assert changed(state(pipeline), fresh)
    weights.use([])
    assert not changed(state(pipeline), fresh)
