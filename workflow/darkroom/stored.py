"""The sources of a run as they are while it is planned, and where fetching puts them in the models folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darkroom.assets import ASSETS, asset_path
from darkroom.config import Checkpoint, Config, Embedding, Lora, Vae
from darkroom.errors import ConfigError, SourceError
from darkroom.hashing import check_sha256
from darkroom.sources import SourceState, look_at

KINDS = ("checkpoints", *ASSETS)
_FOLDER_SAYS_ITSELF = ("architecture", "prediction", "vae", "extract_ema")


@dataclass(frozen=True, slots=True)
class Stored:
    """The states of the configured sources by kind (a section of the configuration) and name, with look-ups for the rules."""

    config: Config
    states: Mapping[tuple[str, str], SourceState]

    def names(self, *, folders: bool) -> list[str]:
        """The checkpoints whose sources are Diffusers folders, or those whose sources are single files."""
        return [name for name in self.config.checkpoints if self.states["checkpoints", name].is_folder == folders]

    def kind(self, wildcards: Any) -> str:
        """Which of the wildcards `checkpoint`, `vae`, `lora` and `embedding` there is."""
        return next(kind[:-1] for kind in KINDS if wildcards.get(kind[:-1]) is not None)

    def source(self, wildcards: Any) -> tuple[str, SourceState]:
        """The path and the state of the source that the wildcard of `kind` names."""
        kind = self.kind(wildcards)
        section, name = f"{kind}s", wildcards.get(kind)
        return getattr(self.config, section)[name].source, self.states[section, name]

    def asset_receipt(self, kind: str, name: str) -> str:
        """The receipt of a fetched asset."""
        return str(asset_path(self.config.models_dir, kind, name).with_suffix(".receipt.json"))

    def fetched(self, name: str) -> list[str]:
        """Where a fetched checkpoint stands, and the VAE that takes the place of its own, if any."""
        ending = "" if self.states["checkpoints", name].is_folder else ".safetensors"
        return self._paths(name, ending, ".safetensors")

    def receipts(self, name: str) -> list[str]:
        """The receipts of what `fetched` names."""
        return self._paths(name, ".receipt.json", ".receipt.json")

    def usable(self) -> list[str]:
        """Everything that pictures can be made with: models with their verified receipts, VAEs, LoRAs and embeddings."""
        models = self.config.models_dir
        folders = [f"{models}/diffusers/{name}" for name in self.config.checkpoints]
        verified = [f"{models}/verified/{name}.json" for name in self.config.checkpoints]
        assets = [asset_path(models, kind, name) for kind in ASSETS for name in getattr(self.config, kind)]
        return [*folders, *verified, *map(str, assets)]

    def conversion_flags(self, name: str) -> list[str]:
        """The options of `darkroom convert` that only some checkpoints need."""
        flags = ["--extract-ema"] if self.config.checkpoints[name].extract_ema else []
        for vae, receipt in zip(self.fetched(name)[1:], self.receipts(name)[1:], strict=True):
            flags += ["--vae", vae, "--vae-receipt", receipt]
        return flags

    def _paths(self, name: str, ending: str, vae_ending: str) -> list[str]:
        vae, models = self.config.checkpoints[name].vae, self.config.models_dir
        checkpoint = f"{models}/checkpoints/{name}{ending}"
        return [checkpoint] if vae is None else [checkpoint, f"{models}/vaes/{vae}{vae_ending}"]


def look_at_sources(config: Config) -> Stored:
    """Find out what every configured source is right now.

    Raises SourceError (E-SOURCE) for one that is missing, of the wrong kind or where its own copy is made, HashError
    (E-HASH) for other bytes than the configuration expects, ConfigError (E-CONFIG) for options that a source can't
    follow and for a broken sidecar, ModelError and IndexFileError for a folder that isn't a usable model.
    """
    states = {
        (kind, name): _look_at(config, kind, name, given)
        for kind in KINDS
        for name, given in getattr(config, kind).items()
    }
    for (kind, name), state in states.items():
        if state.is_folder and kind == "checkpoints":
            _check_options(name, config.checkpoints[name])
        elif state.is_folder:
            why = f"is a folder; {kind}.{name} has to be a single file"
            raise SourceError("source", getattr(config, kind)[name].source, why, "name the safetensors file in it")
    return Stored(config, states)


def _look_at(config: Config, kind: str, name: str, given: Checkpoint | Vae | Lora | Embedding) -> SourceState:
    models = Path(config.models_dir)
    outputs = [models / kind / f"{name}.safetensors", models / kind / name, models / "diffusers" / name]
    _check_place(given.source, outputs, f"{kind}.{name}")
    state = look_at(given.source, models / kind / f"{name}.receipt.json", models / ".cache/sources.json")
    hint = f"check it, or mend {kind}.{name}.sha256 in the configuration"
    check_sha256("source", given.source, state.sha256, given.sha256, hint)
    return state


def _check_place(source: str, outputs: Sequence[Path], key: str) -> None:
    """Snakemake deletes what a job makes before it starts the job: nobody's only copy may stand there."""
    path = Path(source).expanduser()
    places = [path.resolve(), path.parent.resolve() / path.name]  # a link, and what it leads to
    made = [output.parent.resolve() / output.name for output in outputs]
    if any(place.is_relative_to(output) for place in places for output in made):
        why = f"is where {key} itself is made"
        raise SourceError("source", source, why, f"move it elsewhere and mend {key}.source in the configuration")


def _check_options(name: str, given: Checkpoint) -> None:
    """A Diffusers folder says itself what it is; an option that would be passed over is refused."""
    for key in _FOLDER_SAYS_ITSELF:
        if getattr(given, key) != Checkpoint.model_fields[key].default:
            why = "the source is a Diffusers folder, which says that itself and is taken as it is"
            raise ConfigError(f"checkpoints.{name}.{key} =", getattr(given, key), why, f"leave {key} out")
