"""What a model's output says at a step, and an output that keeps latents outside of a mask.

With x = a x0 + s n at the step's noise level: x0 = (x - s e) / a for a predicted noise e, and x0 = a x - s v with
a² + s² = 1 for a predicted v (Salimans and Ho, arXiv:2202.00512, section 4). Models with EDM's noise have their own
preconditioning (Karras et al., arXiv:2206.00364, section 5).
"""

from __future__ import annotations

import functools
import itertools
from typing import Any


def noise_level(scheduler: Any, timestep: Any) -> Any:
    """The sigma (a tensor of no dimension) of the step that comes next; None for schedulers that go by timesteps."""
    if not hasattr(scheduler, "sigmas"):
        return None
    index = scheduler.step_index
    if index is None:
        index = scheduler.begin_index
    if index is None:
        index = scheduler.index_for_timestep(timestep)
    if getattr(scheduler, "state_in_first_order", True) or not hasattr(scheduler, "sigmas_interpol"):
        return scheduler.sigmas[index]
    # The second call of DPM2's steps is between two levels; the ancestral class numbers those another way.
    return scheduler.sigmas_interpol[index - 1 if hasattr(scheduler, "sigmas_up") else index]


def estimate(scheduler: Any, output: Any, timestep: Any, sample: Any, sigma: Any) -> Any:
    """The finished latents x0 that a model's `output` for the noisy `sample` stands for. `sigma` is of `noise_level`."""
    if hasattr(scheduler, "precondition_outputs"):
        return scheduler.precondition_outputs(sample, output, sigma)
    signal, noise = _parts(scheduler, timestep, sigma)
    kind = scheduler.config.prediction_type
    if kind == "sample":
        return output
    if kind == "v_prediction":
        size = signal**2 + noise**2
        return sample * (signal / size) - output * (noise / size**0.5)
    return (sample - output * noise) / signal


def output_for(scheduler: Any, latents: Any, timestep: Any, sample: Any, sigma: Any) -> Any:
    """The output whose `estimate` is `latents`."""
    import torch

    if hasattr(scheduler, "precondition_outputs"):
        skipped = scheduler.precondition_outputs(sample, torch.zeros_like(sample), sigma)
        share = scheduler.precondition_outputs(torch.zeros(1), torch.ones(1), sigma).item()
        return (latents - skipped) / share
    signal, noise = _parts(scheduler, timestep, sigma)
    kind = scheduler.config.prediction_type
    if kind == "sample":
        return latents
    if kind == "v_prediction":
        size = signal**2 + noise**2
        return (sample * (signal / size) - latents) * (size**0.5 / noise)
    return (sample - latents * signal) / noise


def keep_outside(scheduler: Any, latents: Any, anew: Any) -> None:
    """Have a scheduler's steps lead to `latents` (1, 4, h, w) where `anew` (1, 1, h, w) is 0.

    A1111 replaces the model's estimate of the finished latents there (modules/sd_samplers_cfg_denoiser.py).
    """
    import torch

    step, on_host, calls = scheduler.step, functools.cache(lambda: _OnHost(scheduler)), itertools.count()

    @functools.wraps(step)  # diffusers' pipelines look at its parameters
    def blended(output: Any, timestep: Any, sample: Any, *args: Any, **options: Any) -> Any:
        known = on_host()
        own = known.timesteps[next(calls)]
        kept = output_for(known, latents, own, sample.float(), noise_level(known, own))
        return step(torch.where(anew > 0, output, kept.to(output.dtype)), timestep, sample, *args, **options)

    scheduler.step = blended


class _OnHost:
    """A scheduler with a copy on the CPU of what it keeps on the device: a number read from there waits for all steps before."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        for name in ("timesteps", "alphas_cumprod", "sigmas_interpol"):
            if hasattr(scheduler, name):
                setattr(self, name, getattr(scheduler, name).cpu())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scheduler, name)


def _parts(scheduler: Any, timestep: Any, sigma: Any) -> tuple[float, float]:
    """a and s of the sample that the scheduler's next step is made from."""
    if sigma is None:
        signal_squared = scheduler.alphas_cumprod[int(timestep)].item()
        return signal_squared**0.5, (1 - signal_squared) ** 0.5
    if hasattr(scheduler, "_sigma_to_alpha_sigma_t"):
        signal, noise = scheduler._sigma_to_alpha_sigma_t(sigma)
        return signal.item(), noise.item()
    return 1.0, sigma.item()
