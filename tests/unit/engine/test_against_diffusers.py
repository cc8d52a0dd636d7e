"""The engine's pixels are those of a plain diffusers pipeline with the same scheduler, noise and embeddings."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from darkroom.engine import Engine
from darkroom.engine.schedulers import build
from darkroom.errors import RequestError
from darkroom.request import RenderRequest
from darkroom.samplers import SAMPLERS, SCHEDULES, Sampler
from tests.fixtures.plain import plain_output, plain_pipeline

KARRAS = {"use_karras_sigmas": True}
CASES: list[tuple[str, str, str, dict[str, Any]]] = [
    ("Euler", "Automatic", "EulerDiscreteScheduler", {}),
    ("Euler", "Karras", "EulerDiscreteScheduler", KARRAS),
    ("Euler", "SGM Uniform", "EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),
    ("Euler a", "Automatic", "EulerAncestralDiscreteScheduler", {}),
    ("DPM++ 2M", "Automatic", "DPMSolverMultistepScheduler", {}),
    ("DPM++ 2M", "Karras", "DPMSolverMultistepScheduler", KARRAS),
    ("DDIM", "Automatic", "DDIMScheduler", {}),
]


@pytest.fixture(scope="module")
def plain(model_dir: Path) -> Any:
    return plain_pipeline(model_dir)


@pytest.mark.parametrize(("sampler", "schedule", "scheduler", "options"), CASES)
def test_pixels_equal_a_plain_pipelines(
    engine: Engine,
    plain: Any,
    model_dir: Path,
    request_: RenderRequest,
    sampler: str,
    schedule: str,
    scheduler: str,
    options: Any,
) -> None:
    import diffusers

    request = request_.model_copy(update={"sampler": sampler, "schedule": schedule, "steps": 4, "width": 96})
    settings = diffusers.EulerDiscreteScheduler.load_config(model_dir / "scheduler")
    plain.scheduler = getattr(diffusers, scheduler).from_config(settings, **options)
    assert engine.render(request).image.tobytes() == plain_output(plain, request, "pil").tobytes()


def test_each_scheduler_is_fresh_and_knows_what_the_model_predicts() -> None:
    config = {"prediction_type": "v_prediction", "beta_end": 0.02, "skip_prk_steps": True, "_class_name": "X"}
    first, second = build("Euler", "Automatic", config), build("Euler", "Automatic", config)
    assert first is not second
    assert (first.config.prediction_type, first.config.beta_end) == ("v_prediction", 0.02)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: sampler.name)
def test_no_schedule_is_silently_ignored(sampler: Sampler) -> None:
    import diffusers

    known = inspect.signature(getattr(diffusers, sampler.scheduler).__init__).parameters
    for schedule, options in SCHEDULES.items():
        settings = {"prompt": "", "sampler": sampler.name, "schedule": schedule}
        if options.keys() <= known.keys():
            assert RenderRequest.from_settings(settings).schedule == schedule
        else:
            with pytest.raises(RequestError, match=f"the sampler {sampler.name} can't follow the schedule"):
                RenderRequest.from_settings(settings)
