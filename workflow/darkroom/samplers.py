"""Samplers and schedules by the names that users of A1111, diffusers and worker-sdxl know. No torch in here."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Any

SCHEDULES: dict[str, dict[str, Any]] = {
    "Automatic": {},
    "Karras": {"use_karras_sigmas": True},
    "SGM Uniform": {"timestep_spacing": "trailing"},
}
"""A1111's schedule types as scheduler config values."""
EDM_SCHEDULES: dict[str, dict[str, Any]] = {"Automatic": {}, "Karras": {"sigma_schedule": "karras"}}
"""The same for models with EDM's noise; Automatic keeps the model's own `sigma_schedule`."""


@dataclass(frozen=True, slots=True)
class Sampler:
    """An A1111 sampler: its diffusers scheduler class and the config values that make it behave as A1111's.

    `schedules` are those that the diffusers class can follow; others it would pass over in silence. `edm_scheduler`
    is the class for models with EDM's noise (Karras et al., arXiv:2206.00364), None where diffusers has none.
    """

    name: str
    scheduler: str
    options: dict[str, Any] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    schedules: tuple[str, ...] = tuple(SCHEDULES)
    edm_scheduler: str | None = None


_UNIFORM = ("Automatic", "SGM Uniform")

SAMPLERS = (
    Sampler("Euler", "EulerDiscreteScheduler", aliases=("K_EULER", "k_euler"), edm_scheduler="EDMEulerScheduler"),
    Sampler(
        "Euler a", "EulerAncestralDiscreteScheduler", aliases=("K_EULER_ANCESTRAL", "k_euler_a"), schedules=_UNIFORM
    ),
    Sampler(
        "DPM++ 2M",
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", "solver_order": 2, "final_sigmas_type": "zero"},
        ("DPMSolverMultistep", "k_dpmpp_2m"),
        edm_scheduler="EDMDPMSolverMultistepScheduler",
    ),
    Sampler("DDIM", "DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False}, schedules=_UNIFORM),
)


def find_sampler(name: str) -> Sampler:
    """The sampler of that name, in any spelling; raises ValueError that names the near ones."""
    known = {spelling.casefold(): s for s in SAMPLERS for spelling in (s.name, s.scheduler, *s.aliases)}
    sampler = known.get(str(name).casefold())
    if sampler is None:
        raise ValueError(_unknown("sampler", name, [s.name for s in SAMPLERS]))
    return sampler


def find_schedule(name: str) -> str:
    """The schedule's A1111 name; raises ValueError that names the known ones."""
    known = {key.casefold(): key for key in SCHEDULES}
    if str(name).casefold() not in known:
        raise ValueError(_unknown("schedule", name, list(SCHEDULES)))
    return known[str(name).casefold()]


def _unknown(kind: str, name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.3)
    listed = ", ".join(near or known)
    return f"unknown {kind}; {'did you mean' if near else 'known are'} {listed}"
