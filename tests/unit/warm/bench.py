"""A stand-in model with its engine's spec, and ways to use it, to watch its processes and to wait for them."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from darkroom.warm.client import EngineSpec, render
from darkroom.warm.paths import ServerFiles, server_files, server_key

FAKE_SERVER = Path(__file__).with_name("fake_engine_server.py")
LIMIT_S = 240
"""Only keeps a broken test from hanging: a busy machine may take long for anything."""


def wait_until(is_true: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not is_true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {LIMIT_S} s still not: {what}")
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    """Whether a process runs; a zombie doesn't (nobody may be there to reap a detached one in a container)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def processes_naming(text: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            with suppress(OSError):
                if text.encode() in (entry / "cmdline").read_bytes() and is_running(int(entry.name)):
                    found.append(int(entry.name))
    return found


def children(pid: int) -> list[int]:
    """The processes that a process has started and that still run."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Bench:
    """One stand-in model, the spec of its engine, and ways to use and watch it."""

    def __init__(self, root: Path, runtime: Path, pool: ThreadPoolExecutor, name: str = "model") -> None:
        self.root = root
        self.model = root / name
        self.model.mkdir()
        self.behave("ok")
        self.runtime = runtime
        self.output = root / "out" / "a.png"
        self.log = root / "logs" / "a.log"
        self.spec = EngineSpec(
            self.model, command=(sys.executable, str(FAKE_SERVER)), start_timeout_s=LIMIT_S, render_timeout_s=LIMIT_S
        )
        self.pool = pool

    def behave(self, how: str) -> None:
        (self.model / "behaviour.txt").write_text(how)

    def render(self, prompt: str = "x", output: Path | None = None, **changes: Any) -> dict[str, Any]:
        return render(change(self.spec, **changes), request(prompt), output or self.output, self.log)

    def render_beside(self, prompt: str, output: Path | None = None, **changes: Any) -> Future[dict[str, Any]]:
        return self.pool.submit(self.render, prompt, output, **changes)

    def beside(self, name: str) -> Bench:
        """Another model on the same devices."""
        other = Bench(self.root, self.runtime, self.pool, name)
        other.spec = change(other.spec, devices=self.spec.devices)
        return other

    def release(self) -> None:
        (self.model / "go").touch()

    @property
    def files(self) -> ServerFiles:
        return server_files(server_key(self.model, None, "auto", "auto", "auto"))

    def noted(self, name: str) -> list[str]:
        path = self.model / name
        return path.read_text().splitlines() if path.exists() else []

    @property
    def pids(self) -> list[int]:
        """The servers whose engines loaded the model, in order."""
        return [int(line) for line in self.noted("loads")]

    @property
    def engine_pids(self) -> list[int]:
        """The engines' own processes, in the same order."""
        return [int(line) for line in self.noted("engines")]

    def wait_for_render(self, prompt: str) -> None:
        wait_until(lambda: prompt in self.noted("renders"), f"rendering {prompt}")

    def wait_for_end(self, pid: int) -> None:
        """Wait until a server has ended, then look that nothing is left of it."""
        self.wait_for_processes(pid)
        assert list(self.runtime.rglob("*.sock*")) == []
        assert processes_naming(str(self.runtime)) == []

    def wait_for_processes(self, pid: int) -> None:
        """Wait until a server and its engine have ended."""
        wait_until(lambda: not is_running(pid), f"end of process {pid}")
        for server, engine in zip(self.pids, self.engine_pids, strict=True):
            if server == pid:
                wait_until(lambda engine=engine: not is_running(engine), f"end of the engine {engine}")


def change(spec: EngineSpec, **changes: Any) -> EngineSpec:
    """The spec with other values here and there."""
    return EngineSpec(**{**vars(spec), **changes})


def request(prompt: str) -> str:
    return json.dumps({"prompt": prompt, "width": 64, "height": 64, "steps": 20, "cfg_scale": 4, "seed": 1})
