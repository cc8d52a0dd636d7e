"""One run of Snakemake, from when it begins to look at what is there: what it does for itself and for others.

Other runs may have been killed, here or elsewhere. What they left is taken away; what they lock stays locked while they
live.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterable
from pathlib import Path

from darkroom.base import claims
from darkroom.base.claims import Presence, claim
from darkroom.base.files import remove_unfinished
from darkroom.cluster import submit
from darkroom.errors import DarkroomError, DiskError
from darkroom.run.models import Key, outputs
from darkroom.run.plan import Plan, exit_on_error
from darkroom.run.shared_models import Run
from darkroom.run.sources import KINDS, dtype_of, receipt_path
from darkroom.sources import FetchReceipt
from darkroom.sources.lock import lock_key, record_receipt
from darkroom.sources.references import parse_reference
from darkroom.warm.paths import remove_dead_sockets

_FOLDER = Path(".snakemake/darkroom")


class Session:
    """`begin` once Snakemake builds the graph of what it is going to do, `start` when it has."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._run = Run(plan.stored)
        self._presence: Presence | None = None

    def begin(self, unlock: Callable[[], None], forget: Callable[[str], object]) -> None:
        """Before Snakemake looks at what is there. Called again, it does nothing.

        `unlock` takes Snakemake's lock off this folder, `forget` what Snakemake knows of how a file was made. An error
        ends the process, as everything does that is found out while the graph is built.
        """
        if self._presence is not None:
            return
        with exit_on_error():
            try:
                self._presence = _take_over(unlock)
                _remove_leftovers(self._plan)
                for key in self._run.join():
                    self._adopt(key, forget)
                self._plan.stored.write_pins()
            except DarkroomError:
                self.end()
                raise
        atexit.register(self.end)

    def start(self, made: Iterable[str], unlock: Callable[[], None]) -> None:
        """Before the first job: `made` are the files that all of them make. An error ends the process."""
        with exit_on_error():
            try:
                self._run.start(made)
            except DarkroomError:
                unlock()
                self.end()
                raise

    def end(self) -> None:
        """When the run has ended."""
        submit.leave()
        self._run.leave()
        if self._presence is not None:
            self._presence.leave()

    def _adopt(self, key: Key, forget: Callable[[str], object]) -> None:
        """Take what another project has made: this one's Snakemake knows nothing of it, and its lock file names its bytes."""
        for paths in outputs(self._plan.stored, key):
            for path in paths:
                forget(str(path))
        kind, name = key
        receipt = receipt_path(self._plan.models_dir, kind, name)
        if key in self._plan.stored.pins and receipt.exists():
            given = getattr(self._plan.config, kind)[name]
            name_in_lock = lock_key(parse_reference(given.source), dtype_of(given))
            record_receipt(self._plan.config.fetch.lock, name_in_lock, FetchReceipt.read(receipt))


_sessions: dict[str, Session] = {}


def session_for(plan: Plan) -> Session:
    """This process's session for a configuration.

    There is one, however often Snakemake reads the rule files: it does so for each `use rule` of a module.
    """
    return _sessions.setdefault(plan.config.model_dump_json(), Session(plan))


def _take_over(unlock: Callable[[], None]) -> Presence:
    """Be there, and unlock the folder if the run before was killed. Raises DiskError (E-DISK)."""
    with claim(_FOLDER / "turn"):
        presence = Presence(_FOLDER / "run")
        living, found_dead = presence.others()
        if found_dead and not living:
            unlock()
            Path(".snakemake/locks").mkdir(exist_ok=True)  # Snakemake takes it for granted when it locks
    return presence


def _remove_leftovers(plan: Plan) -> None:
    """Take away what killed processes left half-written: theirs are told by their names, wherever they ran."""
    models, results = Path(plan.models_dir), Path("results")
    folders = {Path(path).parent for path in plan.paths()} | {results, results / "thumbnails"}
    folders |= {folder.parent for folder in folders}
    folders |= {_FOLDER, models / ".cache", models / "diffusers", models / "verified", models / ".runs"}
    folders |= {_FOLDER / "pins" / kind for kind in KINDS} | {models / kind for kind in KINDS}
    for folder in folders:
        remove_unfinished(folder)
    remove_dead_sockets()
    for folder in (models / "diffusers", models / "checkpoints"):
        try:
            claims.remove_unfinished(folder)
        except (DiskError, OSError):
            continue
