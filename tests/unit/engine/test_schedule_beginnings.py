"""Every schedule begins at its first step, also where two levels at its beginning round to one timestep."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from darkroom.engine.schedulers import build
from darkroom.errors import RequestError
from darkroom.request.samplers import SAMPLERS, find_sampler

CONFIG = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}
TWICE = ("DPM++ 2M", "DPM++ 2M SDE", "UniPC")
"""Samplers whose schedule Beta has the first timestep twice at ten steps of a model with a zero terminal SNR."""


def scheduler_of(sampler: str, schedule: str, steps: int, **changes: Any) -> Any:
    scheduler = build(sampler, schedule, CONFIG | changes, steps)
    scheduler.set_timesteps(steps)
    return scheduler


def run(scheduler: Any) -> list[int]:
    """The index of each step, with a model that predicts nothing."""
    latents, indices = torch.ones(1, 4, 2, 2), []
    for timestep in scheduler.timesteps:
        scheduler.scale_model_input(latents, timestep)
        latents = scheduler.step(torch.zeros_like(latents), timestep, latents).prev_sample
        indices.append(scheduler.step_index - 1)
    assert latents.isfinite().all()
    return indices


@pytest.mark.parametrize("sampler", TWICE)
def test_a_timestep_that_stands_twice_at_the_beginning(sampler: str) -> None:
    scheduler = scheduler_of(sampler, "Beta", 10)
    assert scheduler.timesteps[0] == scheduler.timesteps[1]
    assert run(scheduler) == list(range(10))


@pytest.mark.full
@pytest.mark.parametrize("zero_snr", [True, False])
@pytest.mark.parametrize("sampler", [sampler.name for sampler in SAMPLERS])
def test_no_other_picture_begins_anywhere_else(sampler: str, zero_snr: bool) -> None:
    """Where diffusers' search finds another step than the first, the schedule ran out of levels: nothing else has changed."""
    for schedule in find_sampler(sampler).schedules:
        for steps in range(1, 51):
            try:
                scheduler = scheduler_of(sampler, schedule, steps, rescale_betas_zero_snr=zero_snr)
            except RequestError:
                continue
            if hasattr(scheduler, "index_for_timestep") and scheduler.index_for_timestep(scheduler.timesteps[0]) != 0:
                scheduler.set_begin_index(None)
                with pytest.raises((IndexError, AssertionError)):
                    run(scheduler)
