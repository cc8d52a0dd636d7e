"""The VAEs, LoRAs, embeddings, upscalers and ControlNets that an engine can use: files in the models folder, found by name, known by hash."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from darkroom.base.files import Stamp, file_stamp
from darkroom.base.hashing import hash_file
from darkroom.base.text import name_of_stem
from darkroom.request.assets import ASSETS, AssetNames, asset_error, asset_path, assets_in, unknown_asset

_RECEIPT = ".receipt.json"


@dataclass(frozen=True, slots=True)
class Asset:
    """A file: its kind (one of `ASSETS`), name, path, SHA256 (hex), and stamp when it was hashed."""

    kind: str
    name: str
    path: Path
    sha256: str
    stamp: Stamp


class Library:
    """Finds assets by name below `models_dir`, and among files that were added; of stages' checkpoints it knows added folders.

    A file is hashed when it is first used and whenever it changed, so that a picture's metadata names what was read.
    """

    def __init__(self, models_dir: Path | str) -> None:
        self.models_dir = Path(models_dir)
        self._added: dict[tuple[str, str], Path] = {}
        self._hashes: dict[Path, tuple[Stamp, str]] = {}

    def add(self, kind: str, name: str, path: Path) -> None:
        """Let `name` mean the file at `path`, in any folder."""
        self._added[kind, name] = path

    def added(self, kind: str, name: str) -> Path | None:
        """The path that `name` was made to mean; None for any other name."""
        return self._added.get((kind, name))

    def names(self) -> AssetNames:
        """The names of all assets, those too whose file is missing although it was fetched: `find` says so."""
        there = AssetNames.of_folder(self.models_dir)
        return AssetNames(*(sorted({*getattr(there, kind), *self._more_names(kind)}) for kind in ASSETS))

    def _more_names(self, kind: str) -> Iterator[str]:
        yield from (name for other, name in self._added if other == kind)
        for receipt in (self.models_dir / kind).glob(f"*{_RECEIPT}"):
            yield name_of_stem(receipt.name.removesuffix(_RECEIPT))

    def find(self, kind: str, name: str) -> Asset:
        """The file of that name.

        Raises LoraError (E-LORA), EmbeddingError (E-EMBEDDING), UpscalerError (E-UPSCALER), ControlError (E-CONTROL) or RequestError (E-REQUEST)
        if there is none or it can't be read.
        """
        known = getattr(self.names(), kind)
        if name not in known:  # a look into the folder's list: nothing in a name can lead out of it
            raise unknown_asset(kind, name, known)
        there = assets_in(self.models_dir, kind)
        path = self._added.get((kind, name)) or there.get(name, asset_path(self.models_dir, kind, name))
        try:
            stamp = file_stamp(path.stat())
            known_as = self._hashes.get(path)
            if known_as is None or known_as[0] != stamp:
                known_as = self._hashes[path] = (stamp, hash_file(path))
            return Asset(kind, name, path, known_as[1], stamp)
        except FileNotFoundError:
            is_added = (kind, name) in self._added
            hint = "check the path" if is_added else "run `snakemake --cores 1 models/`, which makes it again"
            raise asset_error(kind, name, f"its file {path} is missing", hint) from None
        except OSError as error:
            why = f"{path}: {error.strerror or 'the file cannot be read'}"
            raise asset_error(kind, name, why, "check the path, or fetch it again") from None
