"""Which models an engine process keeps loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from darkroom.errors import OutOfMemoryError
from darkroom.serve import engines
from darkroom.serve.engines import EngineOptions, Engines, ModelFiles, OnRead

SIZE = 3 * 10**9


class Machine:
    """A device of some size; engines on it take `SIZE` bytes each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
        self.free = size
        self.done: list[str] = []
        self.refuses = 0
        monkeypatch.setattr(engines, "free_for_models", lambda options, weights: self.free)
        monkeypatch.setattr(engines, "weights_bytes", lambda model_dir, options: SIZE)

    def load(self, files: ModelFiles, _options: EngineOptions, _on_read: OnRead) -> FakeEngine:
        if self.refuses:
            self.refuses -= 1
            raise OutOfMemoryError("model", files.model_dir.name, "does not fit")
        self.free -= SIZE
        self.done.append(f"load {files.model_dir.name}")
        return FakeEngine(files.model_dir.name, self)


class FakeEngine:
    def __init__(self, name: str, machine: Machine) -> None:
        self.name = name
        self.machine = machine

    def close(self) -> None:
        self.machine.free += SIZE
        self.machine.done.append(f"close {self.name}")


def make(machine: Machine) -> Engines:
    options = EngineOptions({name: ModelFiles(Path(name)) for name in "abc"})
    return Engines(options, machine.load, lambda: machine.done.append("wait"), lambda *_: None)


def test_models_stay_while_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 3 * SIZE + engines.WORKING_BYTES)
    loaded = make(machine)
    for name in "abcabc":
        assert loaded.get(name).name == name
    assert machine.done == ["load a", "load b", "load c"]


def test_the_least_recently_used_makes_room_once_its_pictures_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 2 * SIZE + engines.WORKING_BYTES)
    loaded = make(machine)
    for name in "abac":
        loaded.get(name)
    assert machine.done == ["load a", "load b", "wait", "close b", "load c"]
    assert list(loaded) == ["a", "c"]


def test_a_single_model_is_loaded_even_where_room_looks_short(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 10)
    assert make(machine).get("a").name == "a"


def test_a_load_that_runs_out_of_memory_is_tried_again_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 9 * SIZE)
    loaded = make(machine)
    loaded.get("a")
    machine.refuses = 1
    assert loaded.get("b").name == "b"
    assert machine.done == ["load a", "wait", "close a", "load b"]
    machine.refuses = 2
    with pytest.raises(OutOfMemoryError):
        loaded.get("c")
    assert loaded.get("b").name == "b"


def test_weights_are_counted_in_the_format_they_are_loaded_in(model_dir: Path) -> None:
    on_disk = sum(path.stat().st_size for path in model_dir.glob("*/*.safetensors"))
    files = {"m": ModelFiles(model_dir)}
    assert engines.weights_bytes(model_dir, EngineOptions(files, device="cpu", dtype="fp32")) == 2 * on_disk
    assert engines.weights_bytes(model_dir, EngineOptions(files, device="cpu", dtype="bf16")) == on_disk


def test_options_pass_through_the_channel_unchanged() -> None:
    files = {"m": ModelFiles(Path("/m"), Path("/m.json")), "n": ModelFiles(Path("/n"))}
    options = EngineOptions(files, "cuda:1", "fp16", "offload", Path("/models"), probe=True)
    assert EngineOptions.from_message(options.as_message()) == options
