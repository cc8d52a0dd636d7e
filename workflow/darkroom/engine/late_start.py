"""Starting from a picture: noise is added to its latents, and only the end of a schedule is run.

What is left of the schedule is made a schedule of its own (A1111's `sigmas[steps - t_enc - 1:]`, modules/sd_samplers_kdiffusion.py,
sample_img2img). diffusers' pipelines run the end of a scheduler's loop instead, and the classes that count steps from the
beginning (LMS, PNDM, the single-step DPM++ solvers) then take terms of higher order from steps that were never made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from darkroom.engine.blending import keep_outside
from darkroom.errors import RequestError

_BY_CALL = ("sigmas", "sigmas_interpol", "sigmas_up", "sigmas_down", "timesteps")
"""What schedulers hold for each call of the model, some of them with one more at the end."""


@dataclass(frozen=True, slots=True)
class Start:
    """Latents (1, 4, h/8, w/8) in fp32 to start from, and how many of the schedule's `total` steps, the last `run`, are made.

    `anew` (1, 1, h/8, w/8) is 0 where the latents are kept. `noise` is used in place of the seed's.
    """

    latents: Any
    total: int
    run: int
    anew: Any = None
    noise: Any = None

    def begin(self, scheduler: Any, noise: Any, device: Any) -> Any:
        """The noisy latents, in the noise's dtype, for a scheduler that is made ready for the steps from there on."""
        begin_late(scheduler, self.run)
        scheduler.set_timesteps(self.total, device=device)
        noise = noise if self.noise is None else self.noise.to(noise.dtype)
        latents = self.latents.to(device)
        if self.anew is not None:
            keep_outside(scheduler, latents, self.anew.to(device))
        return scheduler.add_noise(latents, noise.to(device).float(), scheduler.timesteps[:1]).to(noise.dtype)

    def end(self, made: Any) -> Any:
        """The latents after the last step, with those that are kept in place."""
        if self.anew is None:
            return made
        anew = self.anew.to(made.device)
        return made * anew.to(made.dtype) + (self.latents.to(made.device) * (1 - anew)).to(made.dtype)


@dataclass(frozen=True, slots=True)
class Rest:
    """Latents (1, 4, h/8, w/8) in fp32, as they are at `switch_at` of a pass, whose `total` steps are gone on with from there.

    `expected` is how often the model was thought to be called.
    """

    latents: Any
    total: int
    switch_at: float
    expected: int

    def begin(self, scheduler: Any, noise: Any, device: Any) -> Any:
        """The latents in the noise's dtype, for a scheduler that is made ready for the steps from the switch on.

        Raises RequestError (E-REQUEST) for a switch that leaves no step on one of its sides.
        """
        scheduler.set_timesteps(self.total, device=device)
        begin_late(scheduler, self.total - steps_before(scheduler, self.switch_at))
        scheduler.set_timesteps(self.total, device=device)
        return self.latents.to(device, noise.dtype)

    def end(self, made: Any) -> Any:
        """The latents after the last step."""
        return made


def steps_before(scheduler: Any, switch_at: float) -> int:
    """How many whole steps of a scheduler, whose timesteps are set, lie before a refiner's switch.

    As diffusers' `denoising_end`: those whose timestep is at least `n - switch_at * n`, rounded, of the model's n timesteps. A1111
    compares `(999 - timestep) / 1000` with it (modules/sd_samplers_common.py, apply_refiner), which is the same for whole timesteps.
    Raises RequestError (E-REQUEST) for a switch that leaves no step on one of its sides.
    """
    if hasattr(scheduler.config, "sigma_data"):
        why = "the model has EDM's noise, whose timesteps the refiner doesn't know"
        raise RequestError("refine: switch_at", switch_at, why, "give denoising_strength in its place")
    known = scheduler.config.num_train_timesteps
    timesteps = _timesteps_of_steps(scheduler)
    count = int((timesteps >= round(known - switch_at * known)).sum())
    if count in (0, len(timesteps)):
        side = "the refiner" if count else "the pass before it"
        why = f"leaves none of the {len(timesteps)} steps to {side}"
        raise RequestError("refine: switch_at", switch_at, why, "give another value, or more steps")
    return count


def calls_before(scheduler: Any, switch_at: float) -> int:
    """How often the model is called before a refiner's switch. Raises as `steps_before`."""
    steps = steps_before(scheduler, switch_at)
    return steps + 1 if hasattr(scheduler, "plms_timesteps") else steps * scheduler.order


def _timesteps_of_steps(scheduler: Any) -> Any:
    """The timestep that each whole step begins at."""
    if hasattr(scheduler, "plms_timesteps"):  # which asks the model at one of them twice
        return scheduler.timesteps.unique_consecutive()
    return scheduler.timesteps[:: scheduler.order]


def begin_late(scheduler: Any, run: int) -> None:
    """Have `set_timesteps` leave the last `run` steps, and the pipeline take latents that have their noise already."""
    own = scheduler.set_timesteps

    def set_timesteps(num_inference_steps: int, device: Any = None) -> None:
        own(num_inference_steps, device=device)
        _cut(scheduler, num_inference_steps - run)

    scheduler.set_timesteps = set_timesteps
    kind = type(scheduler)
    # Pipelines multiply given latents by this; in some classes it is a property.
    attributes = {"init_noise_sigma": 1.0, "__module__": kind.__module__}
    scheduler.__class__ = type(kind.__name__, (kind,), attributes)


def _cut(scheduler: Any, first: int) -> None:
    """Leave out the steps before `first`."""
    import torch

    if hasattr(scheduler, "plms_timesteps"):  # the first of its steps asks the model at the second timestep twice
        left = scheduler.timesteps.unique_consecutive()[first:]
        scheduler.timesteps = torch.cat([left[:2], left[1:]])
        return
    for name in _BY_CALL:
        if hasattr(scheduler, name):
            setattr(scheduler, name, getattr(scheduler, name)[first * scheduler.order :])
    if not hasattr(scheduler, "step_index"):  # DDIM, which goes by the distance of two timesteps
        return
    scheduler.num_inference_steps -= first
    if hasattr(scheduler, "order_list"):
        scheduler.order_list = scheduler.get_order_list(scheduler.num_inference_steps)
    scheduler.set_begin_index(0)  # a timestep may stand in the schedule twice, for two levels that round to it
