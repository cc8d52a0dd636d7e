"""Several devices in the configuration, and the order in which checkpoints come to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from snakemake.iocontainers import Wildcards

from darkroom.config import Config, parse_config
from darkroom.engine.devices import resolve_device
from darkroom.errors import ConfigError
from darkroom.run.plan import Plan, make_plan
from tests.fixtures.checkpoints import write_random_checkpoint


def configure(**changes: Any) -> Config:
    checkpoints = {name: {"source": "any.safetensors"} for name in ("first", "second", "third")}
    return parse_config({"checkpoints": checkpoints, "sheets": ["sheet.txt"], **changes})


@pytest.mark.parametrize("section", ["engine", "serve"])
@pytest.mark.parametrize("devices", [[], ["auto"], ["cuda:0", "cuda:1"], ["cpu", "cpu"], ["cuda", "cpu"]])
def test_devices_that_can_be(section: str, devices: list[str]) -> None:
    assert getattr(configure(**{section: {"devices": devices}}), section).devices == devices


@pytest.mark.parametrize("section", ["engine", "serve"])
@pytest.mark.parametrize(
    ("devices", "why"),
    [
        (["cuda:1", "cuda:1"], "names cuda:1 more than once"),
        (["cuda:0", "cuda"], "names cuda:0 more than once"),
        (["mps", "mps"], "names mps more than once"),
        (["cuda:0", "cuda:00"], "cuda:00"),
        (["auto", "cuda:1"], "names auto beside others"),
        (["gpu:1"], "gpu:1"),
    ],
)
def test_devices_that_can_not_be(section: str, devices: list[str], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        configure(**{section: {"devices": devices}})


def test_a_gpu_that_is_not_there_is_named_as_the_engine_was_shown_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    with pytest.raises(ConfigError, match=r"'cuda:0': this machine has no such device, with CUDA_VISIBLE_DEVICES '7'"):
        resolve_device("cuda:0")


def ranking(plan: Plan) -> list[str]:
    """The checkpoints in the order in which their pictures are begun."""
    pictures = [
        Wildcards(fromdict={"sheet": p.sheet, "checkpoint": p.checkpoint, "picture": p.id, "seed": str(p.seed)})
        for p in plan.sheets["sheet"]
    ]
    return [p.checkpoint for p in sorted(pictures, key=plan.priority, reverse=True)]


def test_checkpoints_that_are_ready_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_random_checkpoint(tmp_path / "any.safetensors")
    Path("sheet.txt").write_text("a circle\n")
    assert ranking(make_plan(configure())) == ["first", "second", "third"]
    for name in ("third", "second"):
        receipt = Path(f"models/verified/{name}.json")
        receipt.parent.mkdir(parents=True, exist_ok=True)
        receipt.touch()
    assert ranking(make_plan(configure())) == ["second", "third", "first"]
