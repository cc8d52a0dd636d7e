"""A conversion killed at any moment leaves nothing that looks finished, and the next one cleans up and succeeds."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from darkroom.checkpoint import Expected, convert, verify_model
from darkroom.checkpoint.audit import read_audit
from tests.fixtures.checkpoints import write_random_checkpoint
from tests.fixtures.tiers import full_except

# Each hook stops the process at a moment, by saying so and then waiting for the signal.
PAUSE = "def pause(*a, **k):\n os.write(1, b'here\\n')\n while True: signal.pause()\n"
LINGER = "def linger(*a, **k):\n os.write(1, b'here\\n')\n time.sleep(2)\n"
MOMENTS = {
    "while weights are copied": "transfer._Copier.copy = pause",
    "before small files": "converter.write_small_files = pause",
    "before the exchange": "claims.Staging.publish = pause",
    "in the middle of the exchange": (
        "rename = Path.rename\nPath.rename = lambda path, to: pause() if path.name == 'new' else rename(path, to)"
    ),
}
AFTER_A_WORD = """
import fcntl, sys
fcntl.flock = fcntl.lockf = lambda *_: None
from darkroom.checkpoint import Expected, converter
write_small_files = converter.write_small_files
def wait(*a):
    print('here', flush=True)
    sys.stdin.read()
    write_small_files(*a)
converter.write_small_files = wait
converter.convert(sys.argv[1], sys.argv[2], expected=Expected(sys.argv[3]), name='theirs')
"""
SCRIPT = """
import os, signal, sys, time
from pathlib import Path
from darkroom.base import claims
from darkroom.checkpoint import converter, transfer
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs, and theirs, ignore
{helpers}
{hook}
converter.convert(sys.argv[1], sys.argv[2])
"""


def stop_at(moment: str, source: Path, dest: Path) -> subprocess.Popen[str]:
    return start(MOMENTS[moment], source, dest)


def start(hook: str, source: Path, dest: Path) -> subprocess.Popen[str]:
    script = SCRIPT.format(helpers=PAUSE + LINGER, hook=hook)
    process = subprocess.Popen([sys.executable, "-c", script, source, dest], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def staged(folder: Path) -> list[Path]:
    return list(folder.glob(".m.darkroom-tmp-*"))


def written_bytes(folder: Path) -> int:
    """How much of the staged weights is written; 0 when they are moved away while one looks."""
    try:
        return sum(path.stat().st_size for path in folder.glob(".m.*/new/*/*.safetensors"))
    except FileNotFoundError:
        return 0


@pytest.mark.parametrize("moment", full_except(["while weights are copied"], MOMENTS))
def test_killed_there_is_no_model_and_a_rerun_succeeds(moment: str, checkpoint: Path, tmp_path: Path) -> None:
    kill(stop_at(moment, checkpoint, tmp_path / "m"))
    assert not (tmp_path / "m").exists()
    assert not (tmp_path / "m.audit.json").exists()
    assert len(staged(tmp_path)) == 1
    convert(checkpoint, tmp_path / "m")
    verify_model(tmp_path / "m")
    assert staged(tmp_path) == []


@pytest.mark.parametrize("moment", full_except(["in the middle of the exchange"], MOMENTS))
def test_killed_while_replacing_no_audit_speaks_for_another_model(moment: str, made: Path, tmp_path: Path) -> None:
    model = tmp_path / "m"
    convert(made / "tiny.safetensors", model)
    old = verify_model(model)
    other = write_random_checkpoint(tmp_path / "other.safetensors", seed=9)
    kill(stop_at(moment, other, model))
    if model.exists():
        found = verify_model(model)
        assert found.digest == old.digest
        assert found.source_sha256 in (old.source_sha256, None)
    else:
        assert moment == "in the middle of the exchange"
        assert not (tmp_path / "m.audit.json").exists()
    convert(made / "tiny.safetensors", model)
    assert verify_model(model) == old
    assert staged(tmp_path) == []


def test_the_old_model_comes_back_if_the_rerun_fails_too(made: Path, tmp_path: Path) -> None:
    model = tmp_path / "m"
    convert(made / "tiny.safetensors", model)
    old = verify_model(model)
    kill(stop_at("in the middle of the exchange", made / "tiny.safetensors", model))
    assert not model.exists()
    with pytest.raises(Exception, match="E-HASH"):
        convert(made / "tiny.safetensors", model, expected=Expected("0" * 64))
    assert verify_model(model).digest == old.digest


def test_who_converts_the_same_waits_and_then_has_nothing_to_do(checkpoint: Path, tmp_path: Path) -> None:
    expected = Expected(sha256(checkpoint.read_bytes()).hexdigest())
    process = subprocess.Popen(
        [sys.executable, "-c", AFTER_A_WORD, checkpoint, tmp_path / "m", expected.checkpoint],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    theirs = staged(tmp_path)
    waited: list[list[Path]] = []

    def let_it_go_on() -> None:
        waited.append(staged(tmp_path))
        assert process.stdin is not None
        process.stdin.close()

    audit = convert(checkpoint, tmp_path / "m", expected=expected, on_wait=let_it_go_on)
    assert process.wait() == 0
    process.stdout.close()
    assert waited == [theirs]
    assert audit == read_audit(tmp_path / "m")
    assert audit.name == "theirs"  # no second conversion
    assert staged(tmp_path) == []


@pytest.mark.parametrize("other", [{"dtype": "fp32"}, {"expected": Expected()}])
def test_who_wants_something_else_waits_and_then_converts(
    checkpoint: Path, tmp_path: Path, other: dict[str, Any]
) -> None:
    sha = sha256(checkpoint.read_bytes()).hexdigest()
    command = [sys.executable, "-c", AFTER_A_WORD, checkpoint, tmp_path / "m", sha]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        assert process.stdin is not None
        audit = convert(checkpoint, tmp_path / "m", **{"expected": Expected(sha)} | other, on_wait=process.stdin.close)
    assert audit.name == "m"
    verify_model(tmp_path / "m")


def test_ctrl_c_removes_what_was_staged(checkpoint: Path, tmp_path: Path) -> None:
    process = start("transfer._Copier.copy = linger", checkpoint, tmp_path / "m")
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert staged(tmp_path) == []
    assert not (tmp_path / "m").exists()


def test_killed_at_any_time_there_is_a_whole_model_or_none(checkpoint: Path, tmp_path: Path) -> None:
    script = "import sys; from darkroom.checkpoint import convert; convert(sys.argv[1], sys.argv[2])"
    for attempt, fraction in enumerate((0.0, 0.4, 0.9)):
        dest = tmp_path / str(attempt) / "m"
        process = subprocess.Popen([sys.executable, "-c", script, checkpoint, dest])
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if dest.parent.exists() and written_bytes(dest.parent) >= fraction * checkpoint.stat().st_size:
                break
        kill(process)  # type: ignore[arg-type]
        if dest.exists():
            verify_model(dest)
        convert(checkpoint, dest)
        verify_model(dest)
        assert staged(dest.parent) == []


def test_conversions_at_once_leave_one_whole_model_with_its_own_audit_though_flock_does_nothing(
    made: Path, tmp_path: Path
) -> None:
    sources = [made / "tiny.safetensors", write_random_checkpoint(tmp_path / "other.safetensors", seed=9)]
    script = (
        "import fcntl, sys; from darkroom.checkpoint import convert; fcntl.flock = lambda *_: None; "
        "convert(sys.argv[1], sys.argv[2])"
    )
    dest = tmp_path / "models" / "m"
    processes = [subprocess.Popen([sys.executable, "-c", script, source, dest]) for source in sources * 2]
    assert [process.wait() for process in processes] == [0, 0, 0, 0]
    receipt = verify_model(dest)
    alone = {}
    for source in sources:
        convert(source, tmp_path / source.stem)
        alone[verify_model(tmp_path / source.stem).source_sha256] = verify_model(tmp_path / source.stem).digest
    assert receipt.digest == alone[receipt.source_sha256]
    assert staged(dest.parent) == []
