"""Names of LoRAs and embeddings as people's prompts have them, and folders of them in the configuration."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from darkroom.config import Config, load_config, parse_config
from darkroom.engine.library import Library
from darkroom.errors import BadNameError, ConfigError, LoraError, SourceError
from darkroom.request.assets import AssetNames, asset_path
from darkroom.request.lora_tags import take_out_loras
from darkroom.run.asset_folders import expand_folders
from darkroom.run.sources import inspect_sources, pin_path, receipt_path
from darkroom.sources import fetch
from tests.fixtures.assets import write_lora


def config(**sections: Any) -> Config:
    return parse_config({"checkpoints": {"one": {"source": "one.safetensors"}}, "sheets": ["x.txt"], **sections})


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


NAMES = ["Dark Style (v1.2)", "[Pony] neon", "暗黒スタイル v2", "outline", "50% grey, flat", "a/b", "🦊"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_of_a_prompt_is_a_key_a_tag_and_a_file(name: str, tmp_path: Path) -> None:
    assert list(config(loras={name: {"source": "x.safetensors"}}).loras) == [name]
    assert [(use.name, use.unet) for use in take_out_loras(f"a fox <lora:{name}:0.8>")[1]] == [(name, 0.8)]
    path = asset_path(tmp_path, "loras", name)
    assert path.parent == tmp_path / "loras"
    write_lora(path)
    assert AssetNames.of_folder(tmp_path).loras == [name]
    assert Library(tmp_path).find("loras", name).path == path


def test_names_that_were_possible_before_keep_their_files() -> None:
    for name in ("outline", "A1-b_c.d"):
        assert receipt_path("models", "loras", name) == Path(f"models/loras/{name}.receipt.json")
        assert pin_path("loras", name).name == f"{name}.json"


def test_a_file_put_into_the_models_folder_by_hand_keeps_its_name(tmp_path: Path) -> None:
    by_hand = write_lora(tmp_path / "loras/Dark Style (v1.2).safetensors")
    assert Library(tmp_path).find("loras", "Dark Style (v1.2)").path == by_hand
    fetched = write_lora(asset_path(tmp_path, "loras", "Dark Style (v1.2)"))
    assert Library(tmp_path).find("loras", "Dark Style (v1.2)").path == fetched
    with pytest.raises(LoraError, match="there is none of that name"):
        Library(tmp_path).find("loras", "../loras/Dark Style (v1.2)")


@pytest.mark.parametrize("section", ["loras", "embeddings"])
@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a:b"], "can't be written in a prompt"),
        (["<a>"], "can't be written in a prompt"),
        ([" a"], "can't be written in a prompt"),
        (["a\nb"], "can't be written in a prompt"),
        ([""], "can't be written in a prompt"),
        (["暗" * 67], "is too long for a file's name: 201 bytes of at most 200"),
        (["Neon", "neon"], "differs from 'Neon' in letter case alone"),
    ],
)
def test_a_name_that_no_prompt_or_no_file_can_have_is_refused(section: str, names: list[str], words: str) -> None:
    with pytest.raises(BadNameError, match="E-NAME") as raised:
        config(**{section: {name: {"source": "x.safetensors"} for name in names}})
    assert words in str(raised.value)


def test_a_name_that_yaml_reads_as_a_number_is_to_be_quoted(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    text = "checkpoints: {one: {source: x}}\nsheets: [x.txt]\nloras:\n  1984: {source: x}\n"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"key '1984': YAML reads it as 1984 \(.*:4\). Hint: put it in quotes"):
        load_config(path)
    path.write_text(text.replace("1984", '"1984"'))
    assert list(load_config(path).loras) == ["1984"]


@pytest.mark.parametrize("section", ["loras", "embeddings"])
def test_each_file_of_a_folder_is_a_source_by_its_name(section: str, tmp_path: Path) -> None:
    make(tmp_path, "Dark Style (v1.2).safetensors", "sdxl/pony/[Pony] neon.SAFETENSORS", "暗黒.safetensors")
    make(tmp_path, "preview.png", "old.pt", "._Dark.safetensors", ".trash/gone.safetensors")
    (tmp_path / "sdxl/loop").symlink_to(tmp_path)
    given = {"all": {"folder": str(tmp_path)}, "own": {"source": "own.safetensors"}}
    expanded = getattr(expand_folders(config(**{section: given})), section)
    assert {name: each.source for name, each in expanded.items()} == {
        "own": "own.safetensors",
        "Dark Style (v1.2)": str(tmp_path / "Dark Style (v1.2).safetensors"),
        "[Pony] neon": str(tmp_path / "sdxl/pony/[Pony] neon.SAFETENSORS"),
        "暗黒": str(tmp_path / "暗黒.safetensors"),
    }


@pytest.mark.parametrize(
    ("files", "given", "error", "words"),
    [
        (["a.safetensors", "b/a.safetensors"], {}, BadNameError, ["E-NAME", "/a.safetensors", "/b/a.safetensors"]),
        (["a.safetensors"], {"a": {"source": "x"}}, BadNameError, ["E-NAME", "loras.a", "/a.safetensors"]),
        (["a.safetensors", "A.safetensors"], {}, BadNameError, ["E-NAME", "'A'", "'a'"]),
        (["a:b.safetensors"], {}, BadNameError, ["E-NAME", "a:b", "can't be written in a prompt"]),
        (["a.pt"], {}, SourceError, ["E-SOURCE", "holds no .safetensors file", "loras.all.folder"]),
        (None, {}, SourceError, ["E-SOURCE", "does not exist", "loras.all.folder"]),
    ],
)
def test_a_folder_that_gives_no_usable_names_is_refused(
    files: list[str] | None, given: dict[str, Any], error: type[Exception], words: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "loras"
    make(folder, *(files or []))
    with pytest.raises(error) as raised:
        expand_folders(config(loras={"all": {"folder": str(folder)}, **given}))
    assert all(word in str(raised.value) for word in words), raised.value


def test_where_a_folder_is_not_visible_what_was_fetched_from_it_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_lora(tmp_path / "one.safetensors")
    for name in ("[Pony] neon", "never used"):
        write_lora(tmp_path / f"loras/sdxl/{name}.safetensors")
    given = config(loras={"all": {"folder": "loras"}})
    before = expand_folders(given)
    assert list(before.loras) == ["[Pony] neon", "never used"]
    dest, source = asset_path("models", "loras", "[Pony] neon"), before.loras["[Pony] neon"].source
    state = inspect_sources(before).states["loras", "[Pony] neon"]
    fetch(source, dest, receipt_path("models", "loras", "[Pony] neon"), kind="lora")
    shutil.rmtree(tmp_path / "loras")
    after = expand_folders(given)
    assert list(after.loras) == ["[Pony] neon"]
    assert inspect_sources(after).states["loras", "[Pony] neon"] == state


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "is empty"),
        ({"source": "a", "folder": "b"}, "needs either source or folder"),
        ({"folder": "b", "sha256": "0" * 64}, "sha256 is for one file"),
    ],
)
def test_one_entry_is_a_file_or_a_folder(given: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config(loras={"all": given})


def test_a_file_of_a_folder_is_hashed_when_it_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planning would otherwise read every LoRA that a user has."""
    monkeypatch.chdir(tmp_path)
    write_lora(tmp_path / "one.safetensors")
    make(tmp_path / "loras", "used.safetensors", "unused.safetensors")
    hashed: list[str] = []
    monkeypatch.setattr("darkroom.sources.inspect.hash_file", lambda path: hashed.append(Path(path).stem) or "0" * 64)
    sources = inspect_sources(expand_folders(config(loras={"all": {"folder": "loras"}})))
    assert hashed == ["one"]
    assert sources.states["loras", "used"].sha256 == "0" * 64
    assert hashed == ["one", "used"]
