"""ControlNets as sources: files, Diffusers folders, and what is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from darkroom import errors
from darkroom.config import Config, parse_config
from darkroom.run.asset_folders import expand_folders
from darkroom.sources import FetchReceipt, fetch
from tests.fixtures.controlnets import write_control
from tests.fixtures.upscalers import write_upscaler


def config_of(controlnets: dict[str, Any]) -> Config:
    return parse_config({"checkpoints": {"one": {"source": "a"}}, "sheets": ["x.txt"], "controlnets": controlnets})


def test_a_controlnet_is_fetched_with_a_receipt(tmp_path: Path) -> None:
    source = write_control(tmp_path / "mine.safetensors", layout="ldm")
    receipt = fetch(str(source), tmp_path / "store/x.safetensors", tmp_path / "store/x.receipt.json", kind="controlnet")
    assert (tmp_path / "store/x.safetensors").read_bytes() == source.read_bytes()
    assert FetchReceipt.read(tmp_path / "store/x.receipt.json") == receipt


def test_another_model_is_refused(tmp_path: Path) -> None:
    source = write_upscaler(tmp_path / "mine.safetensors")
    with pytest.raises(errors.ControlError, match=r"E-CONTROL ControlNet 'mine.safetensors': is of no kind"):
        fetch(str(source), tmp_path / "x.safetensors", kind="controlnet")
    assert not (tmp_path / "x.safetensors").exists()


def test_a_diffusers_folder_stands_for_its_weights_in_half_precision_first(tmp_path: Path) -> None:
    folder = tmp_path / "canny"
    plain = write_control(folder / "diffusion_pytorch_model.safetensors", dtype="F32")
    (folder / "config.json").write_text("{}")
    given = config_of({"canny": {"source": str(folder)}})
    assert expand_folders(given).controlnets["canny"].source == str(plain)
    half = write_control(folder / "diffusion_pytorch_model.fp16.safetensors")
    assert expand_folders(given).controlnets["canny"].source == str(half)


def test_a_folder_without_weights_is_told(tmp_path: Path) -> None:
    with pytest.raises(errors.SourceError, match=r"is a folder without diffusion_pytorch_model\.safetensors"):
        expand_folders(config_of({"canny": {"source": str(tmp_path)}}))
