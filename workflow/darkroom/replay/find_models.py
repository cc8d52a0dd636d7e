"""Finds the models and assets of pictures in a models folder: by their hashes first, and by name only where a picture states none.

A receipt says which file to look at; the file's own hash decides. A file without a receipt is hashed where no other will do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from darkroom.base.files import read_json_object
from darkroom.base.text import name_of_stem
from darkroom.checkpoint.audit import ORIGIN, read_identity, read_origin
from darkroom.engine.chain_models import CHECKPOINTS
from darkroom.engine.library import Library
from darkroom.errors import DarkroomError, ModelError
from darkroom.replay.own import Recipe, WantedAsset, WantedModel, usable_hash
from darkroom.request.assets import asset_error, assets_in

_RECEIPT = ".receipt.json"


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model folder, its name, its AutoV2 hash, and what it was converted from and how, as far as known."""

    folder: Path
    name: str
    autov2: str | None
    origin: dict[str, Any]

    def is_called(self, name: str) -> bool:
        """Whether that is its name, or that of its folder, by which stages name it."""
        return name in (self.name, self.folder.name)


@dataclass(slots=True)
class Found:
    """The model folder for a picture, where its assets are by kind and name, and what a person should know about both.

    The folders of its stages' checkpoints are among the assets.
    """

    model: Path
    assets: dict[tuple[str, str], Path] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class ModelsFolder:
    """A models folder, looked through once. `library` hashes each file once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._library = Library(folder)
        self._models: list[KnownModel] | None = None

    @property
    def models(self) -> list[KnownModel]:
        """The converted models, by name."""
        if self._models is None:
            root = self.folder / "diffusers"
            folders = sorted(path for path in root.glob("*") if path.is_dir() and not path.name.startswith("."))
            self._models = [_read_model(path, self.folder) for path in folders]
        return self._models

    def find(self, recipe: Recipe, model: Path | None = None) -> Found:
        """All that a picture is made with; `model` is a model folder to take for its own one, whatever the picture says.

        Raises ModelError (E-MODEL), LoraError (E-LORA), EmbeddingError (E-EMBEDDING), UpscalerError (E-UPSCALER) or
        RequestError (E-REQUEST) for what is missing, with its name and hash.
        """
        found = Found(model) if model is not None else self.find_model(recipe.model)
        if model is not None and not recipe.request.needs_own_checkpoint:
            found.notes.append(f"{model} is not used: the checkpoints of its stages make all of it")
        for checkpoint in recipe.checkpoints:
            other = self.find_model(checkpoint)
            found.assets[CHECKPOINTS, checkpoint.name] = other.model
            found.notes += [each for each in other.notes if each not in found.notes]
        for asset in recipe.assets:
            found.assets[asset.kind, asset.name] = self._find_asset(asset, found.notes)
        return found

    def find_model(self, wanted: WantedModel) -> Found:
        """The folder of a picture's model, or of a stage's. Raises ModelError (E-MODEL)."""
        sha256 = usable_hash(wanted.origin.get("source_sha256"))
        if sha256:
            same = [known for known in self.models if known.origin.get("source_sha256") == sha256]
            fitting = [known for known in same if not _differences(known, wanted)]
            if same and not fitting:
                raise self._other_conversion(wanted, same[0])
        elif wanted.autov2:
            fitting = [known for known in self.models if known.autov2 == wanted.autov2]
        else:
            fitting = [known for known in self.models if known.is_called(wanted.name)]
        named = [known for known in fitting if known.is_called(wanted.name)]
        if not named and not _are_alike(fitting):
            names = ", ".join(known.folder.name for known in fitting)
            why = f"its hash is that of several models: {names}"
            raise ModelError("model", wanted.label, why, "say which with --model FOLDER, or --models-dir")
        if not fitting:
            raise self._missing(wanted)
        chosen = (named or fitting)[0]
        found = Found(chosen.folder)
        if not (sha256 or wanted.autov2):
            found.notes.append(f"model '{wanted.name}' is taken by its name alone: the picture has no hash of it")
        elif chosen not in named:
            found.notes.append(f"model '{wanted.name}' is '{chosen.name}' here, by its hash")
        return found

    def _missing(self, wanted: WantedModel) -> ModelError:
        named = [known for known in self.models if known.is_called(wanted.name)]
        is_other = f"; the model of that name there is another one, {_label(named[0])}" if named else ""
        why = f"is not in {self.folder / 'diffusers'}{is_other}"
        hint = "make it with `snakemake --cores 1 models/`, or say where it is with --models-dir or --model"
        return ModelError("model", wanted.label, why, hint)

    def _other_conversion(self, wanted: WantedModel, known: KnownModel) -> ModelError:
        parts = [f"{key} is {there} there, {here} in the picture" for key, there, here in _differences(known, wanted)]
        why = f"was converted otherwise as '{known.name}': {', '.join(parts)}"
        return ModelError("model", wanted.label, why, "convert it as it was, or take what is there with --model FOLDER")

    def _find_asset(self, asset: WantedAsset, notes: list[str]) -> Path:
        if asset.sha256 is None:
            path = self._library.find(asset.kind, asset.name).path
            notes.append(f"{asset.kind[:-1]} '{asset.name}' is taken by its name alone: the picture has no hash of it")
            return path
        for name in self._candidates(asset):
            try:
                file = self._library.find(asset.kind, name)
            except DarkroomError:  # a receipt whose file is gone
                continue
            if file.sha256 == asset.sha256:
                if name != asset.name:
                    notes.append(f"{asset.kind[:-1]} '{asset.name}' is '{name}' here, by its SHA-256")
                return file.path
        label = f"{asset.name} [{asset.sha256}]"
        is_named = asset.name in assets_in(self.folder, asset.kind)
        other = "; the file of that name there is another one" if is_named else ""
        hint = "fetch it (see `darkroom fetch`), or say where it is with --models-dir"
        raise asset_error(asset.kind, label, f"no file in {self.folder / asset.kind} has that SHA-256{other}", hint)

    def _candidates(self, asset: WantedAsset) -> Iterator[str]:
        """Names of files that may be an asset: those whose receipts say so, the one of its name, then those without a receipt."""
        folder = self.folder / asset.kind
        receipts = {
            name_of_stem(path.name.removesuffix(_RECEIPT)): read_json_object(path).get("sha256")
            for path in sorted(folder.glob(f"*{_RECEIPT}"))
        }
        yield from (name for name, sha256 in receipts.items() if sha256 == asset.sha256)
        there = assets_in(self.folder, asset.kind)
        if asset.name in there:
            yield asset.name
        yield from (name for name in there if name not in receipts and name != asset.name)


def _read_model(folder: Path, models: Path) -> KnownModel:
    name, autov2 = read_identity(folder)
    origin = read_origin(folder)
    if not origin:  # without an audit, what was verified says which checkpoint it is
        receipt = read_json_object(models / "verified" / f"{folder.name}.json")
        autov2 = autov2 or usable_hash(receipt.get("autov2"))
        sha256 = usable_hash(receipt.get("source_sha256"))
        origin = {"source_sha256": sha256} if sha256 else {}
    return KnownModel(folder, name, autov2, origin)


def _differences(known: KnownModel, wanted: WantedModel) -> list[tuple[str, Any, Any]]:
    """The fields of a conversion in which a model isn't the picture's."""
    both = [key for key in ORIGIN if key in known.origin and key in wanted.origin]
    return [(key, known.origin[key], wanted.origin[key]) for key in both if known.origin[key] != wanted.origin[key]]


def _are_alike(models: Sequence[KnownModel]) -> bool:
    """Whether any of the models is as good as another: there is one at most, or all are equal conversions of one file."""
    if len(models) < 2:
        return True
    origins = [{key: known.origin.get(key) for key in ORIGIN} for known in models]
    return bool(origins[0]["source_sha256"]) and all(origin == origins[0] for origin in origins)


def _label(known: KnownModel) -> str:
    sha256 = known.origin.get("source_sha256") or known.autov2
    return f"'{known.name}' [{sha256}]" if sha256 else f"'{known.name}' of unknown hash"
