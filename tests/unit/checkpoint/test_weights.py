"""Weights in shards: what their index must say, and the one view of all of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from darkroom import errors
from darkroom.checkpoint.header import read_header
from darkroom.checkpoint.weights import find_variant, index_path, read_weights, weight_files, weight_path
from tests.fixtures.folders import UNET, edit_json, read_pieces, shard, write_pieces

INDEX = "unet/diffusion_pytorch_model.safetensors.index.fp16.json"


def test_names_are_those_that_diffusers_and_transformers_save(model: Path) -> None:
    shard(model, "unet", count=2)
    assert index_path("unet", None) == "unet/diffusion_pytorch_model.safetensors.index.json"
    assert index_path("text_encoder", "fp16") == "text_encoder/model.safetensors.index.fp16.json"
    assert weight_files(model, "unet", "fp16") == [
        INDEX,
        "unet/diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
        "unet/diffusion_pytorch_model.fp16-00002-of-00002.safetensors",
    ]
    assert weight_files(model, "vae", "fp16") == [weight_path("vae", "fp16")]
    assert find_variant(model) == "fp16"


def test_the_shards_together_are_the_whole(model: Path) -> None:
    whole = read_header(model / UNET).tensors
    weight_map = shard(model, "unet")
    tensors = read_weights(model, "unet", "fp16").tensors
    assert {name: (placed.info.dtype, placed.info.shape) for name, placed in tensors.items()} == {
        name: (info.dtype, info.shape) for name, info in whole.items()
    }
    assert {name: Path(placed.file).name for name, placed in tensors.items()} == weight_map


@pytest.fixture
def sharded(model: Path) -> Path:
    shard(model, "unet")
    return model


@pytest.mark.parametrize(
    "name",
    [
        "../vae/diffusion_pytorch_model.fp16.safetensors",
        "/etc/passwd.safetensors",
        "sub/x.safetensors",
        "C:\\x.safetensors",
        "..",
        ".hidden.safetensors",
        "config.json",
        "gone.safetensors",
        "x\0.safetensors",
        "",
        7,
        None,
    ],
)
def test_a_shard_that_is_no_weight_file_of_the_folder_is_refused(name: Any, sharded: Path) -> None:
    edit_json(sharded / INDEX, lambda data: data["weight_map"].update({"conv_in.bias": name}))
    with pytest.raises(errors.IndexFileError) as raised:
        read_weights(sharded, "unet", "fp16")
    assert f"{INDEX}: weight_map: conv_in.bias" in str(raised.value)


def test_a_tensor_in_another_shard_than_the_index_says_is_refused(sharded: Path) -> None:
    names = json.loads((sharded / INDEX).read_text())["weight_map"]
    other = next(shard for shard in names.values() if shard != names["conv_in.bias"])
    edit_json(sharded / INDEX, lambda data: data["weight_map"].update({"conv_in.bias": other}))
    with pytest.raises(errors.IndexFileError, match=rf"weight_map: conv_in\.bias 'unet/{other}': does not hold"):
        read_weights(sharded, "unet", "fp16")


def test_a_tensor_that_two_shards_hold_is_refused(sharded: Path) -> None:
    first, second = (sharded / path for path in weight_files(sharded, "unet", "fp16")[1:3])
    twice = read_pieces(first)[0]
    write_pieces(second, [*read_pieces(second), twice])
    with pytest.raises(errors.IndexFileError, match=f"weight_map: {twice[0]} '.*but .* holds that tensor"):
        read_weights(sharded, "unet", "fp16")


def test_a_tensor_that_the_index_does_not_list_is_refused(sharded: Path) -> None:
    edit_json(sharded / INDEX, lambda data: data["weight_map"].pop("conv_in.bias"))
    with pytest.raises(errors.IndexFileError, match=r"weight_map: conv_in\.bias 'nothing': but"):
        read_weights(sharded, "unet", "fp16")


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"metadata": {}}', '{"metadata": {}, "weight_map": []}'])
def test_an_index_that_is_none_is_refused(content: str, sharded: Path) -> None:
    (sharded / INDEX).write_text(content)
    with pytest.raises(errors.IndexFileError, match=INDEX):
        read_weights(sharded, "unet", "fp16")


def test_whole_weights_beside_an_index_are_refused_since_loaders_differ_on_them(sharded: Path) -> None:
    write_pieces(sharded / UNET, [])
    with pytest.raises(errors.IndexFileError, match="is beside it"):
        read_weights(sharded, "unet", "fp16")


def test_a_damaged_shard_is_named(sharded: Path) -> None:
    second = weight_files(sharded, "unet", "fp16")[2]
    (sharded / second).write_bytes((sharded / second).read_bytes()[:-1])
    with pytest.raises(errors.FormatError, match=f"{second}.*truncated"):
        read_weights(sharded, "unet", "fp16")
