"""Which device a client takes, told from locks alone: the engines are stand-ins that hold their start lock."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from darkroom.errors import ConfigError
from darkroom.warm.lease import make_lease
from darkroom.warm.paths import runtime_folder, server_files, slot_file
from darkroom.warm.slots import THREAD_VARIABLES, Slot, choose, is_running, make_devices

LEASE = make_lease(os.getpid())


class Run:
    """Clients of a run that has these devices."""

    def __init__(self, stack: ExitStack, *devices: str) -> None:
        self.devices = make_devices(devices)
        self._engines: dict[Path, int] = {}
        stack.callback(lambda: [os.close(handle) for handle in self._engines.values()])

    def slots(self, model: str) -> list[Slot]:
        is_only = len(self.devices) == 1
        return [Slot(each, f"{model}-{number}", LEASE, is_only=is_only) for number, each in enumerate(self.devices)]

    def take(self, model: str) -> Slot | None:
        """What a client does before it gets its picture: after it an engine for that model is there and runs."""
        slot = choose(self.slots(model))
        if slot is not None and not slot.has_wanted:
            slot.settle()
        if slot is not None:
            self.start(slot)
        return slot

    def start(self, slot: Slot) -> None:
        if not is_running(slot.files):
            handle = self._engines[slot.files.socket] = os.open(slot.files.start_lock, os.O_RDWR | os.O_CREAT)
            fcntl.flock(handle, fcntl.LOCK_EX)

    def end(self, key: str) -> None:
        """The engine with that key ends."""
        os.close(self._engines.pop(server_files(key).socket))


def number(slot: Slot | None) -> int | None:
    return None if slot is None else slot.device.copy


@pytest.fixture
def stack(runtime: Path) -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def two(stack: ExitStack) -> Run:
    return Run(stack, "cpu", "cpu")


def test_clients_spread_over_the_devices_before_two_share_one(two: Run) -> None:
    taken = [two.take("a") for _ in range(5)]
    assert [number(slot) for slot in taken] == [0, 1, 0, 1, None]
    assert taken[1] is not None
    taken[1].leave()
    assert number(two.take("a")) == 1


def test_the_device_whose_engine_runs_already_is_preferred_to_an_empty_one(two: Run) -> None:
    first, second = two.take("a"), two.take("a")
    assert first is not None
    assert second is not None
    first.leave()
    second.leave()
    other = two.take("b")
    assert number(other) == 0  # the engine there had no work
    assert number(two.take("a")) == 1


def test_an_engine_that_ended_counts_as_none(two: Run) -> None:
    slots = [two.take("a") for _ in range(2)]
    for slot in slots:
        assert slot is not None
        slot.leave()
    two.end("a-0")
    assert number(two.take("a")) == 1  # where it still runs
    two.end("a-1")
    assert number(two.take("a")) == 0
    two.end("a-0")


def test_a_device_whose_engine_ended_is_preferred_to_ending_another_model(two: Run) -> None:
    slots = [two.take("a") for _ in range(2)]
    for slot in slots:
        assert slot is not None
        slot.leave()
    two.end("a-1")
    assert number(two.take("b")) == 1


def test_an_empty_device_is_preferred_to_ending_another_model(two: Run) -> None:
    first = two.take("a")
    assert first is not None
    first.leave()
    assert number(two.take("b")) == 1


def test_a_device_with_another_models_work_is_never_taken(two: Run) -> None:
    assert [number(two.take("a")) for _ in range(2)] == [0, 1]
    assert two.take("b") is None


def test_whoever_ends_another_model_has_the_device_alone(two: Run) -> None:
    taken = [two.take("a") for _ in range(2)]
    for slot in taken:
        assert slot is not None
        slot.leave()
    slot = choose(two.slots("b"))
    assert slot is not None
    assert not slot.has_wanted
    assert number(choose(two.slots("b"))) == 1
    assert choose(two.slots("a")) is None
    slot.settle()
    assert number(choose(two.slots("b"))) == 0  # the second seat, free now


def test_the_only_device_takes_any_number_of_one_models_clients(stack: ExitStack) -> None:
    run = Run(stack, "cpu")
    taken = [run.take("a") for _ in range(20)]
    assert [number(slot) for slot in taken] == [0] * 20
    for slot in taken:
        assert run.take("b") is None
        assert slot is not None
        slot.leave()
    assert number(run.take("b")) == 0
    assert run.take("a") is None


@pytest.mark.parametrize("devices", [["cpu"], ["cpu", "cpu"]])
def test_the_seat_of_a_killed_client_is_free(stack: ExitStack, devices: list[str]) -> None:
    script = (
        "import sys; from darkroom.warm.slots import *; from darkroom.warm.slots import make_devices\n"
        "devices = make_devices(sys.argv[2:])\n"
        "for _ in devices:\n"
        "    assert choose([Slot(each, 'a', sys.argv[1], is_only=len(devices) == 1) for each in devices])\n"
        "print('ready', flush=True); input()"
    )
    command = [sys.executable, "-c", script, LEASE, *devices]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "ready\n"
        run = Run(stack, *devices)
        assert run.take("b") is None
        client.kill()
    assert number(run.take("b")) == 0


def test_files_of_ended_runs_are_deleted_and_those_of_others_kept(runtime: Path, stack: ExitStack) -> None:
    pid, _, start = LEASE.partition(":")
    folder = runtime_folder()
    gone = [
        folder / f"{pid}-{int(start) - 1}-0123456789abcdef{end}"
        for end in (".slot", ".seat0", ".seat1", ".lost", ".told")
    ]
    kept = [slot_file(None, "cpu", 0), server_files("0123456789012345").log, server_files("1").socket]
    for path in [*gone, *kept]:
        path.touch()
    Run(stack, "cpu").take("a")
    assert not any(path.exists() for path in gone)
    assert all(path.exists() for path in kept)


def test_runs_know_nothing_of_one_another(stack: ExitStack, runtime: Path) -> None:
    assert slot_file(LEASE, "cpu", 0) != slot_file(None, "cpu", 0)
    assert slot_file(LEASE, "cpu", 0) != slot_file(LEASE, "cpu", 1)
    assert slot_file(LEASE, "cpu", 0) != slot_file(LEASE, "cuda:0", 0)


@pytest.mark.parametrize(
    ("given", "names", "visible"),
    [
        (None, ["cuda:0", "cuda:2"], ["0", "2"]),
        ("3, 5,7", ["cuda:0", "cuda:2"], ["3", "7"]),
        ("GPU-8a,MIG-1b", ["cuda:1"], ["MIG-1b"]),
        ("1", ["auto"], [None]),
        (None, ["cpu", "cpu"], [None, None]),
        (None, ["cuda"], [None]),
    ],
)
def test_an_engine_is_shown_its_own_gpu_alone(
    monkeypatch: pytest.MonkeyPatch, given: str | None, names: list[str], visible: list[str | None]
) -> None:
    if given is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    devices = make_devices(names)
    assert [device.visible for device in devices] == visible
    for device in devices:
        assert device.seen_as == (device.name if device.visible is None else "cuda:0")
        if device.visible is None:
            assert device.environment is None
        else:
            assert device.environment == {**os.environ, "CUDA_VISIBLE_DEVICES": device.visible}


def test_an_engine_has_the_runs_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Snakemake has set that of the job, for each library."""
    for name in THREAD_VARIABLES:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("DARKROOM_THREADS", "3")
    for device in make_devices(["cpu", "cuda:1"]):
        environment = device.environment
        assert environment is not None and {environment[name] for name in THREAD_VARIABLES} == {"3"}


@pytest.mark.parametrize("given", ["", "-1", "4"])
def test_a_gpu_that_the_process_may_not_use_is_an_error(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    with pytest.raises(ConfigError, match=f"E-CONFIG .*'cuda:1': CUDA_VISIBLE_DEVICES is '{given}'"):
        make_devices(["cuda:1"])


def test_equal_names_are_told_apart_by_their_place() -> None:
    assert [(device.name, device.copy) for device in make_devices(["cpu", "cpu"])] == [("cpu", 0), ("cpu", 1)]
