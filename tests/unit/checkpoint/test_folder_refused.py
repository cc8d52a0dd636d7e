"""Diffusers folders that are refused as a source, and that nothing is published then."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from darkroom import errors
from darkroom.checkpoint import verify_model
from darkroom.checkpoint.adopt import adopt_folder
from darkroom.checkpoint.audit import ConversionInputs
from darkroom.checkpoint.conversion import Conversion
from darkroom.checkpoint.folder import model_files
from tests.fixtures.folders import UNET, as_snapshot, remove, set_in, without_infix, write_nan


def adopt(source: Path, dest: Path) -> None:
    adopt_folder(Conversion(source, dest, ConversionInputs(), dest.name))


def assert_refused(source: Path, dest: Path, kind: type[errors.DarkroomError], match: str) -> None:
    with pytest.raises(kind, match=match) as raised:
        adopt(source, dest)
    assert "MODEL_DIR" not in str(raised.value)  # a source is not rebuilt by converting it
    assert not dest.exists()
    assert [path.name for path in dest.parent.iterdir() if path.name.startswith((dest.name, f".{dest.name}"))] == []


@pytest.mark.parametrize("name", ["pipeline.py", "unet/ops.so", "onnx/helper.py", ".hidden/x.pyc"])
def test_fault_25_code_anywhere_in_the_source_is_refused_and_not_run(name: str, model: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).write_text(f"open({str(canary)!r}, 'w')")
    assert_refused(model, tmp_path / "m", errors.IndexFileError, rf"{name}.*model_index\.json")
    with pytest.raises(errors.IndexFileError, match=name):
        model_files(model)
    assert not canary.exists()


@pytest.mark.parametrize("relative", ["unet/config.json", "notes.txt"])
def test_a_link_that_leads_elsewhere_is_refused(relative: str, model: Path, tmp_path: Path) -> None:
    snapshot = as_snapshot(model, tmp_path / "hub")
    outside = tmp_path / "outside.json"
    shutil.copy(model / "unet/config.json", outside)
    (snapshot / relative).unlink(missing_ok=True)
    (snapshot / relative).symlink_to(outside)
    assert_refused(snapshot, tmp_path / "m", errors.IndexFileError, f"link '{relative}': leads outside")


def test_blobs_that_are_themselves_a_link_are_not_followed(model: Path, tmp_path: Path) -> None:
    snapshot = as_snapshot(model, tmp_path / "hub")
    blobs = snapshot.parent.parent / "blobs"
    blobs.rename(tmp_path / "elsewhere")
    blobs.symlink_to(tmp_path / "elsewhere")
    assert_refused(snapshot, tmp_path / "m", errors.IndexFileError, "leads outside")


def test_weights_with_a_nan_are_refused(model: Path, tmp_path: Path) -> None:
    write_nan(model / UNET, "conv_out.bias")
    without_infix(model)
    path = model / UNET.replace(".fp16", "")
    assert_refused(model, tmp_path / "m", errors.NanWeightError, rf"{path}'.*conv_out\.bias")


def test_pickled_weights_are_refused_by_name(model: Path, tmp_path: Path) -> None:
    (model / UNET).rename(model / "unet/diffusion_pytorch_model.fp16.bin")
    assert_refused(model, tmp_path / "m", errors.PickleError, r"unet/diffusion_pytorch_model\.fp16\.bin")
    with pytest.raises(errors.PickleError):
        model_files(model)


def test_folders_of_other_kinds_are_refused(model: Path, tmp_path: Path) -> None:
    assert_refused(tmp_path / "none", tmp_path / "m", errors.ModelError, "does not exist")
    remove("vae/config.json")(model)
    assert_refused(model, tmp_path / "m", errors.ModelError, r"it has no vae/config\.json")
    set_in("model_index.json", "_class_name", "StableDiffusionXLInpaintPipeline")(model)
    assert_refused(model, tmp_path / "m", errors.IndexFileError, "an inpainting model")
    remove("model_index.json")(model)
    assert_refused(model, tmp_path / "m", errors.ModelError, r"it has no model_index\.json")


def test_a_destination_that_is_no_model_or_overlaps_the_source_is_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").touch()
    (tmp_path / "link").symlink_to(model)
    for dest in (tmp_path / "notes", model, model / "inside", model.parent, tmp_path / "link"):
        with pytest.raises(errors.BadNameError):
            adopt(model, dest)
    assert verify_model(model)
    assert (tmp_path / "notes" / "mine.txt").exists()
