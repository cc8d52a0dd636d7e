"""Which models a server finds, and by what names requests know them."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

from darkroom.config import parse_config
from darkroom.errors import ModelError, UnknownModelError
from darkroom.serve import catalog
from darkroom.serve.catalog import find_models


@pytest.fixture
def store(tmp_path: Path, model_dir: Path) -> Path:
    """A models folder with two models."""
    for name in ("alpha", "beta"):
        shutil.copytree(model_dir, tmp_path / "diffusers" / name)
        shutil.copyfile(model_dir.with_name(f"{model_dir.name}.audit.json"), tmp_path / f"diffusers/{name}.audit.json")
    (tmp_path / "verified").mkdir()
    (tmp_path / "verified/alpha.json").write_text("{}")
    return tmp_path


def test_argument_wins_over_environment_and_volume(
    store: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIFFUSERS_DIR", str(store / "diffusers/alpha"))
    monkeypatch.setattr(catalog, "VOLUME", store)
    assert find_models(model_dir, None).get().files.model_dir == model_dir
    found = find_models(None, None)
    assert found.get().files.model_dir == store / "diffusers/alpha"
    assert found.get().files.verified == store / "verified/alpha.json"
    assert found.models_dir == store


def test_all_models_of_the_volume_are_served(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DIFFUSERS_DIR", raising=False)
    monkeypatch.setattr(catalog, "VOLUME", store)
    found = find_models(None, None)
    assert {name: files.model_dir.name for name, files in found.files.items()} == {"alpha": "alpha", "beta": "beta"}


def test_nothing_anywhere_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DIFFUSERS_DIR", raising=False)
    monkeypatch.setattr(catalog, "VOLUME", tmp_path)
    with pytest.raises(ModelError, match=r"Diffusers format missing.*DIFFUSERS_DIR"):
        find_models(None, None)


def test_checkpoints_of_a_configuration_go_by_its_names(store: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = {"checkpoints": {"beta": {"source": "b"}, "alpha": {"source": "a"}}, "sheets": ["s.yaml"]}
    found = find_models(None, parse_config({**data, "models_dir": str(store)}))
    assert (found.names, found.default) == (["beta", "alpha"], "beta")
    shutil.rmtree(store / "diffusers/alpha")
    with caplog.at_level(logging.ERROR), pytest.raises(ModelError, match=r"snakemake .*verified/alpha\.json"):
        find_models(None, parse_config({**data, "models_dir": str(store)}))
    assert "Diffusers format missing - build process failed" in caplog.text


def test_a_model_answers_to_name_file_title_and_hash(model_dir: Path) -> None:
    found = find_models(model_dir, None)
    model = found.get()
    for name in (model.name, f"{model.name}.safetensors", model.title, model.model_hash, model.name.upper()):
        assert found.get(name) == model
    for wrong in ("", "other", "../" + model.name, str(model_dir), "https://example.com/model"):
        with pytest.raises(UnknownModelError, match="E-UNKNOWN"):
            found.get(wrong)
