"""Hashes on first sight, cheap afterwards: what is read again, what is not, and what a deep verification finds."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from darkroom import errors
from darkroom.checkpoint import hashes, verify_model
from darkroom.checkpoint.verified import hashes_path
from darkroom.cli.command import main
from tests.fixtures.folders import UNET, flip_byte, set_in

CONFIG = "scheduler/scheduler_config.json"
UNSAMPLED = 300_000
"""A place in the UNet's file between two of the sampled blocks."""


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are read whole from now on."""
    names: list[str] = []
    scan, hash_file = hashes.scan, hashes.hash_file

    def watched_scan(file: int, header: object, name: Path, **options: object) -> str:
        names.append(name.name)
        return scan(file, header, name, **options)  # type: ignore[arg-type]

    def watched_hash(path: Path) -> str:
        names.append(path.name)
        return hash_file(path)

    monkeypatch.setattr(hashes, "scan", watched_scan)
    monkeypatch.setattr(hashes, "hash_file", watched_hash)
    return names


def change_quietly(path: Path, position: int) -> None:
    """Change one bit and put the time back."""
    status = path.stat()
    flip_byte(path, position)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_model_is_read_once(model: Path, read: list[str]) -> None:
    first = verify_model(model)
    assert len(read) == len(first.files)
    read.clear()
    assert verify_model(model) == first
    assert read == []


def test_only_what_changed_is_read_again(model: Path, read: list[str]) -> None:
    first = verify_model(model)
    read.clear()
    set_in(CONFIG, "prediction_type", "v_prediction")(model)
    second = verify_model(model)
    assert read == ["scheduler_config.json"]
    assert second.digest != first.digest
    assert second.files[UNET] == first.files[UNET]


def test_a_touched_file_is_read_and_found_the_same(model: Path, read: list[str]) -> None:
    first = verify_model(model)
    read.clear()
    os.utime(model / UNET, (1, 1))
    assert verify_model(model) == first
    assert read == [Path(UNET).name]


def test_the_engine_reads_no_weights(model: Path, read: list[str]) -> None:
    receipt = verify_model(model, hashes="none")
    assert read == []
    assert receipt.digest is None
    assert receipt.files[UNET].sha256 is None
    assert not hashes_path(model).exists()


def test_deep_finds_a_change_that_left_size_and_time_alone(
    model: Path, read: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = verify_model(model)
    change_quietly(model / UNET, UNSAMPLED)
    assert verify_model(model) == before
    read.clear()
    assert main(["verify", str(model), "--deep"]) == 1
    line = capsys.readouterr().err
    assert line.startswith("E-HASH") and UNET in line and str(before.files[UNET].sha256) in line
    with pytest.raises(errors.HashError):
        verify_model(model, hashes="all")


def test_deep_reads_everything_again_and_says_the_same_of_the_same(model: Path, read: list[str]) -> None:
    first = verify_model(model)
    read.clear()
    assert verify_model(model, hashes="all") == first
    assert len(read) == len(first.files)


def test_other_weights_with_the_old_time_are_found_without_deep(model: Path) -> None:
    verify_model(model)
    change_quietly(model / UNET, -1)
    with pytest.raises(errors.HashError, match=UNET):
        verify_model(model)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"revision": 1}', '{"revision": -1, "files": {}}', "folder"])
def test_a_memory_that_cannot_be_read_costs_only_time(content: str, model: Path, read: list[str]) -> None:
    first = verify_model(model)
    read.clear()
    hashes_path(model).unlink()
    if content == "folder":
        hashes_path(model).mkdir()  # can't be written either
    else:
        hashes_path(model).write_text(content)
    assert verify_model(model) == first
    assert len(read) == len(first.files)


def test_a_memory_without_a_hash_is_not_believed(model: Path) -> None:
    first = verify_model(model)
    memory = json.loads(hashes_path(model).read_text())
    memory["files"][UNET]["sha256"] = None
    hashes_path(model).write_text(json.dumps(memory))
    assert verify_model(model) == first


def test_weights_that_were_only_hashed_are_looked_through_once_they_are_used(model: Path, read: list[str]) -> None:
    verify_model(model)
    memory = json.loads(hashes_path(model).read_text())
    memory["files"][UNET]["scanned"] = False
    hashes_path(model).write_text(json.dumps(memory))
    read.clear()
    verify_model(model)
    assert read == [Path(UNET).name]
