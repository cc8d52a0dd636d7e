"""The configured sources of a run: the state of each, the paths that fetching writes, and the pins of remote ones.

A pin says which bytes of a remote source are wanted. It is written while a run is planned, from the configuration and
the lock file, and is its fetch's only input. If the existing receipt matches, the pin gets a modification time older
than any file's, so that it doesn't count as a change: the first fetch finds out the SHA256, which changes the pin and
nothing else. If the receipt doesn't match, the pin names the receipt it replaces, so that its content differs from that
of every earlier pin.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from darkroom.base.files import write_bytes
from darkroom.base.hashing import check_sha256
from darkroom.base.text import file_stem, name_of_stem
from darkroom.config import SECTIONS, Config
from darkroom.config_sources import Checkpoint, ControlNet, Embedding, Lora, Score, Upscaler, Vae
from darkroom.errors import ConfigError, SourceError
from darkroom.request.assets import ASSETS, asset_path
from darkroom.revisions import CONVERT
from darkroom.run.asset_folders import is_from_folder
from darkroom.sources import FetchReceipt, Source, SourceState, inspect_source, parse_reference
from darkroom.sources.lock import LockEntry, lock_key, read_lock, variant_of

PINS = Path(".snakemake/darkroom/pins")
_LONG_AGO_S = 10**9
"""In 2001. Not 0, which some tools take for a missing time."""

Key = tuple[str, str]
"""A section of the configuration that names sources, and a name in it."""
Given = Checkpoint | Vae | Lora | Embedding | Score | Upscaler | ControlNet
_GIVEN_BY_FOLDER = ("architecture", "prediction", "vae", "extract_ema")


@dataclass(frozen=True, slots=True)
class Pin:
    """Which bytes are wanted: the `source` as canonical text, its `sha256` or content digest if known, and the `variant`
    of a folder's weights."""

    source: str
    sha256: str | None
    variant: str | None

    def fits(self, receipt: FetchReceipt) -> bool:
        """Whether `receipt` describes the wanted bytes."""
        is_same = (self.source, self.variant) == (receipt.source, receipt.variant)
        return is_same and self.sha256 in (None, receipt.sha256)


def pin_path(section: str, name: str) -> Path:
    """The path of a source's pin."""
    return PINS / section / f"{file_stem(name)}.json"


def write_pin(pin: Pin, path: Path, receipt: Path) -> None:
    """Write the pin to `path` if it has changed. Raises DiskError (E-DISK)."""
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
    """The receipt, or None for a damaged one, which the next fetch replaces."""
    try:
        return FetchReceipt.read(receipt)
    except SourceError:
        return None


def _write(path: Path, data: Mapping[str, Any]) -> None:
    text = (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()
    if not path.is_file() or path.read_bytes() != text:
        write_bytes(path, text)


class States(Mapping[Key, SourceState]):
    """The state of each source, found out when it is first asked for: hashing a folder of LoRAs takes long."""

    def __init__(self, inspections: Mapping[Key, Callable[[], SourceState]]) -> None:
        self._inspections = inspections
        self._known: dict[Key, SourceState] = {}

    def __getitem__(self, key: Key) -> SourceState:
        if key not in self._known:
            self._known[key] = self._inspections[key]()
        return self._known[key]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._inspections)

    def __len__(self) -> int:
        return len(self._inspections)


@dataclass(frozen=True, slots=True)
class Sources:
    """The configured sources by section and name, with look-ups for the rules.

    `states` holds the state of each, `pins` the wanted bytes of each remote one.
    """

    config: Config
    states: Mapping[Key, SourceState]
    pins: Mapping[Key, Pin]

    def names(self, *, folders: bool) -> list[str]:
        """The checkpoints whose sources are Diffusers folders, or those whose sources are single files."""
        return [name for name in self.config.checkpoints if self.states["checkpoints", name].is_folder == folders]

    def stems(self, section: str) -> list[str]:
        """The names of the files, without suffix, that a section's sources are fetched to."""
        return [file_stem(name) for name in getattr(self.config, section)]

    def kind(self, wildcards: Any) -> str:
        """What a rule fetches: the name of its wildcard, `checkpoint`, `vae`, `lora`, `embedding`, `upscaler`, `controlnet` or `score`."""
        return SECTIONS[self._key(wildcards)[0]]

    def source(self, wildcards: Any) -> tuple[str, SourceState]:
        """The path or the canonical text of the source that the wildcard names, and its state."""
        key = self._key(wildcards)
        return self.source_of(key), self.states[key]

    def source_of(self, key: Key) -> str:
        """The path or the canonical text of a source."""
        pin, (section, name) = self.pins.get(key), key
        given: Given = getattr(self.config, section)[name]
        return given.source if pin is None else pin.source

    def pin(self, wildcards: Any) -> list[str]:
        """The pin that fetching a remote source depends on; a local source has none."""
        key = self._key(wildcards)
        return [str(pin_path(*key))] if key in self.pins else []

    def fetch_flags(self, wildcards: Any) -> list[str]:
        """The options of `darkroom fetch` for the source that the wildcard names."""
        return self.fetch_options(self._key(wildcards))[1]

    def fetch_options(self, key: Key) -> tuple[str, list[str]]:
        """A source as `darkroom fetch` takes it, and its options: how to fetch, and the expected SHA256 if it is known."""
        section, name = key
        given: Given = getattr(self.config, section)[name]
        models, fetch = self.config.models_dir, self.config.fetch
        expected = self.states[key].sha256 or given.sha256
        flags = ["--sha256", expected.lower()] if expected else []
        flags += ["--dates", f"{models}/.cache/fetched.json"]
        if key not in self.pins:
            return self.source_of(key), flags
        flags += ["--lock", fetch.lock, "--downloads", f"{models}/downloads"]
        flags += ["--dtype", dtype_of(given), "--options", fetch.model_dump_json(exclude={"lock"})]
        return self.source_of(key), flags

    @property
    def has_assets(self) -> bool:
        """Whether the configuration names any VAE, LoRA, embedding, upscaler or ControlNet."""
        return any(section in ASSETS for section, _ in self.states)

    def asset_receipt(self, section: str, name: str) -> str:
        """The receipt of a fetched asset or score."""
        return str(receipt_path(self.config.models_dir, section, name))

    def fetched(self, name: str) -> list[str]:
        """The path of a fetched checkpoint, and of the VAE that replaces its own, if any."""
        ending = "" if self.states["checkpoints", name].is_folder else ".safetensors"
        return self._paths(name, ending, ".safetensors")

    def receipts(self, name: str) -> list[str]:
        """The receipts of the files that `fetched` names."""
        return self._paths(name, ".receipt.json", ".receipt.json")

    def usable(self) -> list[str]:
        """All that pictures can be made and scored with: models, their verified receipts, VAEs, LoRAs, embeddings, upscalers, ControlNets, scores."""
        models = self.config.models_dir
        folders = [f"{models}/diffusers/{name}" for name in self.config.checkpoints]
        verified = [f"{models}/verified/{name}.json" for name in self.config.checkpoints]
        assets = [asset_path(models, section, name) for section in ASSETS for name in getattr(self.config, section)]
        scores = [copy_path(models, "scores", name) for name in self.config.scores]
        return [*folders, *verified, *map(str, [*assets, *scores])]

    def conversion(self, name: str) -> list[Any]:
        """Everything that decides a conversion in addition to the receipts."""
        given = self.config.checkpoints[name]
        return [given.dtype, given.prediction, given.architecture, given.extract_ema, CONVERT]

    def conversion_flags(self, name: str) -> list[str]:
        """The options of `darkroom convert` that only some checkpoints need."""
        flags = ["--extract-ema"] if self.config.checkpoints[name].extract_ema else []
        for vae, receipt in zip(self.fetched(name)[1:], self.receipts(name)[1:], strict=True):
            flags += ["--vae", vae, "--vae-receipt", receipt]
        return flags

    def write_pins(self) -> None:
        """Write the pins to where the rules expect them. Raises DiskError (E-DISK)."""
        for key, pin in self.pins.items():
            write_pin(pin, pin_path(*key), receipt_path(self.config.models_dir, *key))

    def _key(self, wildcards: Any) -> Key:
        named = ((section, wildcards.get(kind)) for section, kind in SECTIONS.items())
        return next((section, name_of_stem(stem)) for section, stem in named if stem is not None)

    def _paths(self, name: str, ending: str, vae_ending: str) -> list[str]:
        vae, models = self.config.checkpoints[name].vae, self.config.models_dir
        checkpoint = f"{models}/checkpoints/{name}{ending}"
        return [checkpoint] if vae is None else [checkpoint, f"{models}/vaes/{vae}{vae_ending}"]


def copy_path(models_dir: Path | str, section: str, name: str, *, is_folder: bool = False) -> Path:
    """The path that a source is fetched to."""
    return Path(models_dir) / section / (name if is_folder else f"{file_stem(name)}.safetensors")


def receipt_path(models_dir: Path | str, section: str, name: str) -> Path:
    """The path of the receipt of what `copy_path` names."""
    return Path(models_dir) / section / f"{file_stem(name)}.receipt.json"


def inspect_sources(config: Config) -> Sources:
    """Find out the state of every configured source, without the network; of those in folders once a run needs them.

    Raises SourceError (E-SOURCE) for a source that is missing, of the wrong kind or at the path of its own copy,
    HashError (E-HASH) for a wrong SHA256, ConfigError (E-CONFIG) for options that don't apply to a source, a broken
    sidecar or a broken lock file, ModelError (E-MODEL) and IndexFileError (E-INDEX) for a folder that isn't a usable
    model.
    """
    given = {(section, name): each for section in SECTIONS for name, each in getattr(config, section).items()}
    references = {key: parse_reference(each.source) for key, each in given.items()}
    states = States(
        {key: partial(_inspect, config, *key, given[key], reference) for key, reference in references.items()}
    )
    for section, name in (key for key, each in given.items() if not is_from_folder(each)):
        state = states[section, name]
        if state.is_folder and section == "checkpoints":
            _check_options(name, config.checkpoints[name])
        elif state.is_folder:
            why = f"is a folder; {section}.{name} has to be a single file"
            raise SourceError("source", given[section, name].source, why, "name the safetensors file in it")
    remote = {key: reference for key, reference in references.items() if not reference.is_local}
    lock = read_lock(config.fetch.lock) if remote else {}
    return Sources(config, states, {key: _make_pin(ref, given[key], lock) for key, ref in remote.items()})


def _inspect(config: Config, section: str, name: str, given: Given, reference: Source) -> SourceState:
    models = Path(config.models_dir)
    if reference.is_local:
        outputs = [copy_path(models, section, name), models / section / name, models / "diffusers" / name]
        _check_place(given.source, outputs, f"{section}.{name}")
    state = inspect_source(
        given.source, receipt_path(models, section, name), models / ".cache/sources.json", given.sha256
    )
    if state.sha256 is not None:
        hint = f"check it, or correct {section}.{name}.sha256 in the configuration"
        check_sha256("source", given.source, state.sha256, given.sha256, hint)
    return state


def _make_pin(reference: Source, given: Given, lock: Mapping[str, LockEntry]) -> Pin:
    dtype = dtype_of(given)
    locked = lock.get(lock_key(reference, dtype))
    wanted = given.sha256.lower() if given.sha256 else locked.sha256 if locked else None
    reference.refuse_unencrypted(wanted)
    return Pin(reference.text, wanted, variant_of(reference, dtype))


def dtype_of(given: Given) -> str:
    """The dtype of the weights to fetch; only checkpoints can be folders with several."""
    return given.dtype if isinstance(given, Checkpoint) else "fp16"


def _check_place(source: str, outputs: Sequence[Path], key: str) -> None:
    """Refuse a source at a path that a job writes: Snakemake deletes a job's outputs before it starts the job."""
    path = Path(source).expanduser()
    places = [path.resolve(), path.parent.resolve() / path.name]  # a link, and what it leads to
    made = [output.parent.resolve() / output.name for output in outputs]
    if any(place.is_relative_to(output) for place in places for output in made):
        why = f"is where {key} itself is made"
        raise SourceError("source", source, why, f"move it elsewhere and correct {key}.source in the configuration")


def _check_options(name: str, given: Checkpoint) -> None:
    """Refuse the options that a Diffusers folder decides itself, which would otherwise be ignored."""
    for key in _GIVEN_BY_FOLDER:
        if getattr(given, key) != Checkpoint.model_fields[key].default:
            why = "the source is a Diffusers folder, which says that itself and is taken as it is"
            raise ConfigError(f"checkpoints.{name}.{key} =", getattr(given, key), why, f"leave {key} out")
