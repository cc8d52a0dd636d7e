"""Noise levels by formula or table, for schedules that a diffusers scheduler class doesn't have itself.

Each gives n levels from the model's strongest noise to its weakest; schedulers add the 0 at the end. One step is always
made from the strongest noise, as in A1111.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

RHO = 7.0
ALIGN_YOUR_STEPS = (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029)
"""For SDXL (https://research.nvidia.com/labs/toronto-ai/AlignYourSteps/howto.html)."""

Levels = Any
"""A NumPy array of float64, descending."""


def follow(scheduler: Any, schedule: str) -> None:
    """Have a scheduler take its noise levels and timesteps from the schedule of that name in LEVELS.

    The classes that can follow an exponential schedule compute its levels in a method of their own, which is replaced;
    Euler a can't, so its levels are replaced after they are set.
    """
    if hasattr(scheduler, "_convert_to_exponential"):
        scheduler._convert_to_exponential = lambda in_sigmas, num_inference_steps: _levels(
            schedule, scheduler, num_inference_steps
        )
        return
    own = scheduler.set_timesteps

    def set_timesteps(num_inference_steps: int, device: Any = None) -> None:
        import numpy as np
        import torch

        own(num_inference_steps, device=device)
        levels = _levels(schedule, scheduler, num_inference_steps)
        timesteps = _timesteps_of(levels, scheduler)
        scheduler.sigmas = torch.from_numpy(np.append(levels, 0.0).astype(np.float32))
        scheduler.timesteps = torch.from_numpy(timesteps.astype(np.float32)).to(device=device)

    scheduler.set_timesteps = set_timesteps


def _levels(schedule: str, scheduler: Any, count: int) -> Levels:
    known = _of_model(scheduler)
    return LEVELS[schedule](known, count) if count > 1 else known[-1:].copy()


def _of_model(scheduler: Any) -> Levels:
    """The noise level of each of the model's timesteps, ascending."""
    cumulative = scheduler.alphas_cumprod.double().cpu().numpy()
    return ((1 - cumulative) / cumulative) ** 0.5


def _timesteps_of(levels: Levels, scheduler: Any) -> Any:
    """The timesteps (not rounded) of noise levels: linear in the level's logarithm, as in k-diffusion."""
    import numpy as np

    known = np.log(_of_model(scheduler))
    return np.interp(np.log(levels), known, np.arange(len(known)))


def _normal(known: Levels, count: int) -> Levels:
    """At equal distances in time, ends included (k_diffusion/external.py, `DiscreteSchedule.get_sigmas`)."""
    import numpy as np

    times = np.linspace(len(known) - 1, 0, count)
    return np.exp(np.interp(times, np.arange(len(known)), np.log(known)))


def _karras(known: Levels, count: int) -> Levels:
    """Karras et al., arXiv:2206.00364, equation 5."""
    import numpy as np

    strongest, weakest = known[-1] ** (1 / RHO), known[0] ** (1 / RHO)
    return (strongest + np.linspace(0, 1, count) * (weakest - strongest)) ** RHO


def _exponential(known: Levels, count: int) -> Levels:
    """At equal distances in the logarithm (k_diffusion/sampling.py, `get_sigmas_exponential`)."""
    import numpy as np

    return np.exp(np.linspace(np.log(known[-1]), np.log(known[0]), count))


def _beta(known: Levels, count: int) -> Levels:
    """Quantiles of the distribution Beta(0.6, 0.6) (Lee et al., arXiv:2407.12173; A1111, modules/sd_schedulers.py)."""
    import numpy as np
    from scipy.stats import beta

    return known[0] + beta.ppf(1 - np.linspace(0, 1, count), 0.6, 0.6) * (known[-1] - known[0])


def _align_your_steps(known: Levels, count: int) -> Levels:
    """NVIDIA's table (Sabour et al., arXiv:2404.14507), between its numbers linear in the logarithm."""
    import numpy as np

    places = np.linspace(0, 1, count)
    return np.exp(np.interp(places, np.linspace(0, 1, len(ALIGN_YOUR_STEPS)), np.log(ALIGN_YOUR_STEPS)))


def _kl_optimal(known: Levels, count: int) -> Levels:
    """At equal distances in the arc tangent (Sabour et al., arXiv:2404.14507, section 3; ComfyUI, comfy/samplers.py)."""
    import numpy as np

    return np.tan(np.linspace(np.arctan(known[-1]), np.arctan(known[0]), count))


LEVELS: dict[str, Callable[[Levels, int], Levels]] = {
    "Normal": _normal,
    "Karras": _karras,
    "Exponential": _exponential,
    "Beta": _beta,
    "Align Your Steps": _align_your_steps,
    "KL Optimal": _kl_optimal,
}
"""Functions of the model's levels (ascending) and the number of steps, at least 2."""
