"""A fresh diffusers scheduler for one picture, from the model's scheduler config and the picture's sampler.

Models with EDM's noise have scheduler classes of their own, told by the config's class: the usual ones would render
them without complaint, and wrongly.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from darkroom.errors import RequestError
from darkroom.samplers import EDM_SCHEDULES, SAMPLERS, SCHEDULES, Sampler, find_sampler, find_schedule

_EDM_CLASSES = frozenset(sampler.edm_scheduler for sampler in SAMPLERS if sampler.edm_scheduler is not None)


def build(sampler: str, schedule: str, config: Mapping[str, Any]) -> Any:
    """The scheduler object of a sampler and schedule by their A1111 names (or any other known spelling).

    `config` is the model's scheduler_config.json; what the sampler's class knows of it is used, as
    diffusers' own `from_config` does, with the sampler's and the schedule's values on top. Raises RequestError
    (E-REQUEST) for a sampler or schedule that the model's noise does not allow.
    """
    import diffusers

    kind, schedule = find_sampler(sampler), find_schedule(schedule)
    if config.get("_class_name") in _EDM_CLASSES:
        name, options = _edm(kind, schedule)
    else:
        name, options = kind.scheduler, SCHEDULES[schedule]
    scheduler_class = getattr(diffusers, name)
    known = inspect.signature(scheduler_class.__init__).parameters
    settings = {key: value for key, value in config.items() if key in known}
    return scheduler_class(**{**settings, **kind.options, **options})


def _edm(kind: Sampler, schedule: str) -> tuple[str, Mapping[str, Any]]:
    """The scheduler class for a model with EDM's noise, and what the schedule sets of it."""
    if kind.edm_scheduler is None:
        possible = [sampler.name for sampler in SAMPLERS if sampler.edm_scheduler is not None]
        raise _impossible("sampler", kind.name, possible)
    if schedule not in EDM_SCHEDULES:
        raise _impossible("schedule", schedule, list(EDM_SCHEDULES))
    return kind.edm_scheduler, EDM_SCHEDULES[schedule]


def _impossible(setting: str, value: str, possible: list[str]) -> RequestError:
    listed = " or ".join(possible)
    why = f"the model has EDM's noise, which only {listed} can follow"
    return RequestError(setting, value, why, f"set {setting} to {listed}")
