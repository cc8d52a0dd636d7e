"""The day of a first fetch is remembered by content, so that the receipt of the same bytes stays the same."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from darkroom.sources import FetchReceipt, fetch
from darkroom.sources.store import first_fetched
from tests.unit.sources.test_local_files import write_weights

SHA256, OTHER, DAY = "a" * 64, "b" * 64, date(2020, 2, 29)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / ".cache/fetched.json"


def remember(cache: Path, days: dict[str, object]) -> None:
    cache.parent.mkdir(exist_ok=True)
    cache.write_text(json.dumps(days))


def test_what_is_new_came_today_and_is_remembered(cache: Path) -> None:
    day = first_fetched(SHA256, cache)
    assert abs((day - datetime.now(UTC).date()).days) <= 1
    assert json.loads(cache.read_text()) == {SHA256: day.isoformat()}


def test_what_is_remembered_stays(cache: Path) -> None:
    remember(cache, {SHA256: DAY.isoformat()})
    before = cache.stat().st_mtime_ns
    assert first_fetched(SHA256, cache) == DAY
    assert cache.stat().st_mtime_ns == before
    assert first_fetched(OTHER, cache) != DAY
    assert first_fetched(SHA256, cache) == DAY


@pytest.mark.parametrize("text", ["", "[", "[]", "null", "5", '"x"', "\x00", "[" * 100_000])
def test_a_broken_memory_counts_as_empty_and_is_mended(cache: Path, text: str) -> None:
    cache.parent.mkdir()
    cache.write_text(text)
    day = first_fetched(SHA256, cache)
    assert json.loads(cache.read_text()) == {SHA256: day.isoformat()}


def test_a_broken_day_costs_no_other(cache: Path) -> None:
    remember(cache, {SHA256: "soon", OTHER: DAY.isoformat(), "x": 5})
    assert first_fetched(SHA256, cache) != DAY
    assert first_fetched(OTHER, cache) == DAY


def test_a_memory_that_cant_be_written_is_no_reason_to_stop(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert first_fetched(SHA256, tmp_path / "file/fetched.json")


def test_a_fetched_files_receipt_is_the_same_after_it_was_deleted(tmp_path: Path, cache: Path) -> None:
    source, store = write_weights(tmp_path / "x.safetensors"), tmp_path / "store"
    sha256 = fetch(str(source), store / "x.safetensors", store / "x.json", dates=cache).sha256
    remember(cache, {sha256: DAY.isoformat()})
    assert fetch(str(source), store / "x.safetensors", store / "x.json", dates=cache).fetched == DAY
    first = (store / "x.json").read_bytes()
    (store / "x.json").unlink()
    fetch(str(source), store / "x.safetensors", store / "x.json", dates=cache)
    assert (store / "x.json").read_bytes() == first


def test_a_receipt_of_an_earlier_version_has_no_day(tmp_path: Path) -> None:
    source, store = write_weights(tmp_path / "x.safetensors"), tmp_path / "store"
    fetch(str(source), store / "x.safetensors", store / "x.json")
    data = json.loads((store / "x.json").read_text())
    (store / "x.json").write_text(
        json.dumps({k: v for k, v in data.items() if k not in ("fetched", "facts", "variant")})
    )
    assert FetchReceipt.read(store / "x.json").fetched is None
    assert fetch(str(source), store / "x.safetensors", store / "x.json").fetched is not None
