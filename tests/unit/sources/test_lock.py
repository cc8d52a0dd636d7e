"""The lock file: what is written, what is refused, and that nothing is lost where several write at once."""

from __future__ import annotations

import multiprocessing
from datetime import date
from pathlib import Path

import pytest
import yaml

from darkroom import errors
from darkroom.sources.lock import LockEntry, lock_key, read_lock, record, variant_of
from darkroom.sources.references import parse_reference

DAY = date(2026, 3, 1)
ENTRY = LockEntry(sha256="a" * 64, size=7, version="2514310", fetched=DAY)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config/checkpoints.lock.yaml"


def test_there_are_no_entries_before_the_first_fetch(path: Path) -> None:
    assert read_lock(path) == {}
    path.parent.mkdir()
    path.write_text("# nothing but a comment\n")
    assert read_lock(path) == {}


def test_what_is_recorded_is_read_again_and_stands_sorted_below_a_comment(path: Path) -> None:
    other = LockEntry(sha256="B" * 64, size=0, fetched=DAY)
    record(path, "hf:org/name fp16", other)
    record(path, "civitai:1@2514310", ENTRY)
    assert read_lock(path) == {"civitai:1@2514310": ENTRY, "hf:org/name fp16": other}
    assert other.sha256 == "b" * 64
    text = path.read_text()
    assert text.startswith("# ")
    assert list(yaml.safe_load(text)) == ["civitai:1@2514310", "hf:org/name fp16"]
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_nothing_is_written_where_nothing_changed(path: Path) -> None:
    record(path, "civitai:1@2", ENTRY)
    before = path.stat()
    record(path, "civitai:1@2", ENTRY)
    record(path, "civitai:1@2", ENTRY.model_copy(update={"fetched": date(2030, 1, 1)}))
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    record(path, "civitai:1@2", ENTRY.model_copy(update={"sha256": "c" * 64}))
    assert read_lock(path)["civitai:1@2"].sha256 == "c" * 64


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a: {sha256: zz, size: 1, fetched: 2026-03-01}", ":1"),
        (f"\na:\n  sha256: {'a' * 64}\n  size: -1\n  fetched: 2026-03-01\n", ":4"),
        (f"\n\na:\n  sha256: {'a' * 64}\n  size: 1\n", ":3"),
        (f"a: {{sha256: {'a' * 64}, size: 1, fetched: 2026-03-01, sice: 2}}", ":1"),
        ("\na: 5\n", ":2"),
        ("a: {}\na: {}\n", ":2:1"),
        ("- a\n", ""),
        ("a: [\n", ":2:1"),
        ("a: !!python/object/apply:os.getcwd []\n", ":1"),
    ],
)
def test_a_broken_file_is_refused_with_its_line(path: Path, text: str, place: str) -> None:
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(errors.ConfigError) as raised:
        read_lock(path)
    assert f"{path}{place}" in str(raised.value)
    with pytest.raises(errors.ConfigError):
        record(path, "b", ENTRY)
    assert path.read_text() == text


def test_a_version_that_was_typed_as_a_number_is_one(path: Path) -> None:
    path.parent.mkdir()
    path.write_text(
        f"civitai:1@2514310:\n  sha256: '{'A' * 64}'\n  size: 7\n  version: 2514310\n  fetched: 2026-03-01\n"
    )
    assert read_lock(path) == {"civitai:1@2514310": ENTRY}


def record_several(path: Path, first: int, count: int) -> None:
    for number in range(first, first + count):
        record(path, f"civitai:{number}", ENTRY)


def test_several_processes_at_once_lose_no_entry(path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=record_several, args=(path, first, 5)) for first in (0, 100, 200, 300)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert len(read_lock(path)) == 20
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_a_folder_is_known_by_its_weights_too() -> None:
    folder, file = parse_reference("hf:org/name"), parse_reference("hf:org/name/model.safetensors")
    assert [variant_of(folder, dtype) for dtype in ("fp16", "fp32", "bf16", "keep")] == ["fp16", *["plain"] * 3]
    assert lock_key(folder, "fp16") == f"{folder.text} fp16"
    assert lock_key(folder, "fp32") == f"{folder.text} plain"
    assert lock_key(file, "fp16") == lock_key(file, "fp32") == file.text
    assert variant_of(file, "fp16") is None
