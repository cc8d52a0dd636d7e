"""The sources of a run while it is planned: what each is, where fetching puts it, and the pins of remote ones.

A pin says which bytes are wanted. It is written while a run is planned, from the configuration and the lock file. Where
the receipt that is there fits, the pin is made older than anything, so that it counts as no change: the first fetch
finds out which bytes they are, which changes the pin and nothing else. Where the receipt does not fit, the pin names
what it is to replace, so that its content is another than that of any pin before.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from darkroom.base.files import write_bytes
from darkroom.base.hashing import check_sha256
from darkroom.config import Checkpoint, Config, Embedding, Lora, Vae
from darkroom.errors import ConfigError, SourceError
from darkroom.request.assets import ASSETS, asset_path
from darkroom.sources import FetchReceipt, Source, SourceState, inspect_source, parse_reference
from darkroom.sources.lock import LockEntry, lock_key, read_lock, variant_of

PINS = Path(".snakemake/darkroom/pins")
_LONG_AGO_S = 10**9
"""In 2001. Not 0, which some tools take for a missing time."""


@dataclass(frozen=True, slots=True)
class Pin:
    """What is wanted: the `source` by its canonical text, its `sha256` or content digest as far as it is known, and which
    weights of a folder (`variant`)."""

    source: str
    sha256: str | None
    variant: str | None

    def fits(self, receipt: FetchReceipt) -> bool:
        """Whether what `receipt` speaks of is what is wanted."""
        is_same = (self.source, self.variant) == (receipt.source, receipt.variant)
        return is_same and self.sha256 in (None, receipt.sha256)


def pin_path(kind: str, name: str) -> Path:
    """Where the pin of that kind (a section of the configuration) and name lies."""
    return PINS / kind / f"{name}.json"


def write_pin(pin: Pin, path: Path, receipt: Path) -> None:
    """Leave the pin at `path`, touched only when it changed. Raises DiskError (E-DISK)."""
    before = _read(receipt)
    if before is not None and pin.fits(before):
        _write(path, asdict(pin))
        os.utime(path, (_LONG_AGO_S, _LONG_AGO_S))
    elif receipt.exists():
        replaced = {"sha256": before and before.sha256, "written_ns": receipt.stat().st_mtime_ns}
        _write(path, asdict(pin) | {"instead_of": replaced})
    else:
        _write(path, asdict(pin))


def _read(receipt: Path) -> FetchReceipt | None:
    """A damaged receipt fits nothing: fetching writes another."""
    try:
        return FetchReceipt.read(receipt)
    except SourceError:
        return None


def _write(path: Path, data: Mapping[str, Any]) -> None:
    text = (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()
    if not path.is_file() or path.read_bytes() != text:
        write_bytes(path, text)


KINDS = ("checkpoints", *ASSETS)
"""The sections of the configuration that name sources, and the folders of the models folder where those are kept."""
Given = Checkpoint | Vae | Lora | Embedding
_FOLDER_SAYS_ITSELF = ("architecture", "prediction", "vae", "extract_ema")


@dataclass(frozen=True, slots=True)
class Stored:
    """The configured sources by kind (a section of the configuration) and name, with look-ups for the rules.

    `states` says what each is, `pins` what is wanted of each remote one.
    """

    config: Config
    states: Mapping[tuple[str, str], SourceState]
    pins: Mapping[tuple[str, str], Pin]

    def names(self, *, folders: bool) -> list[str]:
        """The checkpoints whose sources are Diffusers folders, or those whose sources are single files."""
        return [name for name in self.config.checkpoints if self.states["checkpoints", name].is_folder == folders]

    def kind(self, wildcards: Any) -> str:
        """Which of the wildcards `checkpoint`, `vae`, `lora` and `embedding` there is."""
        return next(kind[:-1] for kind in KINDS if wildcards.get(kind[:-1]) is not None)

    def source(self, wildcards: Any) -> tuple[str, SourceState]:
        """The path or the canonical text of the source that the wildcard of `kind` names, and its state."""
        section, name = self._key(wildcards)
        pin = self.pins.get((section, name))
        given: Given = getattr(self.config, section)[name]
        return given.source if pin is None else pin.source, self.states[section, name]

    def pin(self, wildcards: Any) -> list[str]:
        """The pin that fetching a remote source depends on; a local source has none."""
        key = self._key(wildcards)
        return [str(pin_path(*key))] if key in self.pins else []

    def fetch_flags(self, wildcards: Any) -> list[str]:
        """The options of `darkroom fetch` that say how, and which bytes are expected, if that is known."""
        section, name = self._key(wildcards)
        given: Given = getattr(self.config, section)[name]
        models, fetch = self.config.models_dir, self.config.fetch
        expected = self.states[section, name].sha256 or given.sha256
        flags = ["--sha256", expected.lower()] if expected else []
        flags += ["--dates", f"{models}/.cache/fetched.json"]
        if (section, name) not in self.pins:
            return flags
        flags += ["--lock", fetch.lock, "--downloads", f"{models}/downloads"]
        flags += ["--dtype", dtype_of(given), "--options", fetch.model_dump_json(exclude={"lock"})]
        return flags

    @property
    def has_assets(self) -> bool:
        """Whether there is anything but checkpoints."""
        return any(kind != "checkpoints" for kind, _ in self.states)

    def asset_receipt(self, kind: str, name: str) -> str:
        """The receipt of a fetched asset."""
        return str(receipt_path(self.config.models_dir, kind, name))

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

    def write_pins(self) -> None:
        """Leave the pins where Snakemake looks for them. Raises DiskError (E-DISK)."""
        for (kind, name), pin in self.pins.items():
            write_pin(pin, pin_path(kind, name), receipt_path(self.config.models_dir, kind, name))

    def _key(self, wildcards: Any) -> tuple[str, str]:
        kind = self.kind(wildcards)
        return f"{kind}s", wildcards.get(kind)

    def _paths(self, name: str, ending: str, vae_ending: str) -> list[str]:
        vae, models = self.config.checkpoints[name].vae, self.config.models_dir
        checkpoint = f"{models}/checkpoints/{name}{ending}"
        return [checkpoint] if vae is None else [checkpoint, f"{models}/vaes/{vae}{vae_ending}"]


def copy_path(models_dir: Path | str, kind: str, name: str, *, is_folder: bool = False) -> Path:
    """Where the copy of a source of that kind (a section of the configuration) is put."""
    return Path(models_dir) / kind / (name if is_folder else f"{name}.safetensors")


def receipt_path(models_dir: Path | str, kind: str, name: str) -> Path:
    """Where the receipt of what `copy_path` names lies."""
    return Path(models_dir) / kind / f"{name}.receipt.json"


def look_at_sources(config: Config) -> Stored:
    """Find out what every configured source is right now; remote ones aren't asked.

    Raises SourceError (E-SOURCE) for one that is missing, of the wrong kind or where its own copy is made, HashError
    (E-HASH) for other bytes than the configuration expects, ConfigError (E-CONFIG) for options that a source can't
    follow, for a broken sidecar and a broken lock file, ModelError and IndexFileError for a folder that isn't a usable
    model.
    """
    given = {(kind, name): each for kind in KINDS for name, each in getattr(config, kind).items()}
    references = {key: parse_reference(each.source) for key, each in given.items()}
    states = {key: _look_at(config, *key, given[key], reference) for key, reference in references.items()}
    for (kind, name), state in states.items():
        if state.is_folder and kind == "checkpoints":
            _check_options(name, config.checkpoints[name])
        elif state.is_folder:
            why = f"is a folder; {kind}.{name} has to be a single file"
            raise SourceError("source", given[kind, name].source, why, "name the safetensors file in it")
    remote = {key: reference for key, reference in references.items() if not reference.is_local}
    lock = read_lock(config.fetch.lock) if remote else {}
    return Stored(config, states, {key: _make_pin(ref, given[key], lock) for key, ref in remote.items()})


def _look_at(config: Config, kind: str, name: str, given: Given, reference: Source) -> SourceState:
    models = Path(config.models_dir)
    if reference.is_local:
        outputs = [models / kind / f"{name}.safetensors", models / kind / name, models / "diffusers" / name]
        _check_place(given.source, outputs, f"{kind}.{name}")
    state = inspect_source(given.source, receipt_path(models, kind, name), models / ".cache/sources.json")
    if state.sha256 is not None:
        hint = f"check it, or mend {kind}.{name}.sha256 in the configuration"
        check_sha256("source", given.source, state.sha256, given.sha256, hint)
    return state


def _make_pin(reference: Source, given: Given, lock: Mapping[str, LockEntry]) -> Pin:
    dtype = dtype_of(given)
    locked = lock.get(lock_key(reference, dtype))
    wanted = given.sha256.lower() if given.sha256 else locked.sha256 if locked else None
    reference.refuse_unencrypted(wanted)
    return Pin(reference.text, wanted, variant_of(reference, dtype))


def dtype_of(given: Given) -> str:
    """The number format that a checkpoint asks for; only they are ever folders with several."""
    return given.dtype if isinstance(given, Checkpoint) else "fp16"


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
