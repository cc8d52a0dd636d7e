"""What a GPU would stop the host for: nothing in a step of our own making, and little in diffusers' schedulers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from darkroom.engine import Engine
from darkroom.engine import engine as engine_module
from darkroom.engine.memory import MemoryPlan
from darkroom.request.render_request import RenderRequest
from darkroom.request.samplers import SAMPLERS
from tests.fixtures import fake_device
from tests.fixtures.fake_device import Log

NOISE = {"Euler a", "DPM2 a", "DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 3M SDE", "DPM++ SDE", "LCM"}
"""Samplers that add noise, which is drawn on the CPU: one copy to the device a step."""
NUMBERS_READ = {"DDIM": 6, "PLMS": 3, "LCM": 3}
"""Schedulers that look a step's timestep up in a table on the CPU, so many times a step."""
NUMBERS_SENT = {"UniPC": 6}
"""UniPC's coefficients, made on the CPU."""


@pytest.fixture(scope="module")
def engine(model_dir: Path) -> Iterator[Engine]:
    fake_device.install()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "resolve_device", lambda device: device)
        patch.setattr(engine_module, "resolve_dtype", lambda *_: "fp32")
        patch.setattr(engine_module, "decide", lambda *_: MemoryPlan("resident", "for a test", None))
        engine = Engine.load(model_dir, device=fake_device.DEVICE)
    engine.denoise(RenderRequest(prompt="x", width=64, height=64, steps=1))  # the prompt is known from here on
    yield engine
    engine.close()


def record(engine: Engine, sampler: str, steps: int) -> Log:
    with fake_device.recording() as log:
        engine.denoise(RenderRequest(prompt="x", width=64, height=64, steps=steps, sampler=sampler))
    return log


@pytest.mark.full
@pytest.mark.parametrize("sampler", [sampler.name for sampler in SAMPLERS])
def test_steps_of_a_sampler(engine: Engine, sampler: str) -> None:
    few, many = record(engine, sampler, 3), record(engine, sampler, 5)
    waits = many.waits.total() - few.waits.total()
    assert waits == 2 * NUMBERS_READ.get(sampler, 0)
    assert len(many.to_device) - len(few.to_device) == 2 * ((sampler in NOISE) + NUMBERS_SENT.get(sampler, 0))
    assert len(many.to_host) == len(few.to_host)


def test_a_picture_waits_at_its_end_only(engine: Engine) -> None:
    log = record(engine, "Euler", 3)
    assert not log.waits
    table, finite = log.to_host
    assert table == 4 * 4, "the noise levels of 3 steps, which diffusers keeps on the CPU"
    assert finite == 3, "one truth value a step, all at once"
    assert max(log.to_device) <= 4 * 8 * 8 * 4, "nothing larger than the starting noise"
