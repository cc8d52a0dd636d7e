"""Pins: older than anything where the receipt fits, and of another content each time where it doesn't."""

from __future__ import annotations

import json
import os
from datetime import date
from pathlib import Path

import pytest

from darkroom.run.sources import Pin, pin_path, write_pin
from darkroom.sources import FetchReceipt

SHA256, OTHER = "a" * 64, "b" * 64


def receipt(source: str = "civitai:1@2", sha256: str = SHA256, variant: str | None = None) -> FetchReceipt:
    return FetchReceipt(
        source=source, size=1, sha256=sha256, autov2=None, autov3=None, title=None, architecture=None,
        variant=variant, fetched=date(2026, 1, 1),
    )  # fmt: skip


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """A receipt of SHA256."""
    path = tmp_path / "one.receipt.json"
    receipt().write(path)
    return path


@pytest.fixture
def pin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return pin_path("checkpoints", "one")


def is_old(pin: Path, receipt: Path) -> bool:
    return pin.stat().st_mtime_ns < receipt.stat().st_mtime_ns


@pytest.mark.parametrize("sha256", [None, SHA256])
def test_a_pin_that_the_receipt_fits_is_older_than_it(pin: Path, there: Path, sha256: str | None) -> None:
    write_pin(Pin("civitai:1@2", sha256, None), pin, there)
    assert is_old(pin, there)
    assert json.loads(pin.read_text()) == {"source": "civitai:1@2", "sha256": sha256, "variant": None}


@pytest.mark.parametrize(
    "wanted", [Pin("civitai:1@3", None, None), Pin("civitai:1@2", OTHER, None), Pin("civitai:1@2", SHA256, "fp16")]
)
def test_a_pin_that_it_doesnt_fit_is_newer_and_names_what_it_replaces(pin: Path, there: Path, wanted: Pin) -> None:
    os.utime(there, (1, 1))
    write_pin(wanted, pin, there)
    assert not is_old(pin, there)
    data = json.loads(pin.read_text())
    assert data["instead_of"]["sha256"] == SHA256
    before = pin.stat().st_mtime_ns
    write_pin(wanted, pin, there)
    assert pin.stat().st_mtime_ns == before


def test_changing_there_and_back_twice_is_two_changes(pin: Path, there: Path) -> None:
    """Snakemake compares contents with those of the last run: the second time has to look different from the first."""
    wanted = Pin("civitai:1@2", OTHER, None)
    os.utime(there, ns=(10**9, 10**9))
    write_pin(wanted, pin, there)
    first = pin.read_bytes()
    receipt(sha256=OTHER).write(there)
    write_pin(wanted, pin, there)
    assert is_old(pin, there)
    receipt().write(there)
    write_pin(wanted, pin, there)
    assert not is_old(pin, there)
    assert pin.read_bytes() != first


def test_without_a_receipt_the_pin_says_what_is_wanted(pin: Path, tmp_path: Path) -> None:
    write_pin(Pin("civitai:1@2", OTHER, None), pin, tmp_path / "none.receipt.json")
    assert json.loads(pin.read_text()) == {"source": "civitai:1@2", "sha256": OTHER, "variant": None}


def test_a_damaged_receipt_fits_nothing(pin: Path, there: Path) -> None:
    there.write_text("{")
    os.utime(there, (1, 1))
    write_pin(Pin("civitai:1@2", None, None), pin, there)
    assert not is_old(pin, there)


def test_a_pin_that_is_right_again_is_old_again(pin: Path, there: Path) -> None:
    write_pin(Pin("civitai:1@3", None, None), pin, there)
    write_pin(Pin("civitai:1@2", None, None), pin, there)
    assert is_old(pin, there)
