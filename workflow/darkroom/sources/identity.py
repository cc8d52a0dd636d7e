"""The SHA256 of local files, remembered, so that planning a workflow does not read gigabytes each time.

The memory is a JSON file: absolute path to size, modification time, inode and hash. Losing it costs time only, so
a broken one counts as empty; of two writers at once the later one's entries win.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from darkroom.errors import DiskError, SourceError
from darkroom.files import write_json
from darkroom.hashing import hash_file


def source_identity(path: Path | str, cache: Path | str) -> str:
    """The SHA256 (hex) of the file at `path`; read only if size, time or inode differ from what `cache` remembers.

    Raises SourceError (E-SOURCE) if there is no such file.
    """
    return source_identities([path], cache)[0]


def source_identities(paths: Iterable[Path | str], cache: Path | str) -> list[str]:
    """`source_identity` of many files, with one look into the memory. Raises SourceError (E-SOURCE)."""
    cache = Path(cache)
    known, fresh, found = _load(cache), {}, []
    for path in paths:
        try:
            absolute = str(Path(path).expanduser().resolve(strict=True))
            stamp = _stamp(absolute)
            entry = known.get(absolute)
            if not (isinstance(entry, dict) and entry.get("stamp") == stamp and _is_sha256(entry.get("sha256"))):
                entry = {"stamp": stamp, "sha256": hash_file(absolute)}
                if _stamp(absolute) == stamp:  # else it changed meanwhile
                    known[absolute] = fresh[absolute] = entry
        except OSError as error:
            why = error.strerror or "can't be read"
            raise SourceError("source", path, why, "check the source in the configuration") from None
        found.append(str(entry["sha256"]))
    if fresh:
        _remember(cache, fresh)
    return found


def _stamp(path: str) -> list[int]:
    status = Path(path).stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _load(cache: Path) -> dict[str, Any]:
    try:
        data = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def _remember(cache: Path, fresh: dict[str, Any]) -> None:
    """Add entries; a cache that can't be written is no reason to stop."""
    entries = {key: value for key, value in _load(cache).items() if Path(key).exists()}
    try:
        write_json(cache, entries | fresh)
    except (OSError, DiskError):
        return


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64
