"""A fresh diffusers scheduler for one picture, from the model's scheduler config and the picture's sampler.

Not every scheduler class supports every model's noise. EDM's noise has classes of its own, named in the model's config;
a zero terminal SNR (Lin et al., arXiv:2305.08891) is a config value. The other classes would render such a model
without an error, and wrongly.
"""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from darkroom.engine.noise_levels import LEVELS, follow
from darkroom.errors import RequestError
from darkroom.request.samplers import (
    DRAWN_SCHEDULES,
    EDM_SCHEDULES,
    SAMPLERS,
    SCHEDULES,
    Sampler,
    check_combination,
    find_sampler,
    find_schedule,
)

_EDM_CLASSES = frozenset(sampler.edm_scheduler for sampler in SAMPLERS if sampler.edm_scheduler is not None)
_ZERO_SNR = "rescale_betas_zero_snr"
_EXPONENTIAL = "use_exponential_sigmas"
# A model's own config may have any of these on; the requested schedule replaces them.
_NO_NOISE_LEVELS = dict.fromkeys(
    ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas"), False
)


def build(
    sampler: str, schedule: str, config: Mapping[str, Any], steps: int | None = None, eta: float | None = None
) -> Any:
    """The scheduler object of a sampler and schedule by their A1111 names (or any other known spelling).

    `config` is the model's scheduler_config.json; the values that the sampler's class has are used, as in diffusers'
    own `from_config`, and replaced by the sampler's and the schedule's. Raises RequestError (E-REQUEST) for a sampler
    or schedule that the model's noise or the number of `steps` doesn't allow. With an `eta` of 0 a sampler that adds
    noise is another sampler.
    """
    import diffusers

    kind, schedule = find_sampler(sampler), find_schedule(schedule)
    if eta == 0 and kind.without_noise is not None:
        kind = find_sampler(kind.without_noise)
    is_edm = config.get("_class_name") in _EDM_CLASSES
    name, options = _edm(kind, schedule) if is_edm else _usual(kind, schedule)
    scheduler_class = getattr(diffusers, name)
    if config.get(_ZERO_SNR) and _ZERO_SNR not in _known_values(scheduler_class):
        possible = [s.name for s in SAMPLERS if _ZERO_SNR in _known_values(getattr(diffusers, s.scheduler))]
        raise _impossible("sampler", kind.name, "a zero terminal SNR", possible)
    if config.get(_ZERO_SNR) and schedule == "Align Your Steps":
        raise RequestError("schedule", schedule, "is a table for models without a zero terminal SNR", "set another one")
    known = _known_values(scheduler_class)
    settings = {key: value for key, value in {**config, **kind.options, **options}.items() if key in known}
    scheduler = _construct(scheduler_class, settings)
    if steps == 1 and not is_edm and _begins_without_noise(scheduler):
        scheduler = _construct(scheduler_class, settings | {"timestep_spacing": "trailing"})
    if not is_edm and (schedule in DRAWN_SCHEDULES or (schedule in LEVELS and _EXPONENTIAL not in known)):
        follow(scheduler, schedule)
    _begin_at_first(scheduler)
    if steps is not None:
        _check_steps(scheduler, kind, schedule, steps, is_edm)
    return scheduler


def _construct(scheduler_class: Any, settings: Mapping[str, Any]) -> Any:
    """A new scheduler. Constructing one is slow (DPM2 works out a thousand steps one by one), copying one isn't."""
    return copy.deepcopy(_constructed(scheduler_class, json.dumps(settings)))


@lru_cache(maxsize=64)
def _constructed(scheduler_class: Any, settings: str) -> Any:
    return scheduler_class(**json.loads(settings))


def _begin_at_first(scheduler: Any) -> None:
    """Have a scheduler begin at its first step, which it otherwise looks for by the timestep.

    Where two levels at the beginning round to one timestep it takes the second, and has no level left for its last step.
    """
    if not hasattr(scheduler, "set_begin_index"):
        return
    own = scheduler.set_timesteps

    def set_timesteps(*given: Any, **named: Any) -> None:
        own(*given, **named)
        scheduler.set_begin_index(0)

    scheduler.set_timesteps = set_timesteps


def _begins_without_noise(scheduler: Any) -> bool:
    """Whether the only step of a picture would be made at one of the model's last timesteps.

    Leading and linspace spacing both have that step at their end. A1111 begins with the strongest noise.
    """
    scheduler.set_timesteps(1)
    return bool(scheduler.timesteps.max() < scheduler.config.num_train_timesteps / 100)


def _known_values(scheduler_class: Any) -> Mapping[str, Any]:
    return inspect.signature(scheduler_class.__init__).parameters


def _usual(kind: Sampler, schedule: str) -> tuple[str, Mapping[str, Any]]:
    """The scheduler class, and the schedule's config values."""
    if schedule not in kind.schedules:
        raise RequestError(
            "schedule", schedule, f"{kind.name} can't follow it", f"set schedule to {' or '.join(kind.schedules)}"
        )
    options = SCHEDULES[schedule]
    return kind.scheduler, {**_NO_NOISE_LEVELS, **options} if options else options


def _edm(kind: Sampler, schedule: str) -> tuple[str, Mapping[str, Any]]:
    """The same for a model with EDM's noise."""
    if kind.edm_scheduler is None:
        possible = [sampler.name for sampler in SAMPLERS if sampler.edm_scheduler is not None]
        raise _impossible("sampler", kind.name, "EDM's noise", possible)
    if schedule not in EDM_SCHEDULES:
        raise _impossible("schedule", schedule, "EDM's noise", list(EDM_SCHEDULES))
    return kind.edm_scheduler, EDM_SCHEDULES[schedule]


def _impossible(setting: str, value: str, noise: str, possible: list[str]) -> RequestError:
    listed = " or ".join(possible)
    why = f"the model has {noise}, which only {listed} can follow"
    return RequestError(setting, value, why, f"set {setting} to {listed}")


def _check_steps(scheduler: Any, kind: Sampler, schedule: str, steps: int, is_edm: bool) -> None:
    """Raise RequestError (E-REQUEST) where so many steps would fail, or end in NaN or in noise."""
    try:
        check_combination(kind.name, schedule, steps)
        scheduler.set_timesteps(steps)
        flaw = _edm_flaw(scheduler) if is_edm else _flaw(scheduler)
        if flaw:
            raise ValueError(f"{kind.name} with the schedule {schedule} would {flaw}")
    except ValueError as error:
        raise RequestError("steps", steps, str(error), "give steps another value") from None


def _flaw(scheduler: Any) -> str | None:
    """The flaw of a scheduler's steps, None if there is none.

    Trailing spacing adds the timestep -1 where rounding errors add up, at 61 and 103 steps for instance; leading
    spacing asks for timestep 1000 at 1000 steps; and with nearly as many steps as timesteps some fall together.
    """
    first, last = scheduler.timesteps.max().item(), scheduler.timesteps.min().item()
    if last < 0 or first >= scheduler.config.num_train_timesteps:
        wrong = last if last < 0 else first
        return f"ask for the timestep {wrong:g}; the model knows 0 to {scheduler.config.num_train_timesteps - 1}"
    # Schedulers of second order hold each noise level twice by design; the others divide by differences.
    sigmas = getattr(scheduler, "sigmas", None)
    if sigmas is not None and scheduler.order == 1 and (sigmas.diff() >= 0).any():
        return "have two steps at the same noise level"
    return None


def _edm_flaw(scheduler: Any) -> str | None:
    """The same for EDM's noise, whose exponential schedule of one step is the weakest noise, not the strongest."""
    if scheduler.sigmas[0].item() < 0.99 * scheduler.config.sigma_max:
        return "begin with almost no noise"
    return None
