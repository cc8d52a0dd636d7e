"""A1111's samplers and schedulers: listed, and read from a request.

The meanings are those of A1111 1.10's modules/sd_samplers.py and modules/sd_samplers_kdiffusion.py.
"""

from __future__ import annotations

from darkroom.base.text import loose
from darkroom.errors import RequestError
from darkroom.request.samplers import (
    A1111_AUTOMATIC,
    MODELS_OWN,
    SAMPLERS,
    SCHEDULES,
    find_schedule,
    split_sampler,
)
from darkroom.serve.a1111_ignored import ignore_schedule
from darkroom.serve.a1111_schemas import Sampler, Scheduler


async def list_samplers() -> list[Sampler]:
    """All samplers; `options.scheduler` is what the schedule "automatic" means."""
    return [
        Sampler(
            name=sampler.name,
            aliases=list(sampler.aliases),
            options={"scheduler": A1111_AUTOMATIC[sampler.name].lower()} if sampler.name in A1111_AUTOMATIC else {},
        )
        for sampler in SAMPLERS
    ]


async def list_schedulers() -> list[Scheduler]:
    """All schedules, and the word for the model's own where "automatic" is another one."""
    return [Scheduler(name=label.lower().replace(" ", "_"), label=label) for label in (*SCHEDULES, MODELS_OWN)]


def read_sampler(name: str | None, scheduler: str | None, prefix: str = "") -> dict[str, str]:
    """Sampler and schedule. As in A1111, a schedule in the sampler's name takes precedence over `scheduler`.

    Raises RequestError (E-REQUEST), which names the field with its `prefix`.
    """
    try:
        schedule = find_schedule(scheduler or "Automatic")
    except ValueError as error:
        what, hint = f"request: {prefix}scheduler", "name one of /sdapi/v1/schedulers"
        raise RequestError(what, scheduler, str(error), hint) from None
    if not name:
        return {"schedule": schedule} if scheduler else {}
    try:
        sampler, own_schedule = split_sampler(name)
    except ValueError as error:
        what, hint = f"request: {prefix}sampler_name", "name one of /sdapi/v1/samplers"
        raise RequestError(what, name, str(error), hint) from None
    if own_schedule is None and loose(scheduler or "") == loose(MODELS_OWN):
        return {"sampler": sampler, "schedule": "Automatic"}
    schedule = own_schedule or schedule
    if schedule == "Automatic":
        schedule = A1111_AUTOMATIC.get(sampler, schedule)
    return {"sampler": sampler, "schedule": schedule}


def ignore_schedule_of(name: str | None, scheduler: str | None) -> str | None:
    """Why `scheduler` is ignored, if it is; a sampler's wrong name is left to `read_sampler`."""
    try:
        return ignore_schedule(split_sampler(name)[0], scheduler) if name else None
    except ValueError:
        return None
