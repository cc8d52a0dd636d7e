"""The models that a server offers, by name, found by an argument, a configuration, the environment or on a volume."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from darkroom.base.text import loose, shorten, unknown_name
from darkroom.checkpoint.audit import read_audit
from darkroom.checkpoint.index import INDEX
from darkroom.config import Config
from darkroom.errors import ModelError, UnknownModelError
from darkroom.serve.engines import ModelFiles, log_missing

VARIABLE = "DIFFUSERS_DIR"
DEFAULT_CONFIG = Path("config/config.yaml")
_CONVERT = "convert the checkpoint first: darkroom convert CHECKPOINT MODEL_DIR"
VOLUME = Path("/runpod-volume/models")


@dataclass(frozen=True, slots=True)
class Model:
    """A model: its name, files, and the hashes of the checkpoint it came from (None if unknown)."""

    name: str
    files: ModelFiles
    model_hash: str | None
    sha256: str | None

    @property
    def title(self) -> str:
        """The name that A1111 shows for a checkpoint: `name.safetensors [hash]`."""
        known_as = f" [{self.model_hash}]" if self.model_hash else ""
        return f"{self.name}.safetensors{known_as}"


class Models:
    """Models by name; `default` is for requests without a model. `models_dir` holds the LoRAs, embeddings and VAEs."""

    def __init__(self, models: Iterable[Model], models_dir: Path) -> None:
        self._models = {model.name: model for model in models}
        self.models_dir = models_dir
        self.default = next(iter(self._models))

    @property
    def names(self) -> list[str]:
        return list(self._models)

    @property
    def files(self) -> Mapping[str, ModelFiles]:
        return {model.name: model.files for model in self._models.values()}

    def get(self, name: str | None = None) -> Model:
        """The model with that name, title or AutoV2 hash; the default for None. Raises UnknownModelError (E-UNKNOWN)."""
        if name is None:
            return self._models[self.default]
        for model in self._models.values():
            spellings = {model.name, f"{model.name}.safetensors", model.title, f"{model.name} [{model.model_hash}]"}
            if name in spellings or (model.model_hash and name.lower() == model.model_hash.lower()):
                return model
        near = [model for model in self._models.values() if loose(model.name) == loose(name)]
        if len(near) == 1:
            return near[0]
        why = str(unknown_name("model", name, self._models))
        raise UnknownModelError("model", shorten(name, 200), why, "name one of the models that this server has")


def find_models(model_dir: Path | None, config: Config | None, path: Path | None = None) -> Models:
    """The models to serve: MODEL_DIR, else the config's checkpoints, else DIFFUSERS_DIR, else all on the volume.

    `path` is the config's file, for hints.

    Raises ModelError (E-MODEL), "Diffusers format missing", for a folder that isn't a converted model.
    """
    if model_dir is None and config is not None:
        return _of_config(config, path)
    given = model_dir or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
    if given is not None:
        folder = Path(os.path.abspath(given))  # noqa: PTH100 - a link stays a link
        verified = folder.parent.parent / "verified" / f"{folder.name}.json"
        return Models([_read(folder, verified)], folder.parent.parent)
    folders = _on_volume()
    if not folders:
        log_missing(f"no model was named, and none is in {VOLUME}")
        hint = f"name a model's folder or a configuration, or set {VARIABLE}"
        raise ModelError("Diffusers format missing: no model in", VOLUME, "and none was named", hint)
    return Models(
        [_read(folder, VOLUME / "verified" / f"{folder.name}.json", folder.name) for folder in folders], VOLUME
    )


def are_models_around() -> bool:
    """Whether DIFFUSERS_DIR or the volume names models to serve."""
    return bool(os.environ.get(VARIABLE)) or bool(_on_volume())


def _on_volume() -> list[Path]:
    return sorted(path.parent for path in (VOLUME / "diffusers").glob(f"*/{INDEX}"))


def _of_config(config: Config, path: Path | None) -> Models:
    configured = "" if path in (None, DEFAULT_CONFIG) else f" --configfile {path}"
    models_dir = Path(os.path.abspath(config.models_dir))  # noqa: PTH100
    return Models(
        [
            _read(
                models_dir / "diffusers" / name,
                models_dir / "verified" / f"{name}.json",
                name,
                f"run snakemake --cores 1{configured} -- {config.models_dir}/verified/{name}.json",
            )
            for name in config.checkpoints
        ],
        models_dir,
    )


def _read(folder: Path, verified: Path, name: str | None = None, hint: str = _CONVERT) -> Model:
    """A model whose folder exists; its content is checked when it is loaded."""
    if not (folder / INDEX).is_file():
        log_missing(f"{folder} has no {INDEX}")
        raise ModelError("Diffusers format missing", folder, f"it has no {INDEX}", hint)
    audit = read_audit(folder.resolve())
    known = name or (audit.name if audit else folder.name)
    files = ModelFiles(folder, verified if verified.is_file() else None)
    return Model(known, files, audit.autov2 if audit else None, audit.source_sha256 if audit else None)
