"""Previews: they show the picture that is being made, and don't change it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

from darkroom.engine import Engine, Previews
from darkroom.engine.blending import estimate, noise_level
from darkroom.engine.schedulers import build
from darkroom.request.render_request import RenderRequest
from darkroom.request.samplers import SAMPLERS

CONFIG: dict[str, Any] = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
EDM = {
    "Euler": "EDMEulerScheduler",
    "DPM++ 2M": "EDMDPMSolverMultistepScheduler",
}


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("sampler", [sampler.name for sampler in SAMPLERS])
def test_the_estimate_is_the_picture_that_the_noise_was_added_to(sampler: str, prediction: str) -> None:
    scheduler = build(sampler, "Automatic", {**CONFIG, "prediction_type": prediction})
    scheduler.set_timesteps(8)
    rng = torch.Generator().manual_seed(1)
    latents, noise = (torch.randn(1, 4, 8, 8, generator=rng) for _ in range(2))
    for place in (0, 5):
        timestep = scheduler.timesteps[place]
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(place)
        sample = scheduler.add_noise(latents, noise, timestep.reshape(1))
        level = scheduler.add_noise(torch.zeros(1), torch.ones(1), timestep.reshape(1)).item()
        signal = scheduler.add_noise(torch.ones(1), torch.zeros(1), timestep.reshape(1)).item()
        size = (signal**2 + level**2) ** 0.5
        output = noise if prediction == "epsilon" else (signal * noise - level * latents) / size
        found = estimate(scheduler, output, timestep, sample, noise_level(scheduler, timestep))
        torch.testing.assert_close(found, latents, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("sampler", EDM)
def test_the_estimate_of_a_model_with_edms_noise(sampler: str) -> None:
    config = {"_class_name": EDM[sampler], "sigma_data": 0.5, "sigma_max": 80.0, "sigma_min": 0.002}
    scheduler = build(sampler, "Automatic", config)
    scheduler.set_timesteps(8)
    scheduler.set_begin_index(5)
    timestep, sample = scheduler.timesteps[5], torch.ones(1, 4, 8, 8)
    sigma = scheduler.sigmas[5]
    found = estimate(scheduler, torch.zeros(1, 4, 8, 8), timestep, sample, noise_level(scheduler, timestep))
    torch.testing.assert_close(found, sample * 0.25 / (sigma**2 + 0.25))  # the preconditioning's c_skip


@pytest.mark.parametrize(
    ("count", "steps", "due"),
    [(1, 20, [10]), (2, 30, [10, 20]), (3, 4, [1, 2, 3]), (3, 2, [1]), (3, 1, []), (0, 20, [])],
)
def test_previews_are_spread_evenly(count: int, steps: int, due: list[int]) -> None:
    previews = Previews(count, lambda _: None)
    assert [step for step in range(1, steps + 1) if previews.is_due(step, steps)] == due


@pytest.mark.parametrize("sampler", ["Euler a", "DPM++ 2M SDE", "DDIM", "Heun"])
def test_a_picture_with_previews_has_the_same_pixels(engine: Engine, sampler: str) -> None:
    request = RenderRequest(prompt="a red circle", width=64, height=64, steps=6, sampler=sampler, seed=3)
    seen: list[Image.Image] = []
    watched = engine.decode(engine.denoise(request, previews=Previews(2, seen.append)))
    assert watched.image.tobytes() == engine.render(request).image.tobytes()
    assert [image.size for image in seen] == [(64, 64), (64, 64)]
    assert len({image.tobytes() for image in [*seen, watched.image]}) == 3


def test_previews_come_near_the_picture(engine: Engine) -> None:
    request = RenderRequest(prompt="a red circle", width=64, height=64, steps=12, seed=3)
    seen: list[Image.Image] = []
    finished = engine.decode(engine.denoise(request, previews=Previews(3, seen.append))).image
    target = torch.tensor(list(finished.tobytes()), dtype=torch.float)
    errors = [(torch.tensor(list(image.tobytes()), dtype=torch.float) - target).abs().mean().item() for image in seen]
    assert errors == sorted(errors, reverse=True)
