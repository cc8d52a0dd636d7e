"""What a source is right now, inspected while a workflow is planned: no fetching, no network, hashes remembered.

The memory is a JSON file: absolute path to size, modification time, inode and hash. Losing it costs time only, so
a broken one counts as empty; of two writers at once the later one's entries win.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darkroom.base.files import write_json
from darkroom.base.hashing import hash_file
from darkroom.errors import DiskError, SourceError
from darkroom.sources.receipt import FetchedFile, FetchReceipt
from darkroom.sources.references import parse_reference


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


INDEX = "model_index.json"  # not imported: reading models takes more imports than planning should pay for


@dataclass(frozen=True, slots=True)
class SourceState:
    """`sha256` of the file, or the content digest of the folder; `parameterization` of the file's sidecar, if any.

    Both are None of a remote source, which isn't asked.
    """

    sha256: str | None
    parameterization: str | None
    is_folder: bool


def look_at(source: str, receipt: Path, cache: Path) -> SourceState:
    """The state of `source`; what was fetched before, as `receipt` says, if the source is gone.

    Hashes are remembered in the file `cache`. Raises SourceError (E-SOURCE) where there is neither source nor
    receipt and for what is no source at all, ModelError (E-MODEL) or IndexFileError (E-INDEX) for a folder that isn't a
    model, ConfigError (E-CONFIG) for a broken sidecar.
    """
    reference = parse_reference(source)
    if not reference.is_local:
        return SourceState(None, None, reference.is_folder)
    path = Path(source).expanduser()
    if path.is_dir():
        return SourceState(_folder_digest(path, cache), None, True)
    if path.is_file():
        return SourceState(source_identity(path, cache), _parameterization(path), False)
    if receipt.is_file() and not path.exists():
        before = FetchReceipt.read(receipt)
        return SourceState(before.sha256, before.parameterization, before.files is not None)
    raise SourceError("source", source, "is no file and no folder", "mend its path in the configuration")


def _folder_digest(folder: Path, cache: Path) -> str:
    if not (folder / INDEX).is_file():
        why = f"is a folder without {INDEX}"
        raise SourceError("source", folder, why, "give a Diffusers folder or a .safetensors file")
    # Imported where it is needed: most runs have no folders, and planning should be quick.
    from darkroom.checkpoint.folder import model_files
    from darkroom.checkpoint.verified import content_digest

    relatives = model_files(folder)
    paths = [folder / relative for relative in relatives]
    hashes = source_identities(paths, cache)
    return content_digest(
        {
            relative: FetchedFile(size=path.stat().st_size, sha256=sha256)
            for relative, path, sha256 in zip(relatives, paths, hashes, strict=True)
        }
    )


def _parameterization(path: Path) -> str | None:
    if not path.with_suffix(".yaml").is_file():
        return None
    from darkroom.checkpoint.prediction import read_sidecar

    return read_sidecar(path)
