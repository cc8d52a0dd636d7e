"""Every number of a loaded model is the checkpoint's own: none random, none made up, none left on "meta".

Models are loaded while whatever PyTorch would draw at random, or leave as it finds it in memory, becomes NaN instead.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darkroom.checkpoint import convert
from darkroom.checkpoint.architectures import architecture_names, load_architecture
from darkroom.checkpoint.keymap import COMPONENTS, Entry
from darkroom.checkpoint.weights import weight_path
from darkroom.engine.load import load_pipeline, prepare
from darkroom.engine.memory import decide
from darkroom.engine.weights import WeightFiles
from darkroom.errors import KeysError
from tests.fixtures.checkpoints import extra_tensors, random_tensors, shrink_architecture, write_tensors
from tests.fixtures.tiers import full_except

DROPPED = {
    "unet": "mid_block.resnets.0.norm1.weight",
    "vae": "decoder.conv_norm_out.bias",
    "text_encoder": "text_model.final_layer_norm.weight",
    "text_encoder_2": "text_model.embeddings.token_embedding.weight",
}


@dataclass(frozen=True)
class Converted:
    """A converted folder, and the checkpoint's numbers by component and by their names in the folder."""

    folder: Path
    numbers: dict[str, dict[str, np.ndarray[Any, Any]]]


def numbers_of(tensors: dict[str, np.ndarray[Any, Any]], entry: Entry) -> np.ndarray[Any, Any]:
    """A tensor of the folder, worked out from the checkpoint's: a slice of rows, or rows and columns exchanged."""
    values = tensors[entry.source].astype(np.float16)
    if entry.transposed:
        return values.T
    if values.ndim == len(entry.shape) and values.shape[0] > entry.shape[0]:
        values = values[entry.source_row : entry.source_row + entry.shape[0]]
    return values.reshape(entry.shape)


@pytest.fixture(scope="module", params=full_except(["darkroom-demo", "sdxl-base"], architecture_names()))
def converted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Converted:
    """A small model of the structure that each architecture has."""
    folder = tmp_path_factory.mktemp(request.param)
    small = shrink_architecture(request.param, folder / "architecture")
    tensors = random_tensors(small)
    source = write_tensors(folder / "c.safetensors", tensors | extra_tensors())
    convert(source, folder / "model", architecture=str(small))
    entries = load_architecture(small).entries
    return Converted(
        folder / "model",
        {name: {entry.name: numbers_of(tensors, entry) for entry in found} for name, found in entries.items()},
    )


@contextmanager
def poisoned() -> Iterator[None]:
    """What is drawn at random, or not written at all, is NaN, or the largest number of an integer format."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Poison(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            random = torch.Tag.nondeterministic_seeded in func.tags
            if (random or "empty" in func.__name__) and isinstance(result, torch.Tensor) and not result.is_meta:
                whole = not result.is_floating_point()
                result.fill_(torch.iinfo(result.dtype).max if whole else float("nan"))
            return result

    with Poison():
        yield


def drop_tensor(path: Path, name: str) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    del tensors[name]
    save_file(tensors, path, metadata={"format": "pt"})


def load_ours(folder: Path) -> Any:
    return load_pipeline(WeightFiles(prepare(folder)), "cpu", "fp32", decide("cpu", 0, "auto"))


def load_plainly(folder: Path) -> Any:
    from diffusers import DiffusionPipeline

    return DiffusionPipeline.from_pretrained(folder, variant="fp16", local_files_only=True)


def assert_nothing_made_up(pipeline: Any, numbers: dict[str, dict[str, np.ndarray[Any, Any]]]) -> None:
    import torch

    for component, expected in numbers.items():
        part = getattr(pipeline, component)
        found = {name.removeprefix("text_model."): parameter for name, parameter in part.named_parameters()}
        stored = {name.removeprefix("text_model."): values for name, values in expected.items()}
        assert set(found) == set(stored), component
        for name, values in stored.items():
            assert not found[name].is_meta, (component, name)
            assert np.array_equal(found[name].float().numpy(), values.astype(np.float32)), (component, name)
        # Buffers are constants that a class works out itself, in the files or not.
        fresh = type(part).from_config(part.config) if hasattr(part, "from_config") else type(part)(part.config)
        constants = dict(fresh.named_buffers())
        buffers = dict(part.named_buffers())
        assert set(buffers) == set(constants), component
        for name, buffer in buffers.items():
            assert not buffer.is_meta and torch.equal(buffer, constants[name]), (component, name)


@pytest.mark.parametrize("load", [load_ours, load_plainly])
def test_every_number_is_the_checkpoints(converted: Converted, load: Callable[[Path], Any]) -> None:
    with poisoned():
        pipeline = load(converted.folder)
    for component in converted.numbers:
        getattr(pipeline, component).requires_grad_(False)
    assert_nothing_made_up(pipeline, converted.numbers)


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_dropped_tensor_is_an_error_and_never_made_up(converted: Converted, tmp_path: Path, component: str) -> None:
    if component not in converted.numbers:
        assert component == "text_encoder"  # which the refiner doesn't have
        return
    broken = shutil.copytree(converted.folder, tmp_path / "model")
    drop_tensor(broken / weight_path(component, "fp16"), DROPPED[component])
    words = rf"E-KEYS .*{DROPPED[component].removeprefix('text_model.')}"
    with pytest.raises(KeysError, match=words):
        prepare(broken)
    model = prepare(converted.folder)
    (header,) = model.weights[component].headers.values()
    del header.tensors[DROPPED[component]]
    with poisoned(), pytest.raises(KeysError, match=words):
        load_pipeline(WeightFiles(model), "cpu", "fp32", decide("cpu", 0, "auto"))


def test_a_loader_that_makes_up_a_tensor_would_be_caught(converted: Converted, tmp_path: Path) -> None:
    """Plain transformers fills in what is missing: the comparison above sees it, and the poison reaches it."""
    from transformers import CLIPTextModelWithProjection

    broken = shutil.copytree(converted.folder / "text_encoder_2", tmp_path / "text_encoder_2")
    drop_tensor(broken / "model.fp16.safetensors", "text_projection.weight")
    with poisoned():
        model = CLIPTextModelWithProjection.from_pretrained(broken, variant="fp16", local_files_only=True)
    assert model.requires_grad_(False).text_projection.weight.isnan().all()

    class Pipeline:
        text_encoder_2 = model

    with pytest.raises(AssertionError, match=r"text_projection\.weight"):
        assert_nothing_made_up(Pipeline(), {"text_encoder_2": converted.numbers["text_encoder_2"]})
