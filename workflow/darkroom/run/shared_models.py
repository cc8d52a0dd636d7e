"""Runs that share a models folder: no run makes what another run is making, or deletes what another run uses.

Snakemake locks a working folder, not a models folder, and deletes a job's outputs before it starts the job: if two runs
plan the same conversion, the second would delete the first one's model. So each run records in `MODELS/.runs` which
models it makes and which it uses, before Snakemake looks at them. Other runs wait for the former and never replace the
latter.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from darkroom.base.claims import Presence, claim
from darkroom.base.files import write_bytes, write_json
from darkroom.errors import DiskError, InUseError, SharedError
from darkroom.run.models import Recorded, inspect_model, outputs
from darkroom.run.sources import Key, Sources

_POLL_S = 0.5
_ID = Path(".snakemake/darkroom/project.json")
_HOME = "the folder it lies in"


@dataclass(frozen=True, slots=True)
class OtherRun:
    """Another run: its working folder, and the sources, as `SECTION.NAME`, that it makes and uses."""

    project: str
    makes: frozenset[str]
    uses: frozenset[str]


class SharedModels:
    """This run among those that share its models folder."""

    def __init__(self, sources: Sources, recorded: Recorded) -> None:
        self._sources, self._recorded = sources, recorded
        self.broken: dict[Key, tuple[Path, ...]] = {}
        """After `join`: what has to be made again as it was, by source."""
        self._folder = Path(sources.config.models_dir) / ".runs"
        self._makes: dict[Key, dict[Path, object]] = {}
        self._uses: set[Key] = set()
        self._presence: Presence | None = None
        self._lock = threading.Lock()

    def join(self) -> list[Key]:
        """Wait until no other run makes what this run may need, then record what it will make and use.

        Returns the sources whose models other projects have made. Raises SharedError (E-SHARED) if another project has
        made a model of the same name with other settings, InUseError (E-IN-USE) if another run uses a model that this
        run would have to make again.
        """
        waited = False
        try:
            self._presence = Presence(self._folder / "run", self._record(), self._look_after)
        except (DiskError, OSError):
            return []  # no run makes anything in a read-only folder
        atexit.register(self.leave)
        while True:
            with claim(self._folder / "turn"):
                others = self._others()
                busy = self._find(others, self._sources.states, making=True)
                if busy is None:
                    return self._decide(others)
            if not waited:
                print(
                    f"{_name(busy[0])}: a run in {busy[1].project} is making it, waiting", file=sys.stderr, flush=True
                )
            waited = True
            time.sleep(_POLL_S)

    def start(self, made: Iterable[str]) -> None:
        """Record which files this run makes, now that they are known. Raises InUseError (E-IN-USE)."""
        if self._presence is None:
            return
        wanted = {os.path.abspath(path) for path in made}  # noqa: PTH100 - links stay links
        makes: dict[Key, dict[Path, object]] = {}
        for key in self._sources.states:
            large, small = outputs(self._sources, key)
            if any(os.path.abspath(path) in wanted for path in large + small):  # noqa: PTH100
                makes[key] = {path: _identity(path) for path in small if os.path.abspath(path) in wanted}  # noqa: PTH100
        with claim(self._folder / "turn"):
            others = self._others()
            if busy := self._find(others, makes, making=True) or self._find(others, makes, making=False):
                raise _in_use(*busy)
            makers = self._makers() | {_name(key): {"id": self._id(), "project": str(Path.cwd())} for key in makes}
            if makes:
                write_json(self._folder / "makers.json", makers)
            with self._lock:
                self._uses -= makes.keys()
                self._makes = makes
                self._presence.write(self._record())

    def leave(self) -> None:
        """Record that this run has ended."""
        if self._presence is not None:
            self._presence.leave()
            self._presence = None

    def _decide(self, others: list[OtherRun]) -> list[Key]:
        found = {key: inspect_model(self._sources, key, self._recorded) for key in self._sources.states}
        makers = {key: maker for key, maker in self._makers().items() if maker["id"] != self._id()}
        foreign = [key for key in found if _name(key) in makers]
        for key in foreign:
            if difference := found[key].difference:
                raise self._differs(key, difference, found[key].stale, makers[_name(key)]["project"])
        missing = [key for key, state in found.items() if not state.is_current]
        if busy := self._find(others, missing, making=False):
            raise _in_use(*busy)
        for path in (path for key in missing for path in found[key].stale):
            path.unlink(missing_ok=True)
        assets_first = sorted(missing, key=lambda key: key[0] == "checkpoints")  # a conversion may take a VAE
        self.broken = {key: found[key].broken for key in assets_first if found[key].broken}
        with self._lock:
            self._makes = {key: {} for key in missing}
            self._uses = found.keys() - self._makes.keys()
            assert self._presence is not None
            self._presence.write(self._record())
        return [key for key in foreign if found[key].is_current]

    def _differs(self, key: Key, difference: str, stale: Sequence[Path], project: str) -> SharedError:
        why = f"{project} has made another one of that name: {difference}"
        hint = f"give it another name here, or the same settings; if {project} needs it no longer, delete {stale[0]}"
        return SharedError(f"{_name(key)} in", self._sources.config.models_dir, why, hint)

    def _find(self, others: list[OtherRun], keys: Iterable[Key], *, making: bool) -> tuple[Key, OtherRun] | None:
        """The first of `keys` that another run makes or uses, and that run."""
        for key in keys:
            for other in others:
                if _name(key) in (other.makes if making else other.uses):
                    return key, other
        return None

    def _others(self) -> list[OtherRun]:
        assert self._presence is not None
        found = []
        for path in self._presence.others()[0]:
            with suppress(OSError, ValueError, KeyError, TypeError):
                data = json.loads(path.read_bytes())
                found.append(OtherRun(str(data["project"]), frozenset(data["makes"]), frozenset(data["uses"])))
        return found

    def _look_after(self) -> None:
        """Move finished models from `makes` to `uses`: other runs need not wait for them any more."""
        with self._lock:
            done = [
                key for key, small in self._makes.items() if small and all(_is_new(*each) for each in small.items())
            ]
            if done and self._presence is not None:
                self._makes = {key: small for key, small in self._makes.items() if key not in done}
                self._uses |= set(done)
                with suppress(DiskError, OSError):
                    self._presence.write(self._record())

    def _record(self) -> bytes:
        makes, uses = sorted(map(_name, self._makes)), sorted(map(_name, self._uses))
        return (json.dumps({"project": str(Path.cwd()), "makes": makes, "uses": uses}, indent=2) + "\n").encode()

    def _makers(self) -> dict[str, dict[str, str]]:
        """The project that made each model, as far as it is recorded."""
        try:
            data = json.loads((self._folder / "makers.json").read_bytes())
            return {str(name): {"id": str(each["id"]), "project": str(each["project"])} for name, each in data.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def _id(self) -> str:
        """This project's id among those that share the models folder; a constant for a folder inside the project."""
        here = Path.cwd()
        if Path(self._sources.config.models_dir).resolve().is_relative_to(here.resolve()):
            return _HOME
        with suppress(OSError, ValueError, KeyError, TypeError):
            data = json.loads(_ID.read_bytes())
            if data["folder"] == str(here):
                return str(data["id"])
        new = os.urandom(8).hex()
        write_bytes(_ID, json.dumps({"folder": str(here), "id": new}).encode())
        return new


def _name(key: Key) -> str:
    return ".".join(key)


def _identity(path: Path) -> object:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _is_new(path: Path, before: object) -> bool:
    return _identity(path) not in (None, before)


def _in_use(key: Key, other: OtherRun) -> InUseError:
    why = f"a run in {other.project} works with it, and it would have to be made again"
    return InUseError("model", _name(key), why, "run this again when that one has ended")
