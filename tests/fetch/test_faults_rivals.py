"""Fault 16: somebody else fetches the same at the same time, and no lock of the file system is of use."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from darkroom.sources import FetchReceipt, fetch
from darkroom.sources.store import place_file
from tests.fetch.place import DATA, PATH, QUICK, Place, Run, wait_until
from tests.fixtures.remote import FileServer, Resource, stall

WITHOUT_LOCKS = """
import fcntl
for name in ("flock", "lockf"):
    setattr(fcntl, name, lambda *_: None)
from darkroom.cli import run
run()
"""


def rival(place: Place, server: FileServer, *, own_folder: bool, folder: Path | None = None) -> Run:
    command = place.command(server.url(PATH))
    command[1:3] = ["-c", WITHOUT_LOCKS]
    if own_folder:
        at = command.index("--downloads")
        del command[at : at + 2]
    return Run(command, folder or place.folder)


WAITING = "x: another process is fetching it, waiting\n"


@pytest.mark.parametrize("own_folder", [False, True], ids=["the store", "a folder beside the file"])
def test_fault_16_two_processes_fetch_the_same(own_folder: bool, place: Place, server: FileServer) -> None:
    file = server.add(PATH, Resource(DATA, faults=[stall(at=1_000_000)]))
    with rival(place, server, own_folder=own_folder) as first:
        server.wait_stalled(PATH)
        with rival(place, server, own_folder=own_folder) as second:
            wait_until(lambda: WAITING in second.err)
            file.faults.clear()
            server.release(PATH)
            first.succeeds()
            second.succeeds()
    if not own_folder:
        place.check_has(DATA)
        assert server.bytes_sent(PATH) == len(DATA)
    check_is_there(place)
    assert server.bytes_sent(PATH) <= 2 * len(DATA)


@pytest.mark.parametrize("own_folder", [False, True], ids=["the store", "a folder beside the file"])
def test_fault_16_many_at_once(own_folder: bool, place: Place, server: FileServer) -> None:
    server.add(PATH, Resource(DATA, rate=20e6))
    with ExitStack() as stack:
        for run in [stack.enter_context(rival(place, server, own_folder=own_folder)) for _ in range(6)]:
            run.succeeds()
    check_is_there(place)
    if not own_folder:
        assert server.bytes_sent(PATH) == len(DATA)


@pytest.mark.parametrize("own_folder", [False, True], ids=["the store", "a folder beside the file"])
def test_fault_16_who_waited_goes_on_when_the_first_is_killed(
    own_folder: bool, place: Place, server: FileServer
) -> None:
    file = server.add(PATH, Resource(DATA, faults=[stall(at=1_000_000)]))
    with rival(place, server, own_folder=own_folder) as first:
        server.wait_stalled(PATH)
        parts = place.dest.parent / f".{place.dest.name}.download" if own_folder else place.downloads
        wait_until(lambda: Place.kept_in(parts) == 1_000_000)
        file.faults.clear()
        with rival(place, server, own_folder=own_folder) as second:
            wait_until(lambda: WAITING in second.err)
            first.process.kill()
            assert "x: resuming 1.0 of 3.0 MB\n" in second.succeeds()
    check_is_there(place)
    assert server.bytes_sent(PATH) == len(DATA)


def test_fault_16_two_destinations_share_one_download(place: Place, server: FileServer, tmp_path: Path) -> None:
    """Two sources that stand for the same bytes: each is downloaded once, and both are one file."""
    server.add(PATH, Resource(DATA))
    place.gets(server.url(PATH), DATA)
    place.dest.unlink()
    place.gets(server.url(PATH), DATA)
    assert server.bytes_sent(PATH) == len(DATA)
    blob = next(path for path in place.downloads.iterdir() if len(path.name) == 64)
    assert blob.samefile(place.dest)


def test_fault_16_folder_beside_the_file_is_not_deleted_under_somebody(
    place: Place, server: FileServer, file: Resource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is done deletes it; somebody who comes at that moment either waits or has a folder of their own."""
    said: list[str] = []
    about_to_place, deleted = threading.Event(), threading.Event()
    later: list[Future[FetchReceipt]] = []
    rmtree = shutil.rmtree

    def fetch_it(report: Callable[[str], None] = said.append) -> FetchReceipt:
        return fetch(server.url(PATH), place.dest, place.receipt, options=QUICK, report=report)

    def delete(path: Path, **options: Any) -> None:
        if not later and Path(path).name.endswith(".download"):
            later.append(pool.submit(fetch_it))
            wait_until(lambda: said or about_to_place.is_set())
            rmtree(path, **options)
            deleted.set()
        else:
            rmtree(path, **options)

    def put(*arguments: Any) -> None:
        if later:
            about_to_place.set()
            deleted.wait(30)
        place_file(*arguments)

    monkeypatch.setattr(shutil, "rmtree", delete)
    monkeypatch.setattr("darkroom.sources.remote.place_file", put)
    with ThreadPoolExecutor(1) as pool:
        fetch_it(place.lines.append)
        later[0].result(30)
    check_is_there(place)


def check_is_there(place: Place) -> None:
    """Whole, recorded, and nothing of a download is left beside it."""
    assert place.dest.read_bytes() == DATA
    assert FetchReceipt.read(place.receipt).size == len(DATA)
    assert place.names(place.dest.parent) == [place.receipt.name, place.dest.name]
