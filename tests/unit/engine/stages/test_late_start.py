"""Starting late in a schedule: every sampler begins at the right noise level, and is asked as often as it should be.

A1111's formulas: modules/sd_samplers_common.py, setup_img2img_steps; modules/sd_samplers_kdiffusion.py, sample_img2img. The
samplers are restated from k_diffusion/sampling.py.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from scipy import integrate

from darkroom.engine.blending import noise_level
from darkroom.engine.late_start import Start, calls_before, steps_before
from darkroom.engine.schedulers import build
from darkroom.errors import RequestError
from darkroom.request.samplers import EDM_SCHEDULES, SAMPLERS, Sampler, find_sampler
from darkroom.request.stages import Hires, Img2Img
from tests.fixtures.tiers import pairwise_rows

STEPS = 10
SDXL: dict[str, Any] = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 1,
}
ZERO_SNR = {**SDXL, "prediction_type": "v_prediction", "timestep_spacing": "trailing", "rescale_betas_zero_snr": True}
EDM: dict[str, Any] = {"_class_name": "EDMEulerScheduler", "sigma_min": 0.002, "sigma_max": 80.0}
CONFIGS = {
    "SDXL": SDXL,
    "v": {**SDXL, "prediction_type": "v_prediction"},
    "zero SNR": ZERO_SNR,
    "EDM": EDM,
}


OF_ZERO_SNR = (
    "Euler",
    "Euler a",
    "DPM++ 2M",
    "DPM++ 2M SDE",
    "DPM++ 2M SDE Heun",
    "DPM++ 3M SDE",
    "UniPC",
    "DDIM",
    "LCM",
)


def is_possible(sampler: Sampler, schedule: str, config: str) -> bool:
    """Whether the model's noise allows the sampler and the schedule; test_samplers_numerics.py tests that."""
    if config == "EDM":
        return sampler.edm_scheduler is not None and schedule in EDM_SCHEDULES
    return config != "zero SNR" or (sampler.name in OF_ZERO_SNR and schedule != "Align Your Steps")


CASES = pairwise_rows(
    (sampler.name, schedule, config, run)
    for sampler in SAMPLERS
    for schedule in sampler.schedules
    for config in CONFIGS
    for run in (1, 2, 3, STEPS)
    if is_possible(sampler, schedule, config)
)


def tensors() -> tuple[torch.Tensor, torch.Tensor]:
    """Latents and unit noise."""
    generator = torch.Generator().manual_seed(5)
    latents, noise = torch.randn(2, 1, 4, 4, 4, generator=generator)
    return latents, noise


def follow(scheduler: Any, latents: Any) -> tuple[list[tuple[float, float]], Any]:
    """Timestep and sigma of each call of a smooth function in a model's place, and the latents after the last."""
    generator = torch.Generator().manual_seed(0)
    extra = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
    calls = []
    for timestep in scheduler.timesteps:
        scaled = scheduler.scale_model_input(latents, timestep)
        sigma = noise_level(scheduler, timestep)
        if sigma is None:
            signal = scheduler.alphas_cumprod[int(timestep)]
            sigma = ((1 - signal) / signal) ** 0.5
        calls.append((float(timestep), float(sigma)))
        output = torch.sin(3 * scaled + float(timestep) / 100)
        latents = scheduler.step(output, timestep, latents, **extra, return_dict=False)[0]
    return calls, latents


def begin(sampler: str, schedule: str, config: str, run: int, **options: Any) -> tuple[Any, Any]:
    """A scheduler of which the last steps are left, and the noisy latents it begins with."""
    scheduler = build(sampler, schedule, CONFIGS[config], STEPS)
    latents, noise = tensors()
    return scheduler, Start(latents, STEPS, run, **options).begin(scheduler, noise, "cpu")


@pytest.mark.parametrize(("sampler", "schedule", "config", "run"), CASES)
def test_the_last_steps_are_those_of_the_whole_schedule(sampler: str, schedule: str, config: str, run: int) -> None:
    whole = build(sampler, schedule, CONFIGS[config], STEPS)
    whole.set_timesteps(STEPS)
    if hasattr(whole, "set_begin_index"):
        whole.set_begin_index(0)  # diffusers takes the second of two equal timesteps for the first
    latents, noise = tensors()
    every, _ = follow(whole, noise.clone())
    scheduler, noisy = begin(sampler, schedule, config, run)
    calls, made = follow(scheduler, noisy)
    assert len(calls) == find_sampler(sampler).calls(run)
    assert made.isfinite().all()
    if sampler == "PLMS":  # it asks twice at the second timestep of what it begins with
        ours, theirs = sorted(set(calls), reverse=True), sorted(set(every), reverse=True)[-run:]
    else:
        ours, theirs = calls, every[-len(calls) :]
    assert ours == [(pytest.approx(time), pytest.approx(sigma)) for time, sigma in theirs]
    sigma, expected = calls[0][1], latents + calls[0][1] * noise
    if config != "EDM" and (not hasattr(scheduler, "sigmas") or hasattr(scheduler, "_sigma_to_alpha_sigma_t")):
        expected = noise if math.isinf(sigma) else expected / (1 + sigma**2) ** 0.5  # latents of unit variance
    torch.testing.assert_close(noisy, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("sampler", "schedule", "config", "run"), CASES)
def test_latents_outside_of_a_mask_are_kept(sampler: str, schedule: str, config: str, run: int) -> None:
    latents, _ = tensors()
    anew = torch.zeros(1, 1, 4, 4)
    anew[..., 2:] = 1
    scheduler, noisy = begin(sampler, schedule, config, run, anew=anew)
    _, made = follow(scheduler, noisy)
    # DDIM, PLMS and DEIS end at the model's weakest noise, not at none; PLMS takes the mean of v at two timesteps.
    torch.testing.assert_close(made[..., :2], latents[..., :2], rtol=0, atol=0.1)
    assert (made[..., 2:] - latents[..., 2:]).abs().max() > (0.1 if run == STEPS else 0)
    kept = Start(latents, STEPS, run, anew=anew).end(made)
    assert kept[..., :2].equal(latents[..., :2])
    assert kept[..., 2:].equal(made[..., 2:])


def euler(denoise: Callable[..., Any], x: Any, sigmas: Any) -> Any:
    for now, after in pairwise(sigmas):
        x = x + (x - denoise(x, now)) / now * (after - now)
    return x


def heun(denoise: Callable[..., Any], x: Any, sigmas: Any) -> Any:
    for now, after in pairwise(sigmas):
        slope = (x - denoise(x, now)) / now
        ahead = x + slope * (after - now)
        if after > 0:
            slope = (slope + (ahead - denoise(ahead, after)) / after) / 2
        x = x + slope * (after - now)
    return x


def lms(denoise: Callable[..., Any], x: Any, sigmas: Any) -> Any:
    slopes: list[Any] = []
    for number, (now, after) in enumerate(pairwise(sigmas)):
        slopes.insert(0, (x - denoise(x, now)) / now)
        order = min(number + 1, 4)
        for term in range(order):

            def polynomial(tau: float, term: int = term, order: int = order, number: int = number) -> float:
                value = 1.0
                for other in set(range(order)) - {term}:
                    value *= (tau - sigmas[number - other]) / (sigmas[number - term] - sigmas[number - other])
                return float(value)

            x = x + integrate.quad(polynomial, float(now), float(after), epsrel=1e-4)[0] * slopes[term]
    return x


def dpmpp_2m(denoise: Callable[..., Any], x: Any, sigmas: Any) -> Any:
    known = None
    for number, (now, after) in enumerate(pairwise(sigmas)):
        denoised = denoise(x, now)
        if after == 0:
            return denoised
        step = (now / after).log()
        target = denoised
        if known is not None:
            ratio = (sigmas[number - 1] / now).log() / step
            target = (1 + 1 / (2 * ratio)) * denoised - known / (2 * ratio)
        x = after / now * x - torch.expm1(-step) * target
        known = denoised
    return x


@pytest.mark.parametrize("run", [1, 2, 5, 6])
@pytest.mark.parametrize(
    ("sampler", "restated"), [("Euler", euler), ("Heun", heun), ("LMS", lms), ("DPM++ 2M", dpmpp_2m)]
)
def test_samplers_equal_k_diffusions_on_the_rest_of_the_schedule(
    sampler: str, restated: Callable[..., Any], run: int
) -> None:
    scheduler, noisy = begin(sampler, "Karras", "SDXL", run)
    is_scaled = hasattr(scheduler, "_sigma_to_alpha_sigma_t")
    times = {
        round(float(sigma), 4): float(time) for sigma, time in zip(scheduler.sigmas, scheduler.timesteps, strict=False)
    }

    def denoise(x: Any, sigma: Any) -> Any:
        scaled = x / (sigma**2 + 1) ** 0.5
        return x - sigma * torch.sin(3 * scaled + times[round(float(sigma), 4)] / 100)

    levels = scheduler.sigmas.unique_consecutive()
    latents, noise = tensors()
    expected = restated(denoise, latents + levels[0] * noise, levels)
    _, made = follow(scheduler, noisy)
    assert is_scaled == (sampler == "DPM++ 2M")
    torch.testing.assert_close(made, expected, rtol=1e-3, atol=1e-3)


def restated_steps(steps: int, strength: float, *, is_hires: bool) -> tuple[int, int]:
    """A1111's steps of the schedule and `t_enc + 1`."""
    if is_hires:
        return int(steps / min(strength, 0.999)), steps
    return steps, int(min(strength, 0.999) * steps) + 1


@pytest.mark.parametrize("strength", [0.01, 0.3, 0.5, 0.7, 0.75, 0.999, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 20, 25, 50])
def test_as_many_steps_as_a1111_runs(steps: int, strength: float) -> None:
    assert Img2Img(denoising_strength=strength).split_steps(steps) == restated_steps(steps, strength, is_hires=False)
    assert Hires(denoising_strength=strength).split_steps(steps) == restated_steps(steps, strength, is_hires=True)


def test_a_strength_of_0_runs_none() -> None:
    assert Img2Img(denoising_strength=0).split_steps(20) == (20, 0)
    assert Hires(denoising_strength=0).split_steps(20) == (20, 0)


def test_a_scheduler_that_begins_late_is_of_its_own_class() -> None:
    scheduler, _ = begin("Euler", "Automatic", "SDXL", 3)
    other = build("Euler", "Automatic", SDXL, STEPS)
    assert (scheduler.init_noise_sigma, type(scheduler).__name__) == (1.0, type(other).__name__)
    assert other.init_noise_sigma > 1
    assert json.loads(scheduler.to_json_string())["_class_name"] == "EulerDiscreteScheduler"


@pytest.mark.parametrize(
    ("sampler", "schedule", "steps", "calls"),
    [
        ("Euler", "Automatic", 20, 20),
        ("Euler", "Karras", 16, 16),
        ("Euler", "Exponential", 13, 13),
        ("Heun", "Automatic", 20, 40),
        ("DPM2", "Automatic", 20, 40),
        ("PLMS", "Automatic", 20, 21),
    ],
)
def test_a_switch_is_on_the_axis_of_the_models_timesteps(sampler: str, schedule: str, steps: int, calls: int) -> None:
    """Of 25 steps, at 0.8; PLMS asks the model once more at its beginning."""
    scheduler = build(sampler, schedule, SDXL, 25)
    scheduler.set_timesteps(25)
    assert (steps_before(scheduler, 0.8), calls_before(scheduler, 0.8)) == (steps, calls)


def test_a_model_with_edms_noise_has_no_switch() -> None:
    scheduler = build("Euler", "Automatic", EDM, 25)
    scheduler.set_timesteps(25)
    with pytest.raises(RequestError, match="the model has EDM's noise"):
        steps_before(scheduler, 0.8)
