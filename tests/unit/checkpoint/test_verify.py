"""Verification of a model folder: completeness, forbidden content (no code runs), receipts and the cheap check."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from darkroom import errors
from darkroom.checkpoint import VerifiedReceipt, check_receipt, convert, verify_model
from darkroom.checkpoint.header import encode_header, read_header

UNET = "unet/diffusion_pytorch_model.fp16.safetensors"
TEXT = "text_encoder/model.fp16.safetensors"


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads(path.read_bytes())
    change(data)
    path.write_text(json.dumps(data))


def rewrite(path: Path, rename: Callable[[str], str | None], shape: Callable[[str, Any], Any] = lambda _, s: s) -> None:
    """Write a weight file anew with tensors renamed, left out (None) or of another shape."""
    header, raw = read_header(path), path.read_bytes()
    rows, blobs, position = [], [], 0
    for name, info in header.tensors.items():
        new = rename(name)
        if new is None:
            continue
        blobs.append(raw[header.data_offset + info.start : header.data_offset + info.end])
        rows.append((new, info.dtype, shape(name, info.shape), position, position + len(blobs[-1])))
        position += len(blobs[-1])
    path.write_bytes(encode_header(rows, {"format": "pt"}) + b"".join(blobs))


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
    receipt = verify_model(model, deep=False)
    assert receipt.digest is None
    assert receipt.files[UNET].sha256 is None


# What is missing


def remove(relative: str) -> Callable[[Path], None]:
    return lambda model: (model / relative).unlink()


MISSING: dict[str, Callable[[Path], None]] = {
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


# What is not allowed


def index(key: str, value: object) -> Callable[[Path], None]:
    return lambda model: edit_json(model / "model_index.json", lambda data: data.update({key: value}))


def config(relative: str, key: str, value: object) -> Callable[[Path], None]:
    return lambda model: edit_json(model / relative, lambda data: data.update({key: value}))


def truncate(relative: str) -> Callable[[Path], None]:
    return lambda model: (model / relative).write_bytes((model / relative).read_bytes()[:-30])


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated index": (truncate("model_index.json"), "model_index.json"),
    "wrong pipeline": (index("_class_name", "FluxPipeline"), "model_index.json: _class_name"),
    "wrong component class": (index("unet", ["diffusers", "UNet3DConditionModel"]), "model_index.json: unet"),
    "class of another library": (index("vae", ["os", "AutoencoderKL"]), "model_index.json: vae"),
    "module in the folder": (index("unet", ["my_unet", "UNet2DConditionModel"]), "model_index.json: unet"),
    "not a pair": (index("unet", "UNet2DConditionModel"), "model_index.json: unet"),
    "absolute path": (index("unet", ["/etc", "UNet2DConditionModel"]), "model_index.json: unet"),
    "Windows path": (index("vae", ["diffusers", "C:\\AutoencoderKL"]), "model_index.json: vae"),
    "path upwards": (index("scheduler", ["diffusers", "../EulerDiscreteScheduler"]), "model_index.json: scheduler"),
    "custom pipeline": (index("custom_pipeline", "evil/pipeline"), "model_index.json: custom_pipeline"),
    "remote code": (index("auto_map", {"AutoModel": "evil.py"}), "model_index.json: auto_map"),
    "unknown entry": (index("safety_checker", ["x", "Y"]), "model_index.json: safety_checker"),
    "missing entry": (
        lambda model: edit_json(model / "model_index.json", lambda d: d.pop("vae")),
        "model_index.json: vae",
    ),
    "remote code in a config": (
        config("text_encoder/config.json", "auto_map", {}),
        "text_encoder/config.json: auto_map",
    ),
    "class in a config": (config("unet/config.json", "_class_name", "Evil"), "unet/config.json: _class_name"),
    "class in a transformers config": (
        config("text_encoder/config.json", "architectures", ["EvilModel"]),
        "text_encoder/config.json: architectures",
    ),
    "classes that are no list": (config("text_encoder/config.json", "architectures", {"a": 1}), "architectures"),
    "scheduler class that is no text": (config("scheduler/scheduler_config.json", "_class_name", [1]), "_class_name"),
    "scheduler class": (config("scheduler/scheduler_config.json", "_class_name", "Evil"), "scheduler_config.json"),
    "tokenizer class": (config("tokenizer/tokenizer_config.json", "tokenizer_class", "Evil"), "tokenizer_class"),
    "tokenizer code": (config("tokenizer/tokenizer_config.json", "auto_map", {}), "auto_map"),
    "truncated config": (truncate("vae/config.json"), "vae/config.json"),
    "a billion layers": (config("unet/config.json", "layers_per_block", 10**9), "unet/config.json: layers_per_block"),
    "widths that are words": (config("vae/config.json", "block_out_channels", "many"), "vae/config.json"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_an_index_or_config_that_says_what_is_not_allowed_is_refused(fault: str, model: Path) -> None:
    damage, field = REFUSED[fault]
    damage(model)
    with pytest.raises(errors.IndexFileError) as raised:
        verify_model(model, deep=False)
    assert field in str(raised.value)


@pytest.mark.parametrize("name", ["pipeline.py", "unet/my_unet.py", "unet/model.bin", "x.pkl", "vae/old.CKPT", "a.pt"])
def test_code_and_pickles_in_the_folder_are_refused_and_not_run(name: str, model: Path) -> None:
    canary = model.parent / "canary"
    (model / name).write_text(f"open({str(canary)!r}, 'w')")
    with pytest.raises(errors.IndexFileError, match=name):
        verify_model(model, deep=False)
    assert not canary.exists()


@pytest.mark.parametrize("name", ["unet/config.json", "extra"])
def test_a_link_out_of_the_folder_is_refused(name: str, model: Path) -> None:
    outside = model.parent / "outside.json"
    shutil.copy(model / "unet/config.json", outside)
    (model / name).unlink(missing_ok=True)
    (model / name).symlink_to(outside)
    with pytest.raises(errors.IndexFileError, match="leads outside"):
        verify_model(model, deep=False)


def test_a_pipe_in_the_folder_is_refused_without_reading_it(model: Path) -> None:
    os.mkfifo(model / "unet" / "notes")
    with pytest.raises(errors.IndexFileError, match="not a regular file"):
        verify_model(model)


# Weights


def test_a_missing_tensor_is_named(model: Path) -> None:
    rewrite(model / UNET, lambda name: None if name == "conv_in.bias" else name)
    with pytest.raises(errors.KeysError, match=r"1 tensors of unet are missing: conv_in\.bias"):
        verify_model(model, deep=False)


def test_a_tensor_too_many_is_named(model: Path) -> None:
    edit_json(model / "vae/config.json", lambda data: data.update(use_quant_conv=False))
    with pytest.raises(errors.KeysError, match=r"2 tensors of vae are left over: quant_conv\.bias, quant_conv\.weight"):
        verify_model(model, deep=False)


def test_a_tensor_of_another_shape_is_named(model: Path) -> None:
    rewrite(model / UNET, lambda name: name, lambda name, shape: shape[::-1] if name == "conv_out.weight" else shape)
    with pytest.raises(errors.KeysError, match=r"conv_out\.weight' of unet is \[3, 3, 32, 4\]"):
        verify_model(model, deep=False)


def test_truncated_weights_are_refused(model: Path) -> None:
    os.truncate(model / UNET, (model / UNET).stat().st_size - 1)
    with pytest.raises(errors.FormatError, match="truncated"):
        verify_model(model, deep=False)


def test_a_pickle_under_a_safetensors_name_is_refused(model: Path) -> None:
    (model / UNET).write_bytes(b"\x80\x04\x95" + bytes(100))
    with pytest.raises(errors.PickleError):
        verify_model(model, deep=False)


def test_weights_without_the_infix_and_flat_text_encoder_names_are_accepted(model: Path) -> None:
    rewrite(model / TEXT, lambda name: name.removeprefix("text_model."))
    for path in model.rglob("*.fp16.safetensors"):
        path.rename(path.with_name(path.name.replace(".fp16", "")))
    assert verify_model(model).variant is None


def test_a_mixture_of_variants_is_refused(model: Path) -> None:
    (model / UNET).rename(model / UNET.replace(".fp16", ""))
    with pytest.raises(errors.ModelError, match="Diffusers format missing"):
        verify_model(model, deep=False)


# The cheap check


def flip_last_byte(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))


CHANGES: dict[str, Callable[[Path], None]] = {
    "gone": shutil.rmtree,
    "a file gone": remove(UNET),
    "another size": truncate("unet/config.json"),
    "another config of the same size": lambda model: flip_last_byte(model / "vae/config.json"),
    "other weights of the same size": lambda model: convert_other(model),
}


def convert_other(model: Path) -> None:
    from tests.fixtures.checkpoints import write_random_checkpoint

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
