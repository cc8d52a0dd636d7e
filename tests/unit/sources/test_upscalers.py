"""Upscalers as sources: names, kinds, folders, and what a pickle is answered with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from darkroom import errors
from darkroom.config import Config, parse_config
from darkroom.run.asset_folders import expand_folders
from darkroom.sources import FetchReceipt, fetch
from tests.fixtures.upscalers import write_upscaler


def config_of(upscalers: dict[str, Any], **more: Any) -> Config:
    return parse_config({"checkpoints": {"one": {"source": "a"}}, "sheets": ["x.txt"], "upscalers": upscalers, **more})


def test_an_upscaler_is_fetched_with_a_receipt(tmp_path: Path) -> None:
    source = write_upscaler(tmp_path / "mine.safetensors")
    receipt = fetch(str(source), tmp_path / "store/x.safetensors", tmp_path / "store/x.receipt.json", kind="upscaler")
    assert (tmp_path / "store/x.safetensors").read_bytes() == source.read_bytes()
    assert FetchReceipt.read(tmp_path / "store/x.receipt.json") == receipt


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt", ".safetensors"])
def test_a_pickle_is_answered_with_the_command_that_converts_it(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"4x real{suffix}"
    torch.save({"params": {}}, path)
    with pytest.raises(errors.PickleError) as caught:
        fetch(str(path), tmp_path / "x.safetensors", kind="upscaler")
    assert str(caught.value).startswith(f"E-PICKLE upscaler '{path}': is a zip archive")
    assert "weights_only=True" in caught.value.hint and f"'4x real{suffix}' '4x real" in caught.value.hint
    assert not caught.value.hint.endswith(f" '4x real{suffix}'")
    assert not (tmp_path / "x.safetensors").exists()


def test_a_pickle_of_another_kind_is_answered_as_before(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "x.pt")
    with pytest.raises(errors.PickleError, match=r"E-PICKLE checkpoint .* use the checkpoint's .safetensors version"):
        fetch(str(tmp_path / "x.pt"), tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("kind", "called"), [("vae", "VAE"), ("lora", "LoRA"), ("embedding", "embedding"), ("controlnet", "ControlNet")]
)
def test_an_error_says_of_what_kind_the_file_should_be(kind: str, called: str, tmp_path: Path) -> None:
    torch.save({}, tmp_path / "x.pt")
    with pytest.raises(errors.PickleError, match=f"E-PICKLE {called} .* use the {called}'s .safetensors version"):
        fetch(str(tmp_path / "x.pt"), tmp_path / "x.safetensors", kind=kind)


@pytest.mark.parametrize("name", ["Lanczos", "nearest", "None", "Latent", "Latent (bicubic)"])
def test_a_built_in_name_is_refused(name: str) -> None:
    with pytest.raises(
        errors.BadNameError, match=rf"E-NAME upscaler '{name.replace('(', '.').replace(')', '.')}': is built in"
    ):
        config_of({name: {"source": "x.safetensors"}})


def test_names_are_free_and_a_folder_stands_for_its_files(tmp_path: Path) -> None:
    write_upscaler(tmp_path / "more/R-ESRGAN 4x+.safetensors")
    found = expand_folders(config_of({"4x (sharp)": {"source": "a"}, "all": {"folder": str(tmp_path / "more")}}))
    assert list(found.upscalers) == ["4x (sharp)", "R-ESRGAN 4x+"]


def test_an_unknown_key_is_told_with_the_near_one() -> None:
    with pytest.raises(errors.ConfigError, match=r"upscalers\.x\.sorce.*did you mean 'source'"):
        config_of({"x": {"sorce": "a"}})
