"""Claims: one holder at a time among threads and processes, without any lock of the file system."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from darkroom.base.claims import Presence, claim, is_anyone_at_work, is_claimed
from darkroom.base.processes import STALE_S

LIMIT_S = 60
HOLD = """
import fcntl, sys
from pathlib import Path
from darkroom.base.claims import claim
fcntl.flock = fcntl.lockf = lambda *_: None
with claim(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
COUNT = """
import fcntl, sys
from pathlib import Path
from darkroom.base.claims import claim
fcntl.flock = fcntl.lockf = lambda *_: None
count = Path(sys.argv[1])
for _ in range(10):
    with claim(count):
        number = int(count.read_text())
        count.write_text(str(number + 1))
"""


def hold(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_processes_that_count_at_once_lose_nothing_though_flock_does_nothing(tmp_path: Path) -> None:
    count = tmp_path / "count"
    count.write_text("0")
    processes = [subprocess.Popen([sys.executable, "-c", COUNT, str(count)]) for _ in range(3)]
    assert [process.wait(LIMIT_S) for process in processes] == [0, 0, 0]
    assert count.read_text() == "30"
    assert [path.name for path in tmp_path.iterdir()] == ["count"]


def test_threads_of_one_process_hold_it_one_after_another(tmp_path: Path) -> None:
    inside, most = 0, 0

    def work(_: int) -> None:
        nonlocal inside, most
        with claim(tmp_path / "x"):
            inside += 1
            most = max(most, inside)
            time.sleep(0.01)
            inside -= 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(8)))
    assert most == 1


def test_whoever_waits_says_so_once_and_goes_on_when_the_holder_is_done(tmp_path: Path) -> None:
    with hold(tmp_path / "x") as process:
        said: list[str] = []
        waiting = threading.Event()

        def wait() -> None:
            with claim(tmp_path / "x", lambda: (said.append("waiting"), waiting.set())[0]) as took_over:
                said.append(f"took over: {took_over}")

        thread = threading.Thread(target=wait)
        thread.start()
        assert waiting.wait(LIMIT_S)
        assert is_anyone_at_work(tmp_path)
        process.communicate("", timeout=LIMIT_S)
        thread.join(LIMIT_S)
    assert said == ["waiting", "took over: False"]
    assert not is_anyone_at_work(tmp_path)


def test_claim_of_a_killed_process_holds_nobody_up(tmp_path: Path) -> None:
    with hold(tmp_path / "x") as process:
        process.kill()
    assert len(list(tmp_path.iterdir())) == 1
    with claim(tmp_path / "x", lambda: pytest.fail("waited for the dead")) as took_over:
        assert not took_over
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("age_s", [0, STALE_S + 10])
def test_claim_from_another_machine_lives_as_long_as_it_beats(tmp_path: Path, age_s: float) -> None:
    other = tmp_path / "x.claim.another.5-12:34-abcd"
    other.touch()
    then = time.time() - age_s
    os.utime(other, (then, then))
    assert is_anyone_at_work(tmp_path) == (age_s == 0)
    if age_s:
        with claim(tmp_path / "x") as took_over:
            assert took_over
            assert not other.exists()


def test_other_names_beside_it_are_no_claims_on_it(tmp_path: Path) -> None:
    with claim(tmp_path / "x"), claim(tmp_path / "xy"), claim(tmp_path / "y", lambda: pytest.fail("waited")):
        assert len(list(tmp_path.iterdir())) == 3


def test_whoever_is_there_is_seen_with_what_they_say_until_they_leave(tmp_path: Path) -> None:
    ours, theirs = Presence(tmp_path / "x", b"ours"), Presence(tmp_path / "x", b"theirs")
    ((seen,), found_dead) = ours.others()
    assert (seen.read_bytes(), found_dead) == (b"theirs", False)
    theirs.write(b"something else")
    assert seen.read_bytes() == b"something else"
    assert is_claimed(tmp_path / "x")
    theirs.leave()
    assert ours.others() == ([], False)
    ours.leave()
    assert list(tmp_path.iterdir()) == []


def test_the_dead_are_found_once(tmp_path: Path) -> None:
    with hold(tmp_path / "x") as process:
        process.kill()
    presence = Presence(tmp_path / "x")
    assert presence.others() == ([], True)
    assert presence.others() == ([], False)
    presence.leave()


@pytest.mark.parametrize("age_s", [0, STALE_S + 10])
def test_whoever_is_there_from_another_machine_is_alive_as_long_as_they_beat(tmp_path: Path, age_s: float) -> None:
    other = tmp_path / "x.claim.another.5-12.34-abcd"
    other.touch()
    then = time.time() - age_s
    os.utime(other, (then, then))
    presence = Presence(tmp_path / "x")
    assert presence.others() == (([other], False) if age_s == 0 else ([], True))
    presence.leave()


def test_what_is_to_be_done_each_second_is_done_until_the_end(tmp_path: Path) -> None:
    done = threading.Event()
    presence = Presence(tmp_path / "x", every=done.set)
    assert done.wait(LIMIT_S)
    presence.leave()
