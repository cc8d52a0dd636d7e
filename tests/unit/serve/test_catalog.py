"""Which models a server finds, and by what names requests know them."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

from darkroom.config import load_config, parse_config
from darkroom.errors import ModelError, RequestError, UnknownModelError
from darkroom.serve import catalog
from darkroom.serve.catalog import find_models
from darkroom.serve.setup import Setup


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


def test_a_server_refuses_wrong_defaults_when_it_starts(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("checkpoints:\n  beta: {source: b}\nsheets: [s]\nrender:\n  steps: 0\n  seeds: [1, 2]\n", "utf-8")
    config = load_config(path)
    models = find_models(None, config.model_copy(update={"models_dir": str(store)}))
    with pytest.raises(RequestError, match=r"steps '0'.*c\.yaml:5\)"):
        Setup.of_config(models, config, config.engine)
    path.write_text(path.read_text("utf-8").replace("steps: 0", "sampler: DPM++ 2M Karras"), "utf-8")
    assert Setup.of_config(models, load_config(path), config.engine).render == {"sampler": "DPM++ 2M Karras"}


def test_a_model_answers_to_name_file_title_and_hash(model_dir: Path) -> None:
    found = find_models(model_dir, None)
    model = found.get()
    for name in (model.name, f"{model.name}.safetensors", model.title, model.model_hash, model.name.upper()):
        assert found.get(name) == model
    for wrong in ("", "other", "../" + model.name, str(model_dir), "https://example.com/model"):
        with pytest.raises(UnknownModelError, match="E-UNKNOWN"):
            found.get(wrong)
