"""What goes wrong with a warm engine, on real server processes and their sockets."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

import pytest

from darkroom.errors import ModelError, OutOfMemoryError, ServerDiedError, ServerError, SocketError
from darkroom.warm import client
from darkroom.warm.lease import make_lease
from tests.unit.warm.bench import Bench, is_running, processes_naming, request, wait_until

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")


def test_fault_30_engine_that_does_not_start_shows_its_last_20_log_lines(bench: Bench) -> None:
    script = "for n in range(30): print('line', n)\nraise SystemExit(3)"
    with pytest.raises(ServerError, match=r"did not start.*exit code 3") as caught:
        bench.render(command=(sys.executable, "-c", script))
    assert caught.value.code == "E-SERVER"
    shown = client.describe(caught.value).splitlines()
    assert [line.strip() for line in shown[-20:]] == [f"line {n}" for n in range(10, 30)]
    assert "line 9" not in shown
    assert bench.log.read_text().splitlines() == shown
    assert not bench.output.exists()


def test_fault_30_command_that_is_not_there(bench: Bench) -> None:
    with pytest.raises(ServerError, match="No such file"):
        bench.render(command=("/nowhere/python",))


@pytest.mark.full
def test_fault_30_engine_that_is_never_ready(bench: Bench) -> None:
    bench.behave("hang")
    with pytest.raises(ServerError, match="was not ready after 10 s") as caught:
        bench.render(start_timeout_s=10)  # in which a server begins to listen, however busy the machine is
    assert "The last lines of" in client.describe(caught.value)
    assert not bench.output.exists()
    wait_until(lambda: not processes_naming(str(bench.runtime)), "end of the engine")


def test_fault_30_engine_that_crashes_while_loading(bench: Bench) -> None:
    bench.behave("crash")
    with pytest.raises(ServerError, match="while it was loading"):
        bench.render()
    assert len(bench.pids) == 1


def test_fault_30_broken_model_reaches_every_waiting_client_as_its_own_error(bench: Bench) -> None:
    bench.behave("fail")
    jobs = [bench.render_beside("x", bench.root / f"{n}.png") for n in range(3)]
    for job in jobs:
        with pytest.raises(ModelError, match="Diffusers format missing"):
            job.result()
    assert len(bench.pids) == 1
    assert list(bench.root.glob("*.png")) == []
    assert "E-MODEL" in bench.log.read_text()
    bench.wait_for_end(bench.pids[0])


def test_fault_30_picture_that_never_comes_ends_in_an_error(bench: Bench) -> None:
    with pytest.raises(ServerError, match=r"no picture after 3 s.*end process"):
        bench.render("slow", render_timeout_s=3)
    wait_until(lambda: bench.noted("renders") == ["slow"], "the picture was begun")
    bench.render("next")  # the one nobody waits for was given up
    assert bench.noted("finished") == ["next"]


def test_fault_31_engine_killed_in_the_middle_of_a_picture(bench: Bench) -> None:
    bench.output.parent.mkdir()
    bench.output.write_bytes(b"before")
    job = bench.render_beside("slow")
    bench.wait_for_render("slow")
    os.kill(bench.pids[0], signal.SIGKILL)
    with pytest.raises(ServerDiedError) as caught:
        job.result()
    assert caught.value.code == "E-SERVER-DIED"
    assert "ready after" in client.describe(caught.value)
    assert bench.output.read_bytes() == b"before"
    assert os.listdir(bench.output.parent) == ["a.png"]  # noqa: PTH208

    bench.render("next")
    assert bench.output.read_bytes().startswith(b"\x89PNG")
    assert len(bench.pids) == 2


@pytest.mark.parametrize("prompt", ["slow", "stuck"])
def test_fault_32_engine_ends_when_its_run_is_killed_also_during_a_picture(
    bench: Bench, holder: subprocess.Popen[bytes], prompt: str
) -> None:
    job = bench.render_beside(prompt)
    bench.wait_for_render(prompt)
    holder.kill()
    bench.wait_for_end(bench.pids[0])
    with pytest.raises(ServerError):
        job.result()
    assert not bench.output.exists()
    assert len(bench.pids) == 1, "a job left over from a killed run started another engine"


def test_fault_32_engine_ends_when_its_run_is_killed_while_it_loads(
    bench: Bench, holder: subprocess.Popen[bytes]
) -> None:
    bench.behave("hang")
    job = bench.render_beside("x")
    wait_until(lambda: bench.pids, "the engine loads")
    holder.kill()
    bench.wait_for_end(bench.pids[0])
    with pytest.raises(ServerError):
        job.result()


def test_fault_33_normal_end_of_a_run_leaves_no_process_and_no_socket(
    bench: Bench, holder: subprocess.Popen[bytes]
) -> None:
    bench.render()
    assert bench.files.socket.is_socket()
    assert is_running(bench.pids[0])
    holder.communicate()
    bench.wait_for_end(bench.pids[0])


def test_fault_33_engine_shared_by_two_runs_ends_with_the_second(
    bench: Bench, holder: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.render()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as other:
        monkeypatch.setenv("DARKROOM_LEASE", make_lease(other.pid))
        bench.render()
        holder.communicate()
        bench.render()
        assert len(bench.pids) == 1
    bench.wait_for_end(bench.pids[0])


@pytest.mark.full
def test_fault_33_engine_without_work_or_lease_ends_by_itself(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DARKROOM_LEASE")
    bench.render(idle_timeout_s=2)
    bench.wait_for_end(bench.pids[0])
    bench.render()
    assert len(bench.pids) == 2


def test_fault_33_failing_picture_leaves_the_engine_to_the_next(bench: Bench) -> None:
    with pytest.raises(OutOfMemoryError) as caught:
        bench.render("oom")
    assert caught.value.hint == "make a smaller one"
    assert not bench.output.exists()
    bench.render("next")
    assert bench.output.exists()
    assert len(bench.pids) == 1


def test_fault_34_stale_socket_of_a_dead_engine_is_replaced(bench: Bench) -> None:
    left_over = socket.socket(socket.AF_UNIX)
    left_over.bind(str(bench.files.socket))
    left_over.close()
    bench.render()
    assert bench.output.exists()


@needs_root
def test_fault_34_socket_of_another_user_gets_no_byte(bench: Bench) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(bench.files.socket))
        listener.listen()
        os.chown(bench.files.socket, 12345, -1)
        with pytest.raises(SocketError, match="uid 12345") as caught:
            bench.render()
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert caught.value.code == "E-SOCKET"


@needs_root
def test_fault_34_process_of_another_user_behind_our_socket_file_gets_no_byte(bench: Bench) -> None:
    # The kernel notes who called listen(): another user's process, in the case that the file itself looks right.
    script = (
        "import os, socket, sys\n"
        "s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); os.seteuid(12345); s.listen()\n"
        "print('listening', flush=True)\n"
        "c, _ = s.accept(); print(len(c.recv(100)), flush=True)\n"
    )
    command = [sys.executable, "-c", script, str(bench.files.socket)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "listening\n"
        with pytest.raises(SocketError, match="uid 12345"):
            bench.render()
        assert process.stdout.readline() == "0\n"


def test_fault_39_client_that_goes_away_frees_the_engine(bench: Bench) -> None:
    script = (
        "import sys; from pathlib import Path; from darkroom.warm.client import *\n"
        "render(EngineSpec(Path(sys.argv[1]), command=tuple(sys.argv[4:])), sys.argv[2], Path(sys.argv[3]))"
    )
    arguments = [str(bench.model), request("slow"), str(bench.output), *bench.spec.command]
    with subprocess.Popen([sys.executable, "-c", script, *arguments]) as job:
        bench.wait_for_render("slow")
        job.kill()
    bench.render("next", bench.root / "next.png")
    assert bench.noted("finished") == ["next"]
    assert not bench.output.exists()
    assert len(bench.pids) == 1


def test_fault_40_sigterm_lets_the_picture_under_way_finish(bench: Bench) -> None:
    job = bench.render_beside("slow")
    bench.wait_for_render("slow")
    os.kill(bench.pids[0], signal.SIGTERM)
    wait_until(lambda: "draining 1 job" in bench.files.log.read_text(), "draining")
    later = bench.render_beside("later", bench.root / "later.png")
    bench.release()
    assert job.result()["seed"] == 1
    assert bench.output.exists()
    later.result()
    assert (bench.root / "later.png").exists()
    assert len(bench.pids) == 2, "a job that came while the engine drained gets an engine of its own"
    wait_until(lambda: not is_running(bench.pids[0]), "end of the first engine")


def test_fault_40_second_sigterm_ends_at_once(bench: Bench) -> None:
    job = bench.render_beside("stuck")
    bench.wait_for_render("stuck")
    os.kill(bench.pids[0], signal.SIGTERM)
    wait_until(lambda: "draining" in bench.files.log.read_text(), "draining")
    os.kill(bench.pids[0], signal.SIGTERM)
    bench.wait_for_end(bench.pids[0])
    with pytest.raises(ServerDiedError):
        job.result()
    assert not bench.output.exists()


def test_how_far_loading_is_gets_told(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    bench.behave("load slowly")
    job = bench.render_beside("x")
    shown = ""

    def is_told() -> bool:
        nonlocal shown
        shown += capfd.readouterr().err
        return "loading model: 41 %, 410 MB of 1.0 GB" in shown

    wait_until(is_told, "how far it is")
    bench.release()
    job.result()
