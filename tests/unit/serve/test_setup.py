"""What of a configuration a server needs, and which models its names may mean."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import pytest

from darkroom.config import check_sheets, load_config
from darkroom.errors import ConfigError
from darkroom.serve.options import add_serve, read_setup
from darkroom.serve.setup import Setup

CONFIG = """
checkpoints:
  tiny: {source: tiny.safetensors}
  other: {source: other.safetensors}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("tiny", "other"):
        model = tmp_path / "models/diffusers" / name
        model.mkdir(parents=True)
        (model / "model_index.json").write_text("{}")
    return tmp_path


def read(folder: Path, more: str = "", options: Sequence[str] = ()) -> Setup:
    (folder / "serve.yaml").write_text(CONFIG + more)
    parser = argparse.ArgumentParser()
    add_serve(parser)
    return read_setup(parser.parse_args(["--config", "serve.yaml", *options]))


def test_a_server_needs_no_sheets(folder: Path) -> None:
    assert read(folder).models.names == ["tiny", "other"]


def test_a_run_does_and_its_error_names_the_file(folder: Path) -> None:
    read(folder)
    with pytest.raises(ConfigError, match=r"'sheets': is missing .*serve\.yaml"):
        check_sheets(load_config("serve.yaml"))


@pytest.mark.parametrize(
    ("serve", "default"),
    [("", "tiny"), ("serve: {default_model: other}", "other"), ("serve: {aliases: {dall-e-3: other}}", "tiny")],
)
def test_the_default_model_is_the_first_one_or_the_configured_one(folder: Path, serve: str, default: str) -> None:
    assert read(folder, serve).models.default == default


@pytest.mark.parametrize(
    ("serve", "key"),
    [
        ("serve: {default_model: othr}", "serve.default_model"),
        ("serve: {aliases: {dall-e-3: othr}}", "serve.aliases.dall-e-3"),
    ],
)
def test_a_name_of_no_model_is_refused_when_the_server_starts(folder: Path, serve: str, key: str) -> None:
    with pytest.raises(ConfigError, match="tiny, other") as caught:
        read(folder, serve)
    assert (caught.value.what, caught.value.value) == (f"{key} =", "othr")


def test_what_is_compiled_is_an_option_and_in_the_configuration(folder: Path) -> None:
    assert read(folder).engine.compile == "off"
    assert read(folder, "engine: {compile: regional}").engine.compile == "regional"
    assert read(folder, options=["--compile", "regional"]).engine.compile == "regional"


@pytest.mark.parametrize("devices", [("cuda", "cuda:0"), ("cuda:1", "cuda:1"), ("cuda:0", "cuda:00")])
def test_two_engines_on_one_gpu_are_refused_however_it_is_named(folder: Path, devices: tuple[str, ...]) -> None:
    options = [option for device in devices for option in ("--device", device)]
    with pytest.raises(ConfigError, match="devices"):
        read(folder, options=options)
    assert read(folder, options=["--device", "cuda:0", "--device", "cuda:1"]).serve.devices == ["cuda:0", "cuda:1"]
