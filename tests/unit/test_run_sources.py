"""The sources of a configuration, looked at while a run is planned: names, options that fit, and places that are safe."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from darkroom import errors
from darkroom.config import parse_config
from darkroom.run.sources import Sources, inspect_sources
from darkroom.sources import fetch


@pytest.fixture
def here(model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with `a.safetensors` and the Diffusers folder `tiny`."""
    shutil.copytree(model_dir, tmp_path / "tiny")
    shutil.copy(model_dir.with_name("tiny.safetensors"), tmp_path / "a.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def look(checkpoint: dict[str, Any], vaes: dict[str, Any] | None = None, **more: Any) -> Sources:
    data = {"checkpoints": {"one": checkpoint}, "vaes": vaes or {}, "sheets": ["x.txt"], **more}
    return inspect_sources(parse_config(data))


def test_what_a_conversion_takes_and_depends_on(here: Path) -> None:
    sources = look(
        {"source": "a.safetensors", "vae": "better", "extract_ema": True}, {"better": {"source": "a.safetensors"}}
    )
    assert sources.names(folders=False) == ["one"]
    assert sources.fetched("one") == ["models/checkpoints/one.safetensors", "models/vaes/better.safetensors"]
    assert sources.receipts("one") == ["models/checkpoints/one.receipt.json", "models/vaes/better.receipt.json"]
    assert sources.conversion_flags("one") == [
        "--extract-ema",
        "--vae",
        "models/vaes/better.safetensors",
        "--vae-receipt",
        "models/vaes/better.receipt.json",
    ]


def test_a_folder_is_fetched_as_a_folder(here: Path) -> None:
    sources = look({"source": "tiny"})
    assert sources.names(folders=True) == ["one"]
    assert sources.fetched("one") == ["models/checkpoints/one"]
    assert sources.conversion_flags("one") == []


@pytest.mark.parametrize(("vaes", "hint"), [({"fixed": {"source": "a.safetensors"}}, "did you mean 'fixed'"), ({}, "list it under vaes")])  # fmt: skip
def test_an_unknown_vae_is_named_with_the_near_one(vaes: dict[str, Any], hint: str, here: Path) -> None:
    with pytest.raises(errors.ConfigError, match=r"checkpoints\.one\.vae = 'fixd'") as raised:
        look({"source": "a.safetensors", "vae": "fixd"}, vaes)
    assert hint in str(raised.value)


def test_an_unknown_key_of_a_vae_is_named_with_the_near_one(here: Path) -> None:
    with pytest.raises(errors.ConfigError, match="did you mean 'source'"):
        look({"source": "a.safetensors"}, {"fixed": {"sourse": "a.safetensors"}})


@pytest.mark.parametrize("name", ["../x", "a/b", ""])
def test_a_vaes_name_must_be_a_files_name(name: str, here: Path) -> None:
    with pytest.raises(errors.ConfigError):
        look({"source": "a.safetensors"}, {name: {"source": "a.safetensors"}})


@pytest.mark.parametrize(
    "option", [{"prediction": "epsilon"}, {"architecture": "sdxl-base"}, {"extract_ema": True}, {"vae": "fixed"}]
)
def test_an_option_that_a_folder_would_pass_over_is_refused(option: dict[str, Any], here: Path) -> None:
    with pytest.raises(errors.ConfigError, match=rf"checkpoints\.one\.{next(iter(option))} =.*Diffusers folder"):
        look({"source": "tiny", **option}, {"fixed": {"source": "a.safetensors"}})


def test_a_vae_is_a_single_file(here: Path) -> None:
    with pytest.raises(errors.SourceError, match=r"vaes\.fixed has to be a single file"):
        look({"source": "a.safetensors"}, {"fixed": {"source": "tiny"}})


def test_other_bytes_of_a_vae_than_expected_are_refused(here: Path) -> None:
    with pytest.raises(errors.HashError, match=r"correct vaes\.fixed\.sha256"):
        look({"source": "a.safetensors"}, {"fixed": {"source": "a.safetensors", "sha256": "0" * 64}})


def test_a_missing_vae_stops_before_anything_begins(here: Path) -> None:
    with pytest.raises(errors.SourceError, match=r"nowhere\.safetensors"):
        look({"source": "a.safetensors"}, {"fixed": {"source": "nowhere.safetensors"}})


def fetch_as_configured(source: str, name: str = "one") -> None:
    fetch(source, f"models/checkpoints/{name}.safetensors", f"models/checkpoints/{name}.receipt.json")


@pytest.mark.parametrize("typo", ["b.safetensors", "org/name", "nowhere/a.safetensors", "A.safetensors"])
def test_a_source_that_does_not_exist_does_not_serve_the_old_model(typo: str, here: Path) -> None:
    fetch_as_configured("a.safetensors")
    with pytest.raises(errors.SourceError, match=r"is from a\.safetensors") as raised:
        look({"source": typo})
    assert ("hf:org/name" in str(raised.value)) == (typo == "org/name")


def test_what_was_fetched_serves_in_place_of_a_source_that_is_gone(here: Path) -> None:
    """By its name however written, by its SHA256, or under another name if it had the same bytes there."""
    fetch_as_configured("a.safetensors")
    sha256 = look({"source": "a.safetensors"}).states["checkpoints", "one"].sha256
    shutil.copy("a.safetensors", "moved.safetensors")
    assert look({"source": "moved.safetensors"}).states["checkpoints", "one"].sha256 == sha256
    for path in ("a.safetensors", "moved.safetensors"):
        Path(path).unlink()
    for source in ("a.safetensors", "./a.safetensors", str(here / "a.safetensors"), "moved.safetensors"):
        assert look({"source": source}).states["checkpoints", "one"].sha256 == sha256
    assert sha256 is not None
    assert look({"source": "elsewhere.safetensors", "sha256": sha256.upper()}).states["checkpoints", "one"].sha256


def test_a_broken_sidecar_stops_before_anything_begins(here: Path) -> None:
    (here / "a.yaml").write_text("model: {params: {parameterization: w}}\n")
    with pytest.raises(errors.ConfigError, match=r"a\.yaml"):
        look({"source": "a.safetensors"})


@pytest.mark.parametrize("place", ["models/checkpoints/one", "models/diffusers/one"])
def test_a_source_where_its_own_copy_is_made_is_refused(place: str, here: Path) -> None:
    (here / place).parent.mkdir(parents=True)
    (here / "tiny").rename(here / place)
    (here / "link").symlink_to(place)
    for source in (place, str(here / place), "link"):
        with pytest.raises(errors.SourceError, match=r"is where checkpoints\.one itself is made"):
            look({"source": source})


def test_a_single_file_where_its_own_copy_is_made_is_refused(here: Path) -> None:
    (here / "models/checkpoints").mkdir(parents=True)
    (here / "a.safetensors").rename(here / "models/checkpoints/one.safetensors")
    with pytest.raises(errors.SourceError, match=r"is where checkpoints\.one itself is made"):
        look({"source": "models/checkpoints/one.safetensors"})


def test_planning_imports_nothing_heavy(here: Path) -> None:
    """Not with a sidecar, a folder and remote sources either."""
    (here / "a.yaml").write_text("parameterization: v\n")
    code = """
import sys
from darkroom.run.plan import make_plan
from darkroom.config import parse_config
sources = {"one": "a.safetensors", "two": "tiny", "three": "civitai:1@2", "four": "hf:org/name", "five": "https://a.example/x"}
sheets = {"checkpoints": {name: {"source": source} for name, source in sources.items()}, "sheets": ["x.txt"]}
make_plan(parse_config(sheets))
heavy = ("torch", "numpy", "diffusers", "transformers", "safetensors", "requests", "huggingface_hub", "urllib3")
print([name for name in heavy if name in sys.modules])
"""
    (here / "x.txt").write_text("a star\n")
    done = subprocess.run([sys.executable, "-c", code], cwd=here, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
