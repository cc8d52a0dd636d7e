"""Fetching a local file: links, copies, refusals, receipts; and the remembered identity of a source."""

from __future__ import annotations

import errno
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from darkroom import errors
from darkroom.checkpoint.header import encode_header
from darkroom.sources import FetchReceipt, fetch, source_identity

DATA = b"\x01\x02\x03\x04"


def write_weights(path: Path, data: bytes = DATA) -> Path:
    metadata = {"modelspec.title": "A model", "modelspec.architecture": "stable-diffusion-xl-v1-base"}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_header([("t", "U8", (len(data),), 0, len(data))], metadata) + data)
    return path


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_weights(tmp_path / "from/x.safetensors")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def refuse_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object, **__: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", link)


def assert_only(store: Path, *names: str) -> None:
    assert sorted(path.name for path in store.iterdir()) == sorted(names)


@pytest.mark.parametrize("links", [True, False])
def test_the_file_arrives_with_its_receipt(
    links: bool, source: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:
        refuse_links(monkeypatch)
    receipt = fetch(str(source), store / "x.safetensors", store / "x.receipt.json")
    assert (store / "x.safetensors").read_bytes() == source.read_bytes()
    assert (store / "x.safetensors").samefile(source) == links
    assert receipt.sha256 == sha256_of(source)
    assert receipt.autov2 == receipt.sha256[:10]
    assert receipt.autov3 == hashlib.sha256(DATA).hexdigest()[:12]
    assert (receipt.title, receipt.architecture) == ("A model", "stable-diffusion-xl-v1-base")
    assert FetchReceipt.read(store / "x.receipt.json") == receipt
    assert_only(store, "x.receipt.json", "x.safetensors")


def test_fetching_again_gives_the_same_receipt(source: Path, store: Path) -> None:
    fetch(str(source), store / "x.safetensors", store / "x.json")
    first = (store / "x.json").read_bytes()
    fetch(str(source), store / "x.safetensors", store / "x.json")
    assert (store / "x.json").read_bytes() == first
    assert_only(store, "x.json", "x.safetensors")


def test_a_file_that_is_its_own_destination_stays(source: Path) -> None:
    fetch(str(source), source, source.with_suffix(".json"))
    assert source.exists()


def test_a_link_is_followed_to_its_file(source: Path, store: Path) -> None:
    link = source.with_name("link.safetensors")
    link.symlink_to(source)
    fetch(str(link), store / "x.safetensors", store / "x.json")
    assert not (store / "x.safetensors").is_symlink()
    assert (store / "x.safetensors").samefile(source)


def test_an_older_file_is_replaced(source: Path, store: Path) -> None:
    write_weights(store / "x.safetensors", b"older")
    fetch(str(source), store / "x.safetensors", store / "x.json")
    assert (store / "x.safetensors").read_bytes() == source.read_bytes()


def test_a_promised_hash_in_either_case_is_met(source: Path, store: Path) -> None:
    fetch(str(source), store / "x.safetensors", store / "x.json", sha256=sha256_of(source).upper())


@pytest.mark.parametrize("links", [True, False])
def test_other_bytes_than_promised_leave_what_was_there(
    links: bool, source: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:
        refuse_links(monkeypatch)
    write_weights(store / "x.safetensors", b"older")
    before = (store / "x.safetensors").read_bytes()
    with pytest.raises(errors.HashError) as raised:
        fetch(str(source), store / "x.safetensors", store / "x.json", sha256="0" * 64)
    assert "0" * 64 in str(raised.value)
    assert sha256_of(source) in str(raised.value)
    assert (store / "x.safetensors").read_bytes() == before
    assert_only(store, "x.safetensors")


@pytest.mark.parametrize(
    "content", [b"\x80\x04\x95" + bytes(50), b"<html></html> and more", b"PK\x03\x04" + bytes(50), b""]
)
def test_what_is_not_weights_does_not_arrive(content: bytes, source: Path, store: Path) -> None:
    source.write_bytes(content)
    with pytest.raises(errors.CheckpointError):
        fetch(str(source), store / "x.safetensors", store / "x.json")
    assert not store.exists()


@pytest.mark.parametrize("name", ["missing.safetensors", ".", ""])
def test_a_source_that_is_no_file_is_the_users_error(name: str, store: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.SourceError):
        fetch(str(tmp_path / name) if name else "", store / "x.safetensors", store / "x.json")


@pytest.mark.parametrize(
    "url", ["https://me:secret@host/x?token=secret", "file:///x", "ftp://host/x", "C:/x", "civitai:x"]
)
def test_what_is_no_source_is_refused_and_no_token_is_shown(url: str, store: Path) -> None:
    with pytest.raises(errors.SourceError) as raised:
        fetch(url, store / "x.safetensors", store / "x.json")
    assert "secret@" not in str(raised.value) and "=secret" not in str(raised.value)
    assert not store.exists()


class Reads:
    """Counts how often a file is hashed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from darkroom.sources import inspect

        self.count = 0
        original = inspect.hash_file

        def counting(path: Path | str) -> str:
            self.count += 1
            return original(path)

        monkeypatch.setattr(inspect, "hash_file", counting)


def test_a_source_is_hashed_once_until_it_changes(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads, cache = Reads(monkeypatch), tmp_path / "cache/sources.json"
    assert source_identity(source, cache) == source_identity(source, cache) == sha256_of(source)
    assert reads.count == 1
    write_weights(source, b"other numbers")
    assert source_identity(source, cache) == sha256_of(source)
    assert reads.count == 2


def test_the_same_size_and_time_under_another_inode_is_read_again(source: Path, tmp_path: Path) -> None:
    cache, status = tmp_path / "sources.json", source.stat()
    source_identity(source, cache)
    other = write_weights(source.with_name("other"), bytes(reversed(DATA)))
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(source)
    assert source_identity(source, cache) == sha256_of(source)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"x": 1}', "\0" * 10, "[" * 100_000])
def test_a_broken_cache_counts_as_empty(content: str, source: Path, tmp_path: Path) -> None:
    cache = tmp_path / "sources.json"
    cache.write_text(content)
    assert source_identity(source, cache) == sha256_of(source)
    assert source_identity(source, cache) == sha256_of(source)


def test_many_at_once_do_not_break_the_cache(tmp_path: Path) -> None:
    cache = tmp_path / "sources.json"
    paths = [write_weights(tmp_path / f"{number}.safetensors", bytes([number])) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda path: source_identity(path, cache), paths * 4))
    assert found == [sha256_of(path) for path in paths] * 4
    assert sorted(path.name for path in tmp_path.iterdir() if "tmp" in path.name) == []


def test_a_missing_source_has_no_identity(tmp_path: Path) -> None:
    with pytest.raises(errors.SourceError):
        source_identity(tmp_path / "missing", tmp_path / "cache.json")
