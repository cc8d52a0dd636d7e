"""The sources of a run as they are while it is planned, and where fetching puts them in the models folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darkroom.config import Checkpoint, Config, Vae
from darkroom.errors import ConfigError, SourceError
from darkroom.hashing import check_sha256
from darkroom.sources import SourceState, look_at

_FOLDER_SAYS_ITSELF = ("architecture", "prediction", "vae", "extract_ema")


@dataclass(frozen=True, slots=True)
class Stored:
    """The states of the configured sources by name, with look-ups for the rules."""

    config: Config
    checkpoints: Mapping[str, SourceState]
    vaes: Mapping[str, SourceState]

    def names(self, *, folders: bool) -> list[str]:
        """The checkpoints whose sources are Diffusers folders, or those whose sources are single files."""
        return [name for name, state in self.checkpoints.items() if state.is_folder == folders]

    def source(self, wildcards: Any) -> tuple[str, SourceState]:
        """The path and the state of the source that the wildcard `vae` or `checkpoint` names."""
        vae = wildcards.get("vae")
        if vae is not None:
            return self.config.vaes[vae].source, self.vaes[vae]
        return self.config.checkpoints[wildcards.checkpoint].source, self.checkpoints[wildcards.checkpoint]

    def fetched(self, name: str) -> list[str]:
        """Where a fetched checkpoint stands, and the VAE that takes the place of its own, if any."""
        ending = "" if self.checkpoints[name].is_folder else ".safetensors"
        return self._paths(name, ending, ".safetensors")

    def receipts(self, name: str) -> list[str]:
        """The receipts of what `fetched` names."""
        return self._paths(name, ".receipt.json", ".receipt.json")

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
    checkpoints = {name: _look_at(config, "checkpoints", name, given) for name, given in config.checkpoints.items()}
    vaes = {name: _look_at(config, "vaes", name, given) for name, given in config.vaes.items()}
    for name, state in checkpoints.items():
        if state.is_folder:
            _check_options(name, config.checkpoints[name])
    for name, state in vaes.items():
        if state.is_folder:
            why = f"is a folder; the VAE '{name}' has to be a single file"
            raise SourceError("source", config.vaes[name].source, why, "name the safetensors file in it")
    return Stored(config, checkpoints, vaes)


def _look_at(config: Config, section: str, name: str, given: Checkpoint | Vae) -> SourceState:
    models = Path(config.models_dir)
    outputs = [models / section / f"{name}.safetensors", models / section / name, models / "diffusers" / name]
    _check_place(given.source, outputs, f"{section}.{name}")
    state = look_at(given.source, models / section / f"{name}.receipt.json", models / ".cache/sources.json")
    hint = f"check it, or mend {section}.{name}.sha256 in the configuration"
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
