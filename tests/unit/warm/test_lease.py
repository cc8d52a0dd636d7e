"""Leases follow a process, not its number, and the watch notices its end with pidfds and without."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator

import pytest

from darkroom.base import processes
from darkroom.warm import lease

LIMIT_S = 60


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def test_lease_of_a_running_process_is_alive(process: subprocess.Popen[bytes]) -> None:
    text = lease.make_lease(process.pid)
    assert text.startswith(f"{process.pid}:")
    assert processes.is_alive(text)


def test_lease_ends_with_its_process_also_while_nobody_has_reaped_it(process: subprocess.Popen[bytes]) -> None:
    text = lease.make_lease(process.pid)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not processes.is_alive(text)
    process.wait()
    assert not processes.is_alive(text)


def test_number_given_to_a_later_process_is_not_trusted() -> None:
    pid, _, start = lease.make_lease(os.getpid()).partition(":")
    assert not processes.is_alive(f"{pid}:{int(start) - 1}")


@pytest.mark.parametrize("text", ["", "x", "1", "1:x", "-1:5", "0:0", "99999999999999999999:1"])
def test_what_is_no_lease_is_not_alive(text: str) -> None:
    assert not processes.is_alive(text)


def test_current_lease_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_LEASE", "12:34")
    assert lease.current_lease() == "12:34"
    monkeypatch.delenv("DARKROOM_LEASE")
    assert lease.current_lease() is None


@pytest.mark.parametrize("has_pidfd", [True, False])
def test_watch_calls_back_when_the_last_of_several_has_gone(
    monkeypatch: pytest.MonkeyPatch, process: subprocess.Popen[bytes], has_pidfd: bool
) -> None:
    if not has_pidfd:
        monkeypatch.delattr(os, "pidfd_open", raising=False)
        monkeypatch.setattr(lease, "_POLL_S", 0.01)

    async def watch() -> list[str]:
        gone = asyncio.Event()
        events: list[str] = []
        leases = lease.LeaseWatch(asyncio.get_running_loop(), gone.set)
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as first:
            for pid in (first.pid, process.pid, process.pid):
                leases.add(lease.make_lease(pid))
        await asyncio.sleep(0)
        events.append(f"gone after the first: {gone.is_set()}")
        process.kill()
        await asyncio.wait_for(gone.wait(), LIMIT_S)
        return events

    assert asyncio.run(watch()) == ["gone after the first: False"]


@pytest.mark.parametrize("text", ["nonsense", f"{os.getpid()}:1"], ids=["nonsense", "another start"])
def test_watch_counts_a_lease_that_has_gone_already_as_gone(text: str) -> None:
    async def watch() -> bool:
        gone = asyncio.Event()
        lease.LeaseWatch(asyncio.get_running_loop(), gone.set).add(text)
        return gone.is_set()

    assert asyncio.run(watch())
