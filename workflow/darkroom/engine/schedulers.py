"""A fresh diffusers scheduler for one picture, from the model's scheduler config and the picture's sampler."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from darkroom.samplers import SCHEDULES, find_sampler, find_schedule


def build(sampler: str, schedule: str, config: Mapping[str, Any]) -> Any:
    """The scheduler object of a sampler and schedule by their A1111 names (or any other known spelling).

    `config` is the model's scheduler_config.json; what the sampler's class knows of it is used, as
    diffusers' own `from_config` does, with the sampler's and the schedule's values on top.
    """
    import diffusers

    kind = find_sampler(sampler)
    scheduler_class = getattr(diffusers, kind.scheduler)
    known = inspect.signature(scheduler_class.__init__).parameters
    settings = {key: value for key, value in config.items() if key in known}
    return scheduler_class(**{**settings, **kind.options, **SCHEDULES[find_schedule(schedule)]})
