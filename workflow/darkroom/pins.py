"""Pins: the one small input that the job of a remote source has, so that Snakemake sees when to fetch it again.

A pin says which bytes are wanted. It is written while a run is planned, from the configuration and the lock file. Where
the receipt that is there fits, the pin is made older than anything, so that it counts as no change: the first fetch
finds out which bytes they are, which changes the pin and nothing else. Where the receipt does not fit, the pin names
what it is to replace, so that its content is another than that of any pin before.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from darkroom.errors import SourceError
from darkroom.files import write_bytes
from darkroom.sources import FetchReceipt

PINS = Path(".snakemake/darkroom/pins")
_LONG_AGO_S = 10**9
"""In 2001. Not 0, which some tools take for a missing time."""


@dataclass(frozen=True, slots=True)
class Pin:
    """What is wanted: the `source` by its canonical text, its `sha256` or content digest as far as it is known, and which
    weights of a folder (`variant`)."""

    source: str
    sha256: str | None
    variant: str | None

    def fits(self, receipt: FetchReceipt) -> bool:
        """Whether what `receipt` speaks of is what is wanted."""
        is_same = (self.source, self.variant) == (receipt.source, receipt.variant)
        return is_same and self.sha256 in (None, receipt.sha256)


def pin_path(kind: str, name: str) -> Path:
    """Where the pin of that kind (a section of the configuration) and name lies."""
    return PINS / kind / f"{name}.json"


def write_pin(pin: Pin, path: Path, receipt: Path) -> None:
    """Leave the pin at `path`, touched only when it changed. Raises DiskError (E-DISK)."""
    before = _read(receipt)
    if before is not None and pin.fits(before):
        _write(path, asdict(pin))
        os.utime(path, (_LONG_AGO_S, _LONG_AGO_S))
    elif receipt.exists():
        replaced = {"sha256": before and before.sha256, "written_ns": receipt.stat().st_mtime_ns}
        _write(path, asdict(pin) | {"instead_of": replaced})
    else:
        _write(path, asdict(pin))


def _read(receipt: Path) -> FetchReceipt | None:
    """A damaged receipt fits nothing: fetching writes another."""
    try:
        return FetchReceipt.read(receipt)
    except SourceError:
        return None


def _write(path: Path, data: Mapping[str, Any]) -> None:
    text = (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()
    if not path.is_file() or path.read_bytes() != text:
        write_bytes(path, text)
