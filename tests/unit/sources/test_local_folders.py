"""A Diffusers folder as a source: fetched whole or not at all, Hugging Face's cache included; and sidecars."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from darkroom import errors
from darkroom.cli import command
from darkroom.sources import FetchReceipt, fetch, inspect, inspect_source
from tests.fixtures.exporters import A1111_SIDECAR
from tests.fixtures.folders import as_snapshot

UNET = "unet/diffusion_pytorch_model.fp16.safetensors"


@pytest.fixture
def folder(model_dir: Path, tmp_path: Path) -> Path:
    """A Diffusers folder of one's own."""
    return Path(shutil.copytree(model_dir, tmp_path / "from/tiny"))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("links", [True, False])
def test_a_folder_arrives_with_its_receipt(
    links: bool, folder: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:

        def link(*_: object, **__: object) -> None:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

        monkeypatch.setattr(os, "link", link)
    receipt = fetch(str(folder), store / "tiny", store / "tiny.receipt.json")
    assert files_of(store / "tiny") == files_of(folder)
    assert (store / "tiny" / UNET).samefile(folder / UNET) == links
    assert receipt.files is not None
    assert receipt.files[UNET].sha256 == hashlib.sha256((folder / UNET).read_bytes()).hexdigest()
    assert receipt.size == sum(len(data) for data in files_of(folder).values())
    assert (receipt.autov2, receipt.autov3, receipt.parameterization) == (None, None, None)
    assert FetchReceipt.read(store / "tiny.receipt.json") == receipt
    assert sorted(path.name for path in store.iterdir()) == ["tiny", "tiny.receipt.json"]


def test_what_is_no_part_of_the_model_stays_where_it_is(folder: Path, store: Path) -> None:
    (folder / "README.md").write_text("about")
    (folder / ".cache").mkdir()
    (folder / ".cache/index").write_text("x")
    before = fetch(str(folder), store / "tiny", store / "tiny.json").sha256
    assert not (store / "tiny/README.md").exists()
    assert not (store / "tiny/.cache").exists()
    (folder / "README.md").write_text("about something else")
    assert inspect_source(str(folder), store / "tiny.json", store / "cache.json").sha256 == before


def test_a_snapshot_in_hugging_faces_cache_arrives_as_files(folder: Path, store: Path, tmp_path: Path) -> None:
    snapshot = as_snapshot(folder, tmp_path / "hub")
    plain = fetch(str(folder), store / "plain", store / "plain.json")
    found = fetch(str(snapshot), store / "tiny", store / "tiny.json")
    assert not any(path.is_symlink() for path in (store / "tiny").rglob("*"))
    assert files_of(store / "tiny") == files_of(folder)
    assert found.sha256 == plain.sha256
    assert inspect_source(str(snapshot), store / "tiny.json", store / "cache.json").sha256 == plain.sha256


def test_fetching_a_folder_again_replaces_it_and_says_the_same(folder: Path, store: Path) -> None:
    first = fetch(str(folder), store / "tiny", store / "tiny.json")
    (store / "tiny" / UNET).unlink()
    assert fetch(str(folder), store / "tiny", store / "tiny.json") == first
    assert (store / "tiny" / UNET).is_file()


def test_a_folder_without_model_index_json_is_no_source(folder: Path, store: Path) -> None:
    (folder / "model_index.json").unlink()
    with pytest.raises(errors.SourceError, match=r"model_index\.json"):
        fetch(str(folder), store / "tiny", store / "tiny.json")
    with pytest.raises(errors.SourceError, match=r"model_index\.json"):
        inspect_source(str(folder), store / "tiny.json", store / "cache.json")
    assert not store.exists()


def test_weights_that_are_a_pointer_do_not_arrive(folder: Path, store: Path) -> None:
    (folder / UNET).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(errors.NotWeightsError, match="LFS"):
        fetch(str(folder), store / "tiny", store / "tiny.json")
    assert not store.exists()


def test_another_content_than_promised_leaves_what_was_there(folder: Path, store: Path) -> None:
    fetch(str(folder), store / "tiny", store / "tiny.json")
    before = files_of(store)
    with pytest.raises(errors.HashError, match="0" * 64):
        fetch(str(folder), store / "tiny", store / "tiny.json", sha256="0" * 64)
    assert files_of(store) == before


@pytest.mark.parametrize("place", ["from/tiny", "from", "home"])
def test_only_a_model_is_replaced_and_never_the_source(folder: Path, place: str, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/letters").write_text("dear")
    before = files_of(tmp_path)
    with pytest.raises(errors.BadNameError):
        fetch(str(folder), tmp_path / place, tmp_path / "tiny.json")
    assert files_of(tmp_path) == before


def test_the_command_says_how_many_files_and_their_digest(
    folder: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["fetch", str(folder), str(store / "tiny"), "--receipt", str(store / "tiny.json")]) == 0
    receipt = json.loads((store / "tiny.json").read_text())
    said = capsys.readouterr().out
    assert f"{len(receipt['files'])} files" in said
    assert receipt["sha256"] in said


def test_a_folder_is_hashed_once_until_a_file_changes(
    folder: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []
    original = inspect.hash_file
    monkeypatch.setattr(inspect, "hash_file", lambda path: hashed.append(Path(path).name) or original(path))
    first = inspect_source(str(folder), store / "none.json", store / "cache.json")
    assert first.is_folder
    assert Path(UNET).name in hashed
    hashed.clear()
    assert inspect_source(str(folder), store / "none.json", store / "cache.json") == first
    assert hashed == []
    config = folder / "scheduler/scheduler_config.json"
    config.write_text(config.read_text() + "\n")
    assert inspect_source(str(folder), store / "none.json", store / "cache.json") != first
    assert hashed == ["scheduler_config.json"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model: {params: {parameterization: v}}\n", "v"),
        (A1111_SIDECAR, "VScaling"),
        (A1111_SIDECAR.replace("VScaling", "EDMScaling"), "EDMScaling"),  # the checkpoint's own values decide
    ],
)
def test_a_sidecar_is_remembered_when_the_source_is_gone(
    text: str, said: str, model_dir: Path, tmp_path: Path, store: Path
) -> None:
    source = tmp_path / "x.safetensors"
    shutil.copy(model_dir.with_name("tiny.safetensors"), source)
    source.with_suffix(".yaml").write_text(text)
    receipt = fetch(str(source), store / "x.safetensors", store / "x.json")
    assert receipt.parameterization == said
    now = inspect_source(str(source), store / "x.json", store / "cache.json")
    assert (now.sha256, now.parameterization, now.is_folder) == (receipt.sha256, said, False)
    source.with_suffix(".yaml").unlink()
    assert inspect_source(str(source), store / "x.json", store / "cache.json").parameterization is None
    source.unlink()
    assert inspect_source(str(source), store / "x.json", store / "cache.json") == now


def test_a_fetched_folder_is_remembered_when_the_source_is_gone(folder: Path, store: Path) -> None:
    fetch(str(folder), store / "tiny", store / "tiny.json")
    now = inspect_source(str(folder), store / "tiny.json", store / "cache.json")
    shutil.rmtree(folder)
    assert inspect_source(str(folder), store / "tiny.json", store / "cache.json") == now
