"""Several devices, and several models on one, with real servers; their engines are stand-ins that hold their device.

A stand-in notes in `crowded` when it meets another engine on the GPU that it was shown.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from darkroom.errors import ConfigError, CudaError, ServerDiedError, ServerError
from darkroom.warm.lease import current_lease, make_lease
from darkroom.warm.paths import ServerFiles, server_files, server_key
from darkroom.warm.slots import Slot, make_devices, take_slot
from tests.unit.warm.bench import Bench, change, is_running, processes_naming, wait_until

pytestmark = pytest.mark.full

GPUS = ("cuda:0", "cuda:1")


@pytest.fixture
def two(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A model on two devices."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    bench.spec = change(bench.spec, devices=GPUS)
    return bench


@pytest.fixture
def one(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A model on one device, which its engine is shown as number 0 too."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    bench.spec = change(bench.spec, devices=("cuda:1",))
    return bench


def files_on(bench: Bench, device: str) -> ServerFiles:
    return server_files(server_key(bench.model, None, device, "auto", "auto"))


def is_crowded(*benches: Bench) -> bool:
    return any((bench.model / "crowded").exists() for bench in benches)


def test_two_pictures_at_once_have_an_engine_each_bound_to_its_device(two: Bench) -> None:
    jobs = [two.render_beside("slow", two.root / f"{n}.png") for n in range(2)]
    wait_until(lambda: two.noted("renders") == ["slow", "slow"], "both are rendered at once")
    two.release()
    assert {job.result()["device"] for job in jobs} == set(GPUS)
    assert sorted(two.noted("devices")) == ["cuda:0 of 0", "cuda:0 of 1"]
    assert (two.root / "0.png").read_bytes() == (two.root / "1.png").read_bytes()
    two.render("later")
    assert len(two.pids) == 2
    assert not is_crowded(two)


def test_engines_are_shown_what_the_run_may_use(two: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    two.render()
    assert two.noted("devices") == ["cuda:0 of GPU-a"]
    with pytest.raises(ConfigError, match="CUDA_VISIBLE_DEVICES"):
        two.render(devices=("cuda:0", "cuda:2"))


def test_more_jobs_than_devices_wait_and_no_engine_is_started_for_them(two: Bench) -> None:
    jobs = [two.render_beside("slow", two.root / f"{n}.png") for n in range(7)]
    wait_until(lambda: two.noted("renders") == ["slow", "slow"], "both are rendered at once")
    two.release()
    for job in jobs:
        job.result()
    assert len(two.pids) == 2
    assert len(two.noted("finished")) == 7
    assert not is_crowded(two)


def test_another_model_takes_the_empty_device_and_then_that_of_an_idle_engine(two: Bench) -> None:
    other = two.beside("other")
    two.render()
    other.render()
    assert [is_running(pid) for pid in two.pids + other.pids] == [True, True]
    third = two.beside("third")
    assert third.render()["device"] == "cuda:0"
    assert [is_running(pid) for pid in two.pids + other.pids] == [False, True]
    assert not is_running(two.engine_pids[0])
    assert not is_crowded(two, other, third)


def test_the_older_engine_of_a_single_device_makes_room_once_it_has_no_work(one: Bench) -> None:
    other = one.beside("other")
    job = one.render_beside("slow")
    one.wait_for_render("slow")
    waiting = other.render_beside("x", one.root / "other.png")
    later = one.render_beside("later", one.root / "later.png")  # of the model that is there: it need not wait
    one.release()
    for each in (job, later, waiting):
        each.result()
    assert len(one.pids) == len(other.pids) == 1
    assert not is_running(one.pids[0])
    assert not is_running(one.engine_pids[0])
    assert not is_crowded(one, other)
    one.render("again")
    other.wait_for_processes(other.pids[0])
    assert not is_crowded(one, other)


def test_each_model_is_loaded_once_a_device_when_their_pictures_come_one_after_another(two: Bench) -> None:
    other = two.beside("other")
    jobs = [(bench, two.root / f"{n}.png") for bench in (two, other) for n in range(8)]
    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(lambda job: job[0].render("x", job[1]), jobs):
            pass
    assert len(two.pids) <= 2
    assert len(other.pids) <= 2
    assert not is_crowded(two, other)
    assert len(processes_naming(str(two.runtime))) == 2


def test_engine_that_works_for_another_run_too_is_left_to_it(one: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    other = one.beside("other")
    one.render()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as second_run:
        mine = os.environ["DARKROOM_LEASE"]
        monkeypatch.setenv("DARKROOM_LEASE", make_lease(second_run.pid))
        one.render()
        assert len(one.pids) == 1
        monkeypatch.setenv("DARKROOM_LEASE", mine)
        other.render()
        assert is_running(one.pids[0])
    wait_until(lambda: not is_running(one.pids[0]), "the engine ends with the second run, since the first let it go")
    assert is_running(other.pids[0])


def test_a_picture_for_nobodys_run_is_finished_before_its_engine_makes_room(
    one: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = one.beside("other")
    one.render()
    lease = os.environ["DARKROOM_LEASE"]
    monkeypatch.delenv("DARKROOM_LEASE")
    job = one.render_beside("slow", one.root / "nobodys.png")
    one.wait_for_render("slow")
    monkeypatch.setenv("DARKROOM_LEASE", lease)
    waiting = other.render_beside("x")
    wait_until(lambda: "its device is needed" in files_on(one, "cuda:1").log.read_text(), "it is asked to end")
    one.release()
    job.result()
    waiting.result()
    assert not is_crowded(one, other)


def test_fault_31_engine_killed_on_the_second_device_costs_one_picture(two: Bench) -> None:
    jobs = {name: two.render_beside("slow", two.root / f"{name}.png") for name in "ab"}
    wait_until(lambda: two.noted("renders") == ["slow", "slow"], "both are rendered at once")
    (server,) = processes_naming(str(files_on(two, "cuda:1").socket))
    os.kill(server, signal.SIGKILL)
    two.release()
    errors = [job.exception() for job in jobs.values()]
    (error,) = [error for error in errors if error]
    assert isinstance(error, ServerDiedError)
    assert "engine on cuda:1" in str(error)
    assert len(list(two.root.glob("*.png"))) == 1
    jobs = {name: two.render_beside("x", two.root / f"{name}.png") for name in "ab"}
    for job in jobs.values():
        job.result()
    assert len(list(two.root.glob("*.png"))) == 2
    assert len(two.pids) <= 3


def test_fault_32_engines_on_all_devices_end_when_their_run_is_killed(
    two: Bench, holder: subprocess.Popen[bytes]
) -> None:
    jobs = [two.render_beside("slow", two.root / f"{n}.png") for n in range(5)]
    wait_until(lambda: two.noted("renders") == ["slow", "slow"], "both are rendered at once")
    holder.kill()
    for job in jobs:
        with pytest.raises(ServerError):
            job.result()
    for pid in two.pids:
        two.wait_for_processes(pid)
    assert len(two.pids) == 2, "a job left over from a killed run started another engine"
    assert list(two.runtime.rglob("*.sock*")) == []
    assert list(two.root.glob("*.png")) == []


def test_fault_30_no_device_is_free_in_time(one: Bench) -> None:
    job = one.render_beside("slow")
    one.wait_for_render("slow")
    with pytest.raises(ServerError, match=r"no device was free for it within 0\.5 s"):
        one.beside("other").render(render_timeout_s=0.5)
    one.release()
    job.result()


def test_fault_30_engine_whose_client_was_killed_while_it_started_is_known_of(one: Bench) -> None:
    script = "import time; print('started', flush=True); time.sleep(600)"
    code = (
        "import sys; from pathlib import Path; from darkroom.warm.client import *\n"
        "spec = EngineSpec(Path(sys.argv[1]), devices=['cuda:1'], command=tuple(sys.argv[2:]))\n"
        "render(spec, '{}', Path('never.png'))"
    )
    command = [sys.executable, "-c", code, str(one.model), sys.executable, "-c", script]
    log = files_on(one, "cuda:1").log
    with subprocess.Popen(command) as client:
        wait_until(lambda: log.exists() and "started" in log.read_text(), "the server's process starts")
        client.kill()
    with pytest.raises(ServerError, match=r"engine on 'cuda:1': did not end within 0\.5 s"):
        one.beside("other").render(start_timeout_s=0.5)
    (starting,) = processes_naming(str(one.runtime))
    os.kill(starting, signal.SIGKILL)
    one.beside("third").render()


def test_a_gpu_that_can_not_be_used_is_left_alone_and_its_pictures_are_made_elsewhere(
    two: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    """Without that it would take the most pictures: it fails them sooner than the others make theirs."""
    (two.model / "lost").write_text("0\n")
    for number in range(4):
        assert two.render(f"p{number}", two.root / f"{number}.png")["device"] == "cuda:1"
    assert two.noted("devices") == ["cuda:0 of 0", "cuda:0 of 1"]
    told = capfd.readouterr().err
    assert told.count("cuda:0 failed: E-CONFIG engine.device") == 1
    assert told.count("machine: ") == 2  # by the first engine on each device
    assert two.beside("other").render("x", two.root / "x.png")["device"] == "cuda:1"


def test_the_machine_is_told_by_whichever_client_starts_the_engine(
    one: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    """The client that has chosen the device may be overtaken by another before it has started the engine."""
    key = server_key(one.model, None, "cuda:1", "auto", "auto")
    slot = Slot(*make_devices(["cuda:1"]), key, current_lease(), is_only=True)
    with take_slot([slot], current_lease(), 0, 0, lambda: None):
        one.render()
    assert capfd.readouterr().err.count("machine: ") == 1


def test_a_gpu_that_falls_off_the_bus_in_the_middle_costs_no_picture(two: Bench) -> None:
    jobs = [two.render_beside("slow", two.root / f"{n}.png") for n in range(2)]
    wait_until(lambda: two.noted("renders") == ["slow", "slow"], "both are rendered at once")
    (two.model / "lost").write_text("0\n")
    os.kill(two.engine_pids[two.noted("devices").index("cuda:0 of 0")], signal.SIGKILL)
    wait_until(lambda: len(two.noted("devices")) == 3, "the engine is started again")
    two.release()
    assert {job.result()["device"] for job in jobs} == {"cuda:1"}
    two.render("later")
    assert len(two.noted("devices")) == 3
    assert not is_crowded(two)


def test_a_gpu_that_faults_is_lost_only_if_another_one_makes_the_picture(two: Bench) -> None:
    with pytest.raises(CudaError, match="unspecified launch failure"):
        two.render("always poison")
    engines = len(two.noted("devices"))
    assert {two.render("fine")["device"], two.render("fine")["device"]} <= set(GPUS)
    (two.model / "faulty").write_text("0\n")
    for number in range(3):
        assert two.render(f"p{number}", two.root / f"{number}.png")["device"] == "cuda:1"
    assert two.noted("renders").count("p0") <= 3  # twice on the one, and on the other
    assert two.noted("renders").count("p2") == 1
    assert len(two.noted("devices")) <= engines + 3


def test_with_every_gpu_lost_each_is_named(two: Bench) -> None:
    (two.model / "lost").write_text("0\n1\n")
    for _ in range(2):
        with pytest.raises(ConfigError, match="fallen off the bus") as raised:
            two.render()
        assert any(note.startswith("cuda:0: E-CONFIG") for note in raised.value.__notes__)
    assert len(two.noted("devices")) == 2
    assert not two.output.exists()


@pytest.mark.parametrize("visible", ["3,3", "GPU-a,GPU-a"])
def test_a_gpu_that_is_listed_twice_is_refused(two: Bench, visible: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(ConfigError, match="names a GPU twice"):
        two.render()


def test_what_is_no_gpu_ends_the_list_as_in_cuda() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "MIG-4d806f22,-1,2")
        assert [device.visible for device in make_devices(["cuda:0"])] == ["MIG-4d806f22"]
        with pytest.raises(ConfigError, match="CUDA_VISIBLE_DEVICES is 'MIG-4d806f22,-1,2'"):
            make_devices(["cuda:1"])
