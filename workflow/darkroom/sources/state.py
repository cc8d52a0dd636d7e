"""What a source is right now, found out while a workflow is planned, without fetching anything and without the network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from darkroom.errors import SourceError
from darkroom.sources.identity import source_identities, source_identity
from darkroom.sources.receipt import FetchedFile, FetchReceipt
from darkroom.sources.references import parse_reference

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
    from darkroom.checkpoint.sidecar import read_sidecar

    return read_sidecar(path)
