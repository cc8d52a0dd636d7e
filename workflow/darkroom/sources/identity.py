"""The SHA256 of a local file, remembered, so that planning a workflow does not read gigabytes each time.

The memory is a JSON file: absolute path to size, modification time, inode and hash. Losing it costs time only, so
a broken one counts as empty; of two writers at once the later one's entries win.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from darkroom.errors import DiskError, SourceError
from darkroom.files import write_json
from darkroom.hashing import hash_file


def source_identity(path: Path | str, cache: Path | str) -> str:
    """The SHA256 (hex) of the file at `path`; read only if size, time or inode differ from what `cache` remembers.

    Raises SourceError (E-SOURCE) if there is no such file.
    """
    path, cache = Path(path).expanduser(), Path(cache)
    try:
        absolute = str(path.resolve(strict=True))
        before = _stamp(absolute)
        known = _load(cache).get(absolute)
        if isinstance(known, dict) and known.get("stamp") == before and _is_sha256(known.get("sha256")):
            return str(known["sha256"])
        sha256 = hash_file(absolute)
        if _stamp(absolute) == before:
            _remember(cache, absolute, {"stamp": before, "sha256": sha256})
    except OSError as error:
        raise SourceError("source", path, error.strerror or "can't be read", "check the checkpoint's source") from None
    return sha256


def _stamp(path: str) -> list[int]:
    status = Path(path).stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _load(cache: Path) -> dict[str, Any]:
    try:
        data = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def _remember(cache: Path, absolute: str, entry: dict[str, Any]) -> None:
    """Add an entry; a cache that can't be written is no reason to stop."""
    entries = {key: value for key, value in _load(cache).items() if key != absolute and Path(key).exists()}
    try:
        write_json(cache, entries | {absolute: entry})
    except (OSError, DiskError):
        return


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64
