"""Hashes of local sources, for planning a workflow: nothing is fetched, and each file is read once.

The cache is a JSON file: absolute path to file stamp and hash. A broken one counts as empty, and losing it costs time; of
two concurrent writers the later one's entries win.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from darkroom.base.files import file_stamp, read_json_object, write_json
from darkroom.base.hashing import hash_file
from darkroom.errors import DiskError, SourceError
from darkroom.sources.receipt import FetchedFile

INDEX = "model_index.json"  # not imported: the checkpoint package takes more imports than planning should pay for


def source_identity(path: Path | str, cache: Path | str) -> str:
    """The SHA256 (hex) of the file at `path`; read only if size, time or inode differ from what `cache` remembers.

    Raises SourceError (E-SOURCE) if there is no such file.
    """
    return source_identities([path], cache)[0]


def source_identities(paths: Iterable[Path | str], cache: Path | str) -> list[str]:
    """`source_identity` of many files, which reads the cache once. Raises SourceError (E-SOURCE)."""
    cache = Path(cache)
    known, fresh, found = read_json_object(cache), {}, []
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


def last_identity(path: Path, cache: Path) -> str | None:
    """The SHA256 that the file at `path` had when it was last looked at, though it may be gone; None if it never was."""
    entry = read_json_object(cache).get(str(path.resolve()))
    found = entry.get("sha256") if isinstance(entry, dict) else None
    return found if _is_sha256(found) else None


def folder_digest(folder: Path, cache: Path) -> str:
    """The content digest of a Diffusers folder; files are read only if `cache` doesn't know them.

    Raises SourceError (E-SOURCE), ModelError (E-MODEL) or IndexFileError (E-INDEX) for a folder that isn't a model.
    """
    if not (folder / INDEX).is_file():
        why = f"is a folder without {INDEX}"
        raise SourceError("source", folder, why, "give a Diffusers folder or a .safetensors file")
    # Here, since most runs have no folders, and planning should be quick.
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


def sidecar_parameterization(path: Path) -> str | None:
    """The parameterization in the sidecar beside a file; None without one. Raises ConfigError (E-CONFIG)."""
    if not path.with_suffix(".yaml").is_file():
        return None
    from darkroom.checkpoint.prediction import read_sidecar

    return read_sidecar(path)


def _stamp(path: str) -> list[int]:
    """The file's stamp as JSON gives it back."""
    return list(file_stamp(Path(path).stat()))


def _remember(cache: Path, fresh: dict[str, Any]) -> None:
    """Add entries; a cache that can't be written is no reason to stop. Those of files that are gone stay."""
    try:
        write_json(cache, read_json_object(cache) | fresh)
    except (OSError, DiskError):
        return


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64
