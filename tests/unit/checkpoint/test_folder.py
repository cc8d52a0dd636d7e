"""Diffusers folders as a source: what is taken of them, what is refused, and that the result is a verified model."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from darkroom import errors
from darkroom.checkpoint import Expected, convert, verify_model
from darkroom.checkpoint.audit import read_audit
from darkroom.checkpoint.folder import model_files
from darkroom.checkpoint.header import TensorInfo, read_header
from darkroom.checkpoint.weights import index_path, weight_path
from tests.fixtures.checkpoints import write_random_checkpoint
from tests.fixtures.folders import (
    TEXT,
    UNET,
    Piece,
    as_snapshot,
    files_below,
    flatten_names,
    read_pieces,
    rewrite,
    set_in,
    shard,
    without_infix,
)

CONFIG = "scheduler/scheduler_config.json"


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if "darkroom-tmp" in path.name)


def test_a_folder_becomes_a_model_of_linked_weights_and_copied_configs(model: Path, tmp_path: Path) -> None:
    audit = convert(model, tmp_path / "m", name="named")
    receipt = verify_model(tmp_path / "m", hashes="all")
    assert receipt.digest == verify_model(model).digest
    assert (tmp_path / "m" / UNET).samefile(model / UNET)
    assert not (tmp_path / "m" / CONFIG).samefile(model / CONFIG)
    assert read_audit(tmp_path / "m") == audit.model_copy(update={"seconds": 0.0})
    assert (audit.name, audit.source, audit.source_kind, audit.autov2) == ("named", "tiny", "folder", None)
    assert audit.source_sha256 == receipt.source_sha256 == receipt.digest
    assert (audit.architecture, audit.dtype_out, audit.keys_missing) == ("darkroom-demo", "fp16", 0)
    assert audit.keys_mapped == audit.dtypes_in["F16"]
    assert audit.layouts == {c: "classic" if c.startswith("text") else "diffusers" for c in audit.layouts}
    assert leftovers(tmp_path) == []


def test_convert_takes_a_folder_too(model: Path, tmp_path: Path) -> None:
    assert convert(model, tmp_path / "m").source_kind == "folder"
    verify_model(tmp_path / "m")


def test_what_the_scheduler_says_of_prediction_is_in_the_audit(model: Path, tmp_path: Path) -> None:
    set_in(CONFIG, "prediction_type", "v_prediction")(model)
    set_in(CONFIG, "rescale_betas_zero_snr", True)(model)
    audit = convert(model, tmp_path / "m")
    assert (audit.prediction_type, audit.zero_terminal_snr) == ("v_prediction", True)
    assert verify_model(tmp_path / "m").prediction_type == "v_prediction"


# Folders as they are found


@pytest.fixture
def repository(model: Path) -> Path:
    """A folder like a repository on Hugging Face: both variants, other formats, pages and a single-file checkpoint."""
    for path in [*model.rglob("*.fp16.safetensors")]:
        shutil.copy(path, path.with_name(path.name.replace(".fp16", "")))
    extras = ("README.md", ".gitattributes", "LICENSE.md", "01.png", "model.safetensors", "vae_1_0/config.json")
    others = ("unet/openvino_model.bin", "unet/model.onnx", "unet/diffusion_flax_model.msgpack", "vae/old.ckpt")
    for name in (*extras, *others, "text_encoder/pytorch_model.bin", "vae_decoder/model.onnx"):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_bytes(b"not looked at")
    return model


@pytest.mark.parametrize("in_cache", [False, True])
def test_of_a_repository_only_the_model_is_taken(in_cache: bool, made: Path, repository: Path, tmp_path: Path) -> None:
    source = as_snapshot(repository, tmp_path / "hub") if in_cache else repository
    audit = convert(source, tmp_path / "m")
    assert files_below(tmp_path / "m") == files_below(made / "tiny")
    assert not any(path.is_symlink() for path in (tmp_path / "m").rglob("*"))
    assert verify_model(tmp_path / "m").digest == verify_model(made / "tiny").digest
    assert (tmp_path / "m" / UNET).samefile(source / UNET)
    assert audit.source == ("someone/some-model@0123abc" if in_cache else "tiny")


def test_everything_that_a_model_may_need_is_listed_and_nothing_else(made: Path, repository: Path) -> None:
    shard(repository, "unet", None, count=2)
    plain = [weight_path(component, None) for component in ("vae", "text_encoder", "text_encoder_2")]
    stem = "unet/diffusion_pytorch_model"
    shards = [f"{stem}-0000{number}-of-00002.safetensors" for number in (1, 2)]
    expected = [*files_below(made / "tiny"), *plain, *shards, f"{stem}.safetensors.index.json"]
    assert model_files(repository) == sorted(expected)


def test_the_variant_is_chosen_by_the_number_format_that_is_wanted(repository: Path, tmp_path: Path) -> None:
    convert(write_random_checkpoint(tmp_path / "wide.safetensors", dtype="F32"), tmp_path / "wide", dtype="fp32")
    for path in repository.glob("*/*model.safetensors"):
        shutil.copy(tmp_path / "wide" / path.relative_to(repository), path)
    audits = {dtype: convert(repository, tmp_path / dtype, dtype=dtype) for dtype in ("fp16", "fp32", "keep")}
    assert {dtype: audit.dtype_out for dtype, audit in audits.items()} == {
        "fp16": "fp16",
        "fp32": "fp32",
        "keep": "fp32",
    }
    assert {dtype: verify_model(tmp_path / dtype).variant for dtype in audits} == {
        "fp16": "fp16",
        "fp32": None,
        "keep": None,
    }


def test_the_one_variant_that_is_there_is_taken_whatever_is_wanted(model: Path, tmp_path: Path) -> None:
    assert convert(model, tmp_path / "m", dtype="fp32").dtype_out == "fp16"


def test_fp16_weights_get_the_infix_that_loading_the_variant_needs(model: Path, made: Path, tmp_path: Path) -> None:
    (model / UNET).rename(model / UNET.replace(".fp16", ""))
    convert(model, tmp_path / "some")
    without_infix(model)
    convert(model, tmp_path / "all")
    for name in ("some", "all"):
        receipt = verify_model(tmp_path / name)
        assert (receipt.variant, receipt.digest) == ("fp16", verify_model(made / "tiny").digest)


def test_flattened_text_encoders_get_their_classic_names_back(model: Path, made: Path, tmp_path: Path) -> None:
    flatten_names(model / TEXT)
    audit = convert(model, tmp_path / "m")
    assert audit.layouts["text_encoder"] == "flattened"
    classic = {name: (info.dtype, info.shape, data) for name, info, data in read_pieces(made / "tiny" / TEXT)}
    assert {name: (info.dtype, info.shape, data) for name, info, data in read_pieces(tmp_path / "m" / TEXT)} == classic
    assert read_header(model / TEXT).tensors.keys() != classic.keys()  # the source is left as it is


def test_a_folder_saved_of_compiled_components_gets_plain_names(model: Path, made: Path, tmp_path: Path) -> None:
    rewrite(model / UNET, lambda name, info, data: (f"_orig_mod.{name}", info, data))
    convert(model, tmp_path / "m")
    plain = {name: data for name, _, data in read_pieces(made / "tiny" / UNET)}
    assert {name: data for name, _, data in read_pieces(tmp_path / "m" / UNET)} == plain


OLD_ATTENTION = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}


def test_a_vae_with_the_attention_names_of_older_diffusers_gets_those_of_today(
    model: Path, made: Path, tmp_path: Path
) -> None:
    def older(name: str, info: TensorInfo, data: bytes) -> Piece:
        for new, old in OLD_ATTENTION.items():
            name = name.replace(new, old)
        return name, info, data

    vae = weight_path("vae", "fp16")
    rewrite(model / vae, older)
    assert verify_model(model).architecture == "darkroom-demo"  # diffusers reads these names too
    assert convert(model, tmp_path / "m").layouts["vae"] == "diffusers, older names"
    today = {name: data for name, _, data in read_pieces(made / "tiny" / vae)}
    assert {name: data for name, _, data in read_pieces(tmp_path / "m" / vae)} == today


def test_sharded_weights_stay_sharded_and_are_renamed_with_their_index(model: Path, tmp_path: Path) -> None:
    flatten_names(model / TEXT)
    without_infix(model)
    for component in ("unet", "text_encoder"):
        shard(model, component, None, count=2)
    audit = convert(model, tmp_path / "m")
    receipt = verify_model(tmp_path / "m")
    assert (receipt.variant, audit.layouts["unet"]) == ("fp16", "diffusers in 2 shards")
    assert "unet/diffusion_pytorch_model.fp16-00002-of-00002.safetensors" in receipt.files
    assert audit.layouts["text_encoder"] == "flattened in 2 shards"
    names = {name for path in (tmp_path / "m/text_encoder").glob("*.safetensors") for name in read_header(path).tensors}
    assert all(name.startswith("text_model.") for name in names)


# Hashes that were promised, room, and the model that was there before


def promised(model: Path) -> dict[str, str]:
    return {name: hashlib.sha256((model / name).read_bytes()).hexdigest() for name in files_below(model)}


@pytest.mark.parametrize("flat", [False, True])
def test_other_bytes_than_were_fetched_are_refused_and_the_old_model_stays(
    flat: bool, made: Path, model: Path, tmp_path: Path
) -> None:
    convert(made / "tiny", tmp_path / "m")
    before, audit = verify_model(tmp_path / "m"), read_audit(tmp_path / "m")
    vae = weight_path("vae", "fp16")
    if flat:
        flatten_names(model / TEXT)
        shard(model, "vae")
        vae = index_path("vae", "fp16")
    expected = promised(model)
    convert(model, tmp_path / "right", expected=Expected(files=expected | {"README.md": "0" * 64}))
    wrongs = [(expected | {name: "0" * 64}, name) for name in (TEXT, CONFIG, vae)]
    without = {name: sha256 for name, sha256 in expected.items() if name != UNET}
    for wrong, name in (*wrongs, (without, UNET)):
        with pytest.raises(errors.HashError, match=name):
            convert(model, tmp_path / "m", expected=Expected(files=wrong))
    assert verify_model(tmp_path / "m", hashes="all") == before
    assert read_audit(tmp_path / "m") == audit
    assert leftovers(tmp_path) == []


def test_where_nothing_can_be_linked_it_is_copied(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", refuse)
    convert(model, tmp_path / "m")
    assert verify_model(tmp_path / "m").digest == verify_model(model).digest
    assert not (tmp_path / "m" / UNET).samefile(model / UNET)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
    with pytest.raises(errors.DiskError, match=rf"not enough free space for '{tmp_path}': the model needs \d+\.\d MB"):
        convert(model, tmp_path / "full")
    assert not (tmp_path / "full").exists()
    assert leftovers(tmp_path) == []


def test_another_model_of_the_same_sizes_and_times_is_not_taken_for_the_old_one(model: Path, tmp_path: Path) -> None:
    convert(write_random_checkpoint(tmp_path / "other.safetensors", seed=9), tmp_path / "other")
    for folder in (model, tmp_path / "other"):
        for path in folder.rglob("*"):
            os.utime(path, (1, 1))
    digests = []
    for source in (model, tmp_path / "other"):
        convert(source, tmp_path / "m")
        digests.append(verify_model(tmp_path / "m").digest)
        assert digests[-1] == verify_model(source, hashes="all").digest
    assert digests[0] != digests[1]
