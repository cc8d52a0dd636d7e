"""A destination with an older good file in it, the downloader in this process, and the real command in others."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from darkroom.base.worker_words import BUILD
from darkroom.config import FetchConfig
from darkroom.errors import DarkroomError, NetworkError
from darkroom.sources import FetchReceipt, fetch
from tests.fixtures.remote import FileServer, Resource, cut
from tests.fixtures.remote.weights import make_weights

OLD = make_weights(5_000, seed=99)
DATA, OTHER = make_weights(3_000_000), make_weights(3_000_000, seed=1)
QUICK = FetchConfig(retries=3, stall_timeout_s=1)
PATH = "/x.safetensors"
CANARY = "canary-that-nobody-may-see-0123456789"
Error = TypeVar("Error", bound=DarkroomError)


class Place:
    """`dest` has an older file before anything is fetched; `lines` is what a user was told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.dest = folder / "models" / "x.safetensors"
        self.receipt = folder / "models" / "x.receipt.json"
        self.downloads = folder / "downloads"
        self.lines: list[str] = []
        self.words: list[str] = []
        self.dest.parent.mkdir()
        self.dest.write_bytes(OLD)
        self._old_time = self.dest.stat().st_mtime_ns

    @property
    def told(self) -> str:
        return "\n".join(self.lines)

    def hear(self, line: str) -> None:
        """Keep a line that is reported: among `words` if it is the earlier worker's, which a download always has."""
        (self.words if line in BUILD else self.lines).append(line)

    def fetch(self, source: str, **options: Any) -> FetchReceipt:
        given: dict[str, Any] = {"downloads": self.downloads, "options": QUICK, "report": self.hear, **options}
        return fetch(source, self.dest, self.receipt, **given)

    def gets(self, source: str, content: bytes, **options: Any) -> FetchReceipt:
        """Fetch it, and make sure that all of `content` and nothing else is there afterwards."""
        receipt = self.fetch(source, **options)
        assert receipt.sha256 == hashlib.sha256(content).hexdigest()
        self.check_has(content)
        return receipt

    def fails(self, error: type[Error], source: str, **options: Any) -> Error:
        """Fetch it in vain, and make sure that what was there before still is. Returns the error."""
        with pytest.raises(error) as caught:
            self.fetch(source, **options)
        assert type(caught.value) is error
        self.check_has_old()
        return caught.value

    def leave_part(self, server: FileServer, file: Resource, count: int) -> None:
        """Have a partial download of so many bytes, and a server that has forgotten it."""
        file.add_fault(cut(count))
        self.fails(NetworkError, server.url(PATH), options=FetchConfig(retries=0))
        assert self.kept == count
        self.lines.clear()
        server.clear()

    def check_has(self, content: bytes) -> None:
        """The file is whole and recorded, and no part of a download is left."""
        assert self.dest.read_bytes() == content
        assert FetchReceipt.read(self.receipt).sha256 == hashlib.sha256(content).hexdigest()
        assert self.names(self.dest.parent) == [self.receipt.name, self.dest.name]
        assert [name for name in self.names(self.downloads) if not _is_kept(name)] == []

    def check_has_old(self, *, was_killed: bool = False) -> None:
        """The older file was not touched, and nothing new has the name of anything finished."""
        assert self.dest.read_bytes() == OLD
        assert self.dest.stat().st_mtime_ns == self._old_time
        assert self.names(self.dest.parent) == [self.dest.name]
        left = [name for name in self.names(self.downloads) if not name.endswith(".part")]
        assert [name for name in left if not (was_killed and ".claim." in name)] == []

    @property
    def state(self) -> dict[str, Any]:
        """What is known of the one partial download that is there."""
        (path,) = self.downloads.glob("*.part/state.json")
        return dict(json.loads(path.read_text()))

    @property
    def kept(self) -> int:
        """How many bytes of partial downloads are there for the next run."""
        return self.kept_in(self.downloads)

    @staticmethod
    def kept_in(downloads: Path) -> int:
        paths = downloads.glob("*.part/state.json")
        return sum(end - start for path in paths for start, end in json.loads(path.read_text())["ranges"])

    @staticmethod
    def names(folder: Path) -> list[str]:
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    def command(self, source: str, *options: str, **settings: float | bool) -> list[str]:
        """`darkroom fetch` with everything that `fetch` is given here."""
        chosen = {"retries": 3, "stall_timeout_s": 30} | settings
        places = [str(self.dest), "--receipt", str(self.receipt), "--downloads", str(self.downloads)]
        return [*FETCH, source, *places, "--options", json.dumps(chosen), *options]

    def run(self, source: str, *options: str, **settings: float | bool) -> Run:
        return Run(self.command(source, *options, **settings), self.folder)


FETCH = [sys.executable, "-m", "darkroom.cli", "fetch"]


class Run:
    """A command in a process of its own. `with` ends it whatever happens."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str] | None = None) -> None:
        self._files = [folder / f"{kind}-{time.monotonic_ns()}" for kind in ("out", "err")]
        with self._files[0].open("wb") as out, self._files[1].open("wb") as err:
            whole = {**os.environ, **(environment or {})}
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=whole)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    @property
    def out(self) -> str:
        return self._files[0].read_text()

    @property
    def err(self) -> str:
        return self._files[1].read_text()

    def end(self) -> int:
        """Wait for its end; the exit code."""
        return self.process.wait(60)

    def succeeds(self) -> str:
        """Wait for its end, which has to be a good one; what it told on stderr."""
        assert self.end() == 0, self.err
        return self.err


def wait_until(condition: Callable[[], object], limit_s: float = 30) -> None:
    """Look again and again until `condition` holds."""
    until = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.01)


def _is_kept(name: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{24}\.json", name) is not None
