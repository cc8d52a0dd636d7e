"""A private runtime folder for each test, and an end for whatever a failed test leaves running in it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from darkroom.warm.lease import make_lease
from tests.unit.warm.bench import Bench, processes_naming


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A runtime folder of its own with a short path; whatever still runs in it afterwards is ended."""
    with tempfile.TemporaryDirectory(prefix="dr-") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        monkeypatch.setenv("DARKROOM_LEASE", make_lease(os.getpid()))
        yield Path(folder)
        for pid in processes_naming(folder):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def bench(runtime: Path, tmp_path: Path) -> Iterator[Bench]:
    with ThreadPoolExecutor() as pool:
        bench = Bench(tmp_path, runtime, pool)
        yield bench
        bench.release()  # lets threads end that still wait for a picture


@pytest.fixture
def holder(monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    """A process that stands for Snakemake: it holds the lease and ends when its standard input is closed."""
    process = subprocess.Popen([sys.executable, "-S", "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    monkeypatch.setenv("DARKROOM_LEASE", make_lease(process.pid))
    with process:
        yield process
        process.kill()
