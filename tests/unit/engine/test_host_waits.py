"""What a GPU would stop the host for: nothing in a step of our own making, and little in diffusers' schedulers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from PIL.Image import Image

from darkroom.engine import Engine, Library, Previews
from darkroom.engine import engine as engine_module
from darkroom.engine.memory import MemoryPlan
from darkroom.request.render_request import RenderRequest
from darkroom.request.samplers import SAMPLERS
from tests.fixtures import fake_device
from tests.fixtures.checkpoints import shrink_architecture
from tests.fixtures.controlnets import write_control
from tests.fixtures.fake_device import Log
from tests.fixtures.plain import make_marked_model
from tests.unit.engine.stages.pictures import box_mask, digest, file_of, noisy_picture

NOISE = {"Euler a", "DPM2 a", "DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 3M SDE", "DPM++ SDE", "LCM"}
"""Samplers that add noise, which is drawn on the CPU: one copy to the device a step."""
NUMBERS_READ = {"DDIM": 6, "PLMS": 3, "LCM": 3}
"""Schedulers that look a step's timestep up in a table on the CPU, so many times a step."""
NUMBERS_SENT = {"UniPC": 6}
"""UniPC's coefficients, made on the CPU."""


GUIDE, MASK = file_of(noisy_picture(64, 64)), file_of(box_mask(64, 64, (16, 16, 47, 47)))
FILES = {digest(data): data for data in (GUIDE, MASK)}
CONTROL = {"model": "edges", "image": digest(GUIDE)}
CASES: dict[str, dict[str, Any]] = {
    "a control": {"control": [CONTROL]},
    "half of a control": {"control": [{**CONTROL, "mode": "control"}]},
    "a Union's control": {"control": [{**CONTROL, "model": "union", "type": "tile"}]},
    "another picture": {"image": digest(GUIDE), "stages": [{"img2img": {"denoising_strength": 1}}]},
    "a part made anew": {
        "image": digest(GUIDE),
        "stages": [{"inpaint": {"denoising_strength": 1, "mask": digest(MASK)}}],
    },
    "other settings": {"freeu": {"s1": 0.9, "s2": 0.2, "b1": 1.2, "b2": 1.4}, "cfg_rescale": 0.7},
}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    fake_device.install()
    folder = tmp_path_factory.mktemp("small")
    architecture = shrink_architecture("darkroom-demo", folder / "architecture")
    model_dir = make_marked_model(folder, "small", {}, architecture)
    write_control(folder / "controlnets/edges.safetensors", architecture=architecture)
    write_control(folder / "controlnets/union.safetensors", architecture=architecture, types=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "resolve_device", lambda device: device)
        patch.setattr(engine_module, "resolve_dtype", lambda *_: "fp32")
        patch.setattr(engine_module, "decide", lambda *_: MemoryPlan("resident", "for a test", None))
        engine = Engine.load(model_dir, device=fake_device.DEVICE, library=Library(folder))
    engine.denoise(RenderRequest(prompt="x", width=64, height=64, steps=1))  # the prompt is known from here on
    yield engine
    engine.close()


def record(engine: Engine, sampler: str, steps: int, previews: Previews | None = None, **changes: Any) -> Log:
    request = {"prompt": "x", "width": 64, "height": 64, "steps": steps, "sampler": sampler, **changes}
    given = RenderRequest.model_validate(request)
    with fake_device.recording() as log:
        engine.denoise(given, previews=previews, pictures={name: FILES[name] for name in given.pictures})
    return log


@pytest.mark.full
@pytest.mark.parametrize("sampler", [sampler.name for sampler in SAMPLERS])
def test_steps_of_a_sampler(engine: Engine, sampler: str) -> None:
    few, many = record(engine, sampler, 3), record(engine, sampler, 5)
    waits = many.waits.total() - few.waits.total()
    assert waits == 2 * NUMBERS_READ.get(sampler, 0)
    assert len(many.to_device) - len(few.to_device) == 2 * ((sampler in NOISE) + NUMBERS_SENT.get(sampler, 0))
    assert len(many.to_host) == len(few.to_host)


@pytest.mark.full
@pytest.mark.parametrize("case", CASES)
def test_steps_with_controls_of_stages_and_with_settings_wait_for_nothing_more(engine: Engine, case: str) -> None:
    record(engine, "Euler", 1, **CASES[case])  # the models are known from here on
    few, many = (record(engine, "Euler", steps, **CASES[case]) for steps in (3, 5))
    assert many.waits == few.waits
    assert len(many.to_device) == len(few.to_device)
    assert len(many.to_host) == len(few.to_host)


@pytest.mark.full
@pytest.mark.parametrize("sampler", ["DPM++ 2M", "DPM2", "DDIM", "PLMS", "LCM"])
def test_a_mask_reads_no_number_of_its_own_in_a_step(engine: Engine, sampler: str) -> None:
    few, many = (record(engine, sampler, steps, **CASES["a part made anew"]) for steps in (3, 5))
    assert many.waits.total() - few.waits.total() == 2 * NUMBERS_READ.get(sampler, 0)
    assert len(many.to_host) == len(few.to_host)


@pytest.mark.full
def test_previews_make_no_other_step_wait(engine: Engine) -> None:
    seen: list[Image] = []
    few, many = (record(engine, "Euler", steps, Previews(1, seen.append)) for steps in (3, 5))
    assert len(seen) == 2
    assert (many.waits, len(many.to_host), len(many.to_device)) == (few.waits, len(few.to_host), len(few.to_device))


def test_a_picture_waits_at_its_end_only(engine: Engine) -> None:
    log = record(engine, "Euler", 3)
    assert not log.waits
    table, finite = log.to_host
    assert table == 4 * 4, "the noise levels of 3 steps, which diffusers keeps on the CPU"
    assert finite == 3, "one truth value a step, all at once"
    assert max(log.to_device) <= 4 * 8 * 8 * 4, "nothing larger than the starting noise"
