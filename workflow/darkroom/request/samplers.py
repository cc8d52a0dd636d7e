"""Samplers, schedules and presets by the names that users of A1111, diffusers, worker-sdxl and ComfyUI know. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from darkroom.base.text import loose, unknown_name

MAX_STEPS = 1000
DRAWN_SCHEDULES = ("Normal", "Beta", "Align Your Steps", "KL Optimal")
"""Schedules whose noise levels darkroom.engine.noise_levels computes for every sampler."""
SCHEDULES: dict[str, dict[str, Any]] = {
    "Automatic": {},
    "Karras": {"use_karras_sigmas": True},
    "Exponential": {"use_exponential_sigmas": True, "timestep_spacing": "linspace"},
    "SGM Uniform": {"timestep_spacing": "trailing"},
    "Simple": {"timestep_spacing": "trailing"},
    "Uniform": {"timestep_spacing": "linspace"},
    **{key: {"use_exponential_sigmas": True, "timestep_spacing": "linspace"} for key in DRAWN_SCHEDULES},
}
"""A1111's schedule types as scheduler config values, by the table in diffusers' documentation of its schedulers.

Automatic keeps what the model's own scheduler config says. A1111's SGM Uniform and Simple differ by less than one
timestep; both are diffusers' trailing spacing.
"""
EDM_SCHEDULES: dict[str, dict[str, Any]] = {
    "Automatic": {},
    "Karras": {"sigma_schedule": "karras"},
    "Exponential": {"sigma_schedule": "exponential"},
}
"""The same for models with EDM's noise; Automatic keeps the model's own `sigma_schedule`."""
A1111_AUTOMATIC = {
    "DPM++ 2M": "Karras",
    "DPM++ SDE": "Karras",
    "DPM++ 2M SDE": "Exponential",
    "DPM++ 2M SDE Heun": "Exponential",
    "DPM++ 3M SDE": "Exponential",
    "DPM2": "Karras",
    "DPM2 a": "Karras",
}
"""The schedule that A1111 uses for "Automatic", where Darkroom keeps the model's own (modules/sd_samplers_kdiffusion.py)."""
MODELS_OWN = "Model's own"
"""Automatic's name in texts that A1111 and its clients read, for samplers of A1111_AUTOMATIC."""
_SHORT_SCHEDULES = {"ka": "Karras", "exp": "Exponential"}  # at the end of A1111's older names: k_dpmpp_2m_ka

_ALL = tuple(SCHEDULES)
_SPACED = ("Automatic", "SGM Uniform", "Simple", "Uniform")
_BY_NOISE = ("Automatic", "Karras", "Exponential", *DRAWN_SCHEDULES)
_STRIDED = ("Automatic", "SGM Uniform", "Simple")


@dataclass(frozen=True, slots=True)
class Sampler:
    """An A1111 sampler: its diffusers scheduler class and the config values that make it behave as A1111's.

    `schedules` are those that the diffusers class can follow; it would silently ignore others. `edm_scheduler`
    is the class for models with EDM's noise (Karras et al., arXiv:2206.00364), None where diffusers has none.
    `calls_per_step` is 2 where the model is called twice a step. `eta` is the share of noise that is added in each
    step, as A1111 counts it, None where that has no meaning; `without_noise` is the sampler that this one is with an eta
    of 0. `more_calls` come with the first of several steps.
    """

    name: str
    scheduler: str
    options: dict[str, Any] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    schedules: tuple[str, ...] = _ALL
    edm_scheduler: str | None = None
    max_steps: int = MAX_STEPS
    calls_per_step: int = 1
    eta: float | None = None
    without_noise: str | None = None
    more_calls: int = 0

    def calls(self, steps: int) -> int:
        """How often the model is called for so many steps: the last one of a sampler of second order needs one call."""
        return self.calls_per_step * steps - (self.calls_per_step - 1) + (self.more_calls if steps > 1 else 0)


def _dpm(algorithm: str, order: int) -> dict[str, Any]:
    """Every option that distinguishes the DPM++ solvers: a model's scheduler config may be that of another one."""
    return {
        "algorithm_type": algorithm,
        "solver_order": order,
        "solver_type": "midpoint",
        "final_sigmas_type": "zero",  # with "sigma_min", Karras ends in two equal noise levels, and NaN
    }


SAMPLERS = (
    Sampler(
        "Euler",
        "EulerDiscreteScheduler",
        {"final_sigmas_type": "zero"},
        ("K_EULER",),
        edm_scheduler="EDMEulerScheduler",
    ),
    Sampler(
        "Euler a",
        "EulerAncestralDiscreteScheduler",
        aliases=("Euler ancestral", "K_EULER_ANCESTRAL", "k_euler_a"),
        eta=1.0,
        without_noise="Euler",
    ),
    Sampler("Heun", "HeunDiscreteScheduler", {"clip_sample": False}, ("k_heun",), calls_per_step=2),
    Sampler("LMS", "LMSDiscreteScheduler", aliases=("KLMS",)),
    Sampler("DPM2", "KDPM2DiscreteScheduler", aliases=("k_dpm_2",), calls_per_step=2),
    Sampler(
        "DPM2 a",
        "KDPM2AncestralDiscreteScheduler",
        aliases=("dpm_2_ancestral", "k_dpm_2_a", "k_dpm_2_ancestral"),
        calls_per_step=2,
        eta=1.0,
        without_noise="DPM2",
    ),
    Sampler(
        "DPM++ 2M",
        "DPMSolverMultistepScheduler",
        _dpm("dpmsolver++", 2),
        ("k_dpmpp_2m",),
        edm_scheduler="EDMDPMSolverMultistepScheduler",
    ),
    Sampler(
        "DPM++ 2M SDE",
        "DPMSolverMultistepScheduler",
        _dpm("sde-dpmsolver++", 2),
        ("k_dpmpp_2m_sde",),
        eta=1.0,
        without_noise="DPM++ 2M",
    ),
    Sampler(
        "DPM++ 2M SDE Heun",
        "DPMSolverMultistepScheduler",
        {**_dpm("sde-dpmsolver++", 2), "solver_type": "heun"},
        ("k_dpmpp_2m_sde_heun",),
        eta=1.0,
    ),
    Sampler("DPM++ 3M SDE", "DPMSolverMultistepScheduler", _dpm("sde-dpmsolver++", 3), ("k_dpmpp_3m_sde",), eta=1.0),
    Sampler(
        "DPM++ 2S",
        "DPMSolverSinglestepScheduler",
        {**_dpm("dpmsolver++", 2), "lower_order_final": True},  # else diffusers warns, and sets it
        ("k_dpmpp_2s",),
        schedules=_BY_NOISE,
    ),
    Sampler(
        "DPM++ SDE",
        "DPMSolverSinglestepScheduler",
        {**_dpm("sde-dpmsolver++", 2), "lower_order_final": True},
        ("k_dpmpp_sde",),
        schedules=_BY_NOISE,
        eta=1.0,
        without_noise="DPM++ 2S",
    ),
    Sampler(
        "UniPC",
        "UniPCMultistepScheduler",
        {"solver_order": 2, "solver_type": "bh2", "predict_x0": True, "final_sigmas_type": "zero"},
        ("uni_pc_bh2",),
    ),
    Sampler(
        "DEIS",
        "DEISMultistepScheduler",
        {"solver_order": 2, "algorithm_type": "deis", "solver_type": "logrho", "lower_order_final": True},
        schedules=_SPACED,
    ),
    Sampler("DDIM", "DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False}, schedules=_STRIDED, eta=0.0),
    Sampler(
        "PLMS",
        "PNDMScheduler",
        {"skip_prk_steps": True, "set_alpha_to_one": False},
        ("PNDM",),
        schedules=_STRIDED,
        more_calls=1,
    ),
    Sampler("LCM", "LCMScheduler", {"clip_sample": False}, schedules=("Automatic",), max_steps=50),
)


def _by_spelling() -> dict[str, Sampler]:
    """The samplers by all their names. The name of a scheduler class that several samplers use means the first one."""
    known = {loose(name): sampler for sampler in SAMPLERS for name in (sampler.name, *sampler.aliases)}
    for sampler in SAMPLERS:
        for name in (sampler.scheduler, sampler.scheduler.removesuffix("Scheduler")):
            known.setdefault(loose(name), sampler)
    return known


_NAMES = tuple(sampler.name for sampler in SAMPLERS)
_SAMPLERS = _by_spelling()
_SCHEDULES = {loose(name): name for name in SCHEDULES}
_OTHER_SCHEDULES = {loose(MODELS_OWN): "Automatic", "ays": "Align Your Steps", "polyexponential": "Exponential"}
_ELSEWHERE = {
    loose(spelling): names[0]
    for names in (
        ("DPM++ 2S a", "DPM++ 2S ancestral", "k_dpmpp_2s_a", "k_dpmpp_2s_ancestral"),
        ("Restart",),
        ("DPM fast", "k_dpm_fast"),
        ("DPM adaptive", "k_dpm_ad", "k_dpm_adaptive"),
        ("Heun++ 2", "heunpp2"),
        ("Euler CFG++", "euler_cfg_pp"),
        ("Euler a CFG++", "euler_ancestral_cfg_pp"),
        ("DPM++ 2M CFG++", "dpmpp_2m_cfg_pp"),
        ("DPM++ 2S a CFG++", "dpmpp_2s_ancestral_cfg_pp"),
        ("DDIM CFG++", "ddim_cfg_pp"),
        ("DDPM",),
        ("TCD",),
        ("iPNDM",),
        ("iPNDM v", "ipndm_v"),
        ("Res multistep", "res_multistep_cfg_pp"),
        ("Gradient estimation",),
        ("ER SDE",),
        ("SA solver", "sa_solver_pece"),
        ("SEEDS 2", "seeds_2"),
        ("SEEDS 3", "seeds_3"),
    )
    for spelling in names
}
"""Samplers of A1111, Forge and ComfyUI that Darkroom doesn't have, by all their names."""
_ENDINGS = sorted({**_SCHEDULES, **_SHORT_SCHEDULES}.items(), key=lambda ending: -len(ending[0]))


def find_sampler(name: str) -> Sampler:
    """The sampler of that name, in any spelling; raises ValueError with the nearest names."""
    sampler = _SAMPLERS.get(loose(name))
    if sampler is None:
        raise _unknown_sampler(name)
    return sampler


def find_schedule(name: str) -> str:
    """The schedule's A1111 name; raises ValueError with the nearest names."""
    key = loose(name)
    schedule = _SCHEDULES.get(key) or _OTHER_SCHEDULES.get(key)
    if schedule is None:
        raise unknown_name("schedule", name, SCHEDULES)
    return schedule


def split_sampler(name: str) -> tuple[str, str | None]:
    """The A1111 names of a sampler and of the schedule its name ends in, None without one.

    A1111 before version 1.9 had one name for both: "DPM++ 2M Karras" is ("DPM++ 2M", "Karras"), "Euler a" is
    ("Euler a", None). Raises ValueError with the nearest names.
    """
    key = loose(name)
    if key in _SAMPLERS:
        return _SAMPLERS[key].name, None
    for ending, schedule in _ENDINGS:
        sampler = _SAMPLERS.get(key.removesuffix(ending)) if key.endswith(ending) else None
        if sampler is not None:
            return sampler.name, schedule
    raise _unknown_sampler(name)


def _unknown_sampler(name: str) -> ValueError:
    """The error to raise; it suggests no sampler of another kind for a name that other programs know."""
    key = loose(name)
    for ending, _ in [("", None), *_ENDINGS]:
        if key.endswith(ending) and key.removesuffix(ending) in _ELSEWHERE:
            other = _ELSEWHERE[key.removesuffix(ending)]
            return ValueError(
                f"other programs have the sampler {other}, Darkroom doesn't; known are {', '.join(_NAMES)}"
            )
    return unknown_name("sampler", name, _NAMES)


def check_eta(sampler: str, eta: float) -> None:
    """Raise ValueError if the sampler can't add that much noise."""
    kind = find_sampler(sampler)
    if kind.eta is None:
        raise ValueError(f"eta has no effect on the sampler {kind.name}")
    possible = {kind.eta, *([0.0] if kind.without_noise else [])}
    if kind.name != "DDIM" and eta not in possible:
        values = " or ".join(f"{value:g}" for value in sorted(possible))
        raise ValueError(f"the sampler {kind.name} can only have an eta of {values}")


def check_combination(sampler: str, schedule: str, steps: int) -> None:
    """Raise ValueError if the sampler can't follow the schedule or make that many steps, whatever the model."""
    kind = find_sampler(sampler)
    if schedule not in kind.schedules:
        raise ValueError(
            f"the sampler {kind.name} can't follow the schedule {schedule}, only {', '.join(kind.schedules)}"
        )
    if steps > kind.max_steps:
        raise ValueError(f"the sampler {kind.name} makes at most {kind.max_steps} steps, not {steps}")


def _lightning(steps: int) -> dict[str, Any]:
    """SDXL-Lightning (model card of ByteDance/SDXL-Lightning): Euler, trailing spacing, no guidance."""
    return {"sampler": "Euler", "schedule": "SGM Uniform", "steps": steps, "cfg_scale": 1.0}


def _turbo(steps: int) -> dict[str, Any]:
    """SDXL-Turbo (model card and scheduler config of stabilityai/sdxl-turbo): Euler a, trailing spacing, no guidance."""
    return {"sampler": "Euler a", "schedule": "SGM Uniform", "steps": steps, "cfg_scale": 1.0}


def _lcm(steps: int) -> dict[str, Any]:
    """LCM (model card of latent-consistency/lcm-lora-sdxl): its own sampler, no guidance or up to 2."""
    return {"sampler": "LCM", "schedule": "Automatic", "steps": steps, "cfg_scale": 1.0}


def _hyper(steps: int, cfg_scale: float = 1.0) -> dict[str, Any]:
    """Hyper-SD (model card of ByteDance/Hyper-SD): DDIM, trailing spacing; guidance only for its CFG LoRAs."""
    return {"sampler": "DDIM", "schedule": "SGM Uniform", "steps": steps, "cfg_scale": cfg_scale}


PRESETS: dict[str, dict[str, Any]] = {
    "lightning": _lightning(4),
    "lightning-2": _lightning(2),
    "lightning-4": _lightning(4),
    "lightning-8": _lightning(8),
    "turbo": _turbo(1),
    "turbo-2": _turbo(2),
    "turbo-4": _turbo(4),
    "lcm": _lcm(4),
    "lcm-8": _lcm(8),
    "hyper": _hyper(8),
    "hyper-2": _hyper(2),
    "hyper-4": _hyper(4),
    "hyper-8": _hyper(8),
    "hyper-cfg-8": _hyper(8, 5.0),
    "hyper-cfg-12": _hyper(12, 5.0),
}
"""RenderRequest's settings by the preset's name. A cfg_scale of 1 is no guidance, as diffusers and A1111 both have it."""
_PRESETS = {loose(name): name for name in PRESETS}


def find_preset(name: str) -> dict[str, Any]:
    """The settings of the preset, in any spelling; raises ValueError with the nearest names."""
    known = _PRESETS.get(loose(name))
    if known is None:
        raise unknown_name("preset", name, PRESETS)
    return dict(PRESETS[known])
