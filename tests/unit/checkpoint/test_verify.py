"""Verification of a model folder: completeness, weights, receipts and the cheap check."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from darkroom import errors
from darkroom.checkpoint import VerifiedReceipt, check_receipt, convert, verify_model
from darkroom.checkpoint.header import TensorInfo
from darkroom.checkpoint.weights import weight_path
from tests.fixtures.checkpoints import write_random_checkpoint
from tests.fixtures.folders import (
    TEXT,
    UNET,
    Change,
    Piece,
    flatten_names,
    flip_byte,
    read_pieces,
    remove,
    rewrite,
    set_in,
    shard,
    truncate,
    without_infix,
    write_nan,
    write_pieces,
)


def test_a_receipt_identifies_the_model(made: Path) -> None:
    receipt = verify_model(made / "tiny")
    assert (receipt.architecture, receipt.dtype, receipt.variant) == ("darkroom-demo", "fp16", "fp16")
    assert receipt.autov2 == (receipt.source_sha256 or "")[:10] != ""
    assert receipt.files[UNET].size == (made / "tiny" / UNET).stat().st_size
    assert len(receipt.digest or "") == 64


def test_the_same_bytes_converted_again_give_the_same_receipt(made: Path, tmp_path: Path) -> None:
    shutil.copy(made / "tiny.safetensors", tmp_path / "tiny.safetensors")
    convert(tmp_path / "tiny.safetensors", tmp_path / "tiny")
    assert verify_model(tmp_path / "tiny").to_json() == verify_model(made / "tiny").to_json()


def test_a_receipt_survives_its_file(made: Path, tmp_path: Path) -> None:
    receipt = verify_model(made / "tiny")
    receipt.write(tmp_path / "tiny.json")
    assert VerifiedReceipt.read(tmp_path / "tiny.json") == receipt


def test_without_an_audit_the_source_is_unknown(model: Path) -> None:
    Path(f"{model}.audit.json").unlink()
    assert verify_model(model).source_sha256 is None


def test_a_shallow_verification_reads_no_weights(model: Path) -> None:
    receipt = verify_model(model, hashes="none")
    assert receipt.digest is None
    assert receipt.files[UNET].sha256 is None


# What is missing


MISSING: dict[str, Change] = {
    "the folder": shutil.rmtree,
    "the index": remove("model_index.json"),
    "a config": remove("vae/config.json"),
    "the scheduler": remove("scheduler/scheduler_config.json"),
    "weights": remove(UNET),
    "a vocabulary": remove("tokenizer_2/vocab.json"),
}


@pytest.mark.parametrize("what", MISSING)
def test_something_missing_is_said_in_the_known_words(what: str, model: Path) -> None:
    MISSING[what](model)
    with pytest.raises(errors.ModelError, match="Diffusers format missing") as raised:
        verify_model(model)
    assert raised.value.code == "E-MODEL"
    assert "darkroom convert CHECKPOINT MODEL_DIR" in str(raised.value)


# Weights


def test_a_missing_tensor_is_named(model: Path) -> None:
    rewrite(model / UNET, lambda name, info, data: None if name == "conv_in.bias" else (name, info, data))
    with pytest.raises(errors.KeysError, match=r"1 tensors of unet are missing: conv_in\.bias"):
        verify_model(model, hashes="none")


def test_a_tensor_too_many_is_named(model: Path) -> None:
    set_in("vae/config.json", "use_quant_conv", False)(model)
    with pytest.raises(errors.KeysError, match=r"2 tensors of vae are left over: quant_conv\.bias, quant_conv\.weight"):
        verify_model(model, hashes="none")


def test_a_text_encoder_with_a_tensor_under_both_names_is_refused(model: Path) -> None:
    pieces = read_pieces(model / TEXT)
    name, info, data = pieces[0]
    write_pieces(model / TEXT, [*pieces, (name.removeprefix("text_model."), info, data)])
    with pytest.raises(errors.KeysError, match="1 tensors of text_encoder are left over"):
        verify_model(model, hashes="none")


def turn(name: str, info: TensorInfo, data: bytes) -> Piece:
    return name, replace(info, shape=info.shape[::-1] if name == "conv_out.weight" else info.shape), data


def test_a_tensor_of_another_shape_is_named(model: Path) -> None:
    rewrite(model / UNET, turn)
    with pytest.raises(errors.KeysError, match=r"conv_out\.weight' of unet is \[3, 3, 32, 4\]"):
        verify_model(model, hashes="none")


def test_weights_in_eight_bits_are_refused(model: Path) -> None:
    rewrite(
        model / UNET,
        lambda name, info, data: (
            (name, replace(info, dtype="F8_E4M3"), data[: len(data) // 2])
            if name == "conv_in.weight"
            else (name, info, data)
        ),
    )
    with pytest.raises(errors.FormatError, match=r"'conv_in\.weight' is F8_E4M3, not fp16"):
        verify_model(model, hashes="none")


@pytest.mark.parametrize("component", ["unet", "text_encoder"])
def test_fault_20_weights_with_a_nan_are_refused_and_the_tensor_named(component: str, model: Path) -> None:
    path = weight_path(component, "fp16")
    name = read_pieces(model / path)[-1][0]
    write_nan(model / path, name)
    with pytest.raises(errors.NanWeightError, match=f"{path}'.*{name}' holds NaN") as raised:
        verify_model(model)
    assert raised.value.code == "E-NANWEIGHT"


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "diffusion_pytorch_model-00001-of-00002.bin"])
def test_a_component_that_is_only_there_as_a_pickle_is_refused_by_name(name: str, model: Path) -> None:
    (model / UNET).unlink()
    (model / "unet" / name).write_bytes(b"cos\nsystem\n")
    with pytest.raises(errors.PickleError, match=f"unet/{name}") as raised:
        verify_model(model)
    assert raised.value.code == "E-PICKLE"


def test_an_inpainting_unet_is_told_by_its_channels(model: Path) -> None:
    set_in("unet/config.json", "in_channels", 9)(model)
    with pytest.raises(errors.IndexFileError, match=r"unet/config\.json: in_channels '9'.*inpainting"):
        verify_model(model, hashes="none")


def test_truncated_weights_are_refused(model: Path) -> None:
    os.truncate(model / UNET, (model / UNET).stat().st_size - 1)
    with pytest.raises(errors.FormatError, match="truncated"):
        verify_model(model, hashes="none")


def test_a_pickle_under_a_safetensors_name_is_refused(model: Path) -> None:
    (model / UNET).write_bytes(b"\x80\x04\x95" + bytes(100))
    with pytest.raises(errors.PickleError):
        verify_model(model, hashes="none")


def test_weights_without_the_infix_and_flat_text_encoder_names_are_accepted(model: Path) -> None:
    flatten_names(model / TEXT)
    without_infix(model)
    assert verify_model(model).variant is None


def test_sharded_weights_are_accepted(model: Path) -> None:
    shard(model, "unet")
    flatten_names(model / TEXT)
    shard(model, "text_encoder")
    receipt = verify_model(model)
    assert (receipt.architecture, receipt.variant) == ("darkroom-demo", "fp16")


def test_a_tensor_missing_from_all_shards_is_named(model: Path) -> None:
    rewrite(model / UNET, lambda name, info, data: None if name == "conv_in.bias" else (name, info, data))
    shard(model, "unet")
    with pytest.raises(errors.KeysError, match=r"1 tensors of unet are missing: conv_in\.bias"):
        verify_model(model, hashes="none")


def test_a_mixture_of_variants_is_refused(model: Path) -> None:
    (model / UNET).rename(model / UNET.replace(".fp16", ""))
    with pytest.raises(errors.ModelError, match="Diffusers format missing"):
        verify_model(model, hashes="none")


# The cheap check


CHANGES: dict[str, Change] = {
    "gone": shutil.rmtree,
    "a file gone": remove(UNET),
    "another size": truncate("unet/config.json"),
    "another config of the same size": lambda model: flip_byte(model / "vae/config.json"),
    "other weights of the same size": lambda model: convert_other(model),
}


def convert_other(model: Path) -> None:
    convert(write_random_checkpoint(model.parent / "other.safetensors", seed=9), model)


@pytest.mark.parametrize("change", CHANGES)
def test_the_cheap_check_notices_a_changed_model(change: str, model: Path) -> None:
    receipt = verify_model(model)
    check_receipt(model, receipt)
    CHANGES[change](model)
    with pytest.raises(errors.ModelError, match="Diffusers format missing"):
        check_receipt(model, receipt)


def test_the_cheap_check_takes_no_notice_of_times(model: Path) -> None:
    receipt = verify_model(model)
    receipt.write(model.parent / "verified.json")
    for path in model.rglob("*"):
        os.utime(path, (1, 1))
    check_receipt(model, model.parent / "verified.json")


def test_a_model_that_snakemake_made_is_the_same_model(model: Path) -> None:
    before = verify_model(model)
    (model / ".snakemake_timestamp").touch()
    assert verify_model(model) == before
