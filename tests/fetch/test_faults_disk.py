"""Fault 15: a disk that is full, told of before or met on the way."""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from darkroom.config import FetchConfig
from darkroom.errors import DiskError
from darkroom.sources import FetchReceipt
from tests.fetch.place import DATA, OLD, PATH, Place, Run, wait_until
from tests.fixtures.remote import FileServer, Resource, stall
from tests.fixtures.remote.weights import make_weights

LARGE = make_weights(40_000_000)


def free(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**12, 10**12 - count, count))  # type: ignore[attr-defined]


def test_fault_15_too_little_room_is_told_before_anything_is_written(
    place: Place, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add(PATH, Resource(LARGE))
    free(monkeypatch, 12_000_000)
    error = place.fails(DiskError, server.url(PATH))
    assert str(error).startswith(f"E-DISK not enough free space for '{place.downloads}")
    assert "needs 40.0 MB" in error.why and "12.0 MB are free" in error.why and server.url(PATH) in error.why
    assert place.kept < 100_000
    free(monkeypatch, 41_000_000)
    place.gets(server.url(PATH), LARGE)


def test_fault_15_only_what_is_missing_has_to_fit(
    place: Place, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = server.add(PATH, Resource(LARGE, faults=[stall(at=30_000_000)]))
    with place.run(server.url(PATH), connections=1) as run:
        server.wait_stalled(PATH)
        wait_until(lambda: place.kept == 30_000_000)
        run.process.kill()
    file.faults.clear()
    free(monkeypatch, 11_000_000)
    place.gets(server.url(PATH), LARGE)


@pytest.mark.parametrize("connections", [1, 4])
@pytest.mark.parametrize("full", [errno.ENOSPC, errno.EDQUOT])
def test_fault_15_disk_that_fills_up_on_the_way(
    full: int, connections: int, place: Place, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add(PATH, Resource(LARGE))
    pwrite, left = os.pwrite, 20_000_000

    def write(file: int, data: bytes, offset: int) -> int:
        nonlocal left
        if len(data) > left:
            raise OSError(full, os.strerror(full))
        left -= len(data)
        return pwrite(file, data, offset)

    monkeypatch.setattr(os, "pwrite", write)
    error = place.fails(DiskError, server.url(PATH), options=FetchConfig(connections=connections))
    assert str(error).startswith(f"E-DISK can't write '{place.downloads}")
    assert os.strerror(full) in error.why and "free some disk space" in error.hint
    assert 19_000_000 < place.kept <= 20_000_000
    kept, left = place.kept, 10**9
    server.clear()
    place.gets(server.url(PATH), LARGE)
    assert server.bytes_sent(PATH) <= len(LARGE) - kept + 0.03 * len(LARGE)


def test_fault_15_limit_on_the_size_of_files(place: Place, server: FileServer) -> None:
    """In a process of its own, whose writes the kernel refuses."""
    server.add(PATH, Resource(DATA))
    code = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, resource.RLIM_INFINITY))
from darkroom.cli import run
run()
"""
    command = place.command(server.url(PATH))
    command[1:3] = ["-c", code]
    with Run(command, place.folder) as run:
        assert run.end() == 1
    assert f"E-DISK can't write '{place.downloads}" in run.err
    place.check_has_old()
    kept = place.kept
    assert 1_700_000 < kept <= 2_000_000
    server.clear()
    with place.run(server.url(PATH)) as run:
        assert re.search(r"^x: resuming (1\.[89]|2\.0) of 3\.0 MB$", run.succeeds(), re.M)
    place.check_has(DATA)
    assert server.bytes_sent(PATH) == len(DATA) - kept
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


SMALL_DISK = """
set -e
mount -t tmpfs -o size=2m tmpfs "$1"
mkdir "$1/models"
cp "$2" "$1/models/x.safetensors"
shift 2
if "$@"; then exit 9; fi
cmp -s "$OLD" "$DISK/models/x.safetensors"
test -z "$(ls "$DISK/models" | grep -v '^x.safetensors$')"
test -z "$(ls "$DISK/downloads" | grep -v '[.]part$')"
mount -o remount,size=16m "$DISK"
"$@"
cp "$DISK/models/x.safetensors" "$OLD"
ls "$DISK/downloads" > "$OLD.names"
"""


@pytest.mark.skipif(
    shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode != 0,
    reason="a small disk can't be mounted here",
)
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_fault_15_small_disk(framing: str, tmp_path: Path, server: FileServer) -> None:
    """Too small by what the server says, or only when it is full; then it grows, and the same command goes on."""
    server.add(PATH, Resource(DATA, framing=framing))  # type: ignore[arg-type]
    (old := tmp_path / "old").write_bytes(OLD)
    (disk := tmp_path / "disk").mkdir()
    fetch = [sys.executable, "-m", "darkroom.cli", "fetch", server.url(PATH), str(disk / "models/x.safetensors")]
    fetch += ["--downloads", str(disk / "downloads"), "--receipt", str(tmp_path / "x.receipt.json")]
    command = ["unshare", "-rm", "sh", "-c", SMALL_DISK, "sh", str(disk), str(old), *fetch]
    with Run(command, tmp_path, {"DISK": str(disk), "OLD": str(old)}) as run:
        assert run.end() == 0, run.err
    assert run.err.count("E-DISK") == 1
    assert str(disk) in run.err and "free some disk space" in run.err
    assert old.read_bytes() == DATA
    assert ".part" not in (tmp_path / "old.names").read_text()
    assert FetchReceipt.read(tmp_path / "x.receipt.json").size == len(DATA)
