"""The stage `refine`: SDXL's refiner goes on where the pass before it is told to stop, or works on the finished picture."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, WithJsonSchema, field_validator, model_validator

from darkroom.errors import LoraError
from darkroom.request.control import CONTROLS_SCHEMA, Control
from darkroom.request.lora_tags import take_out_loras
from darkroom.request.stages.stage import DenoisingStage

_END = "latent"

SWITCH_AT = 0.8
"""The switch where neither it nor a strength is given, as in A1111 and in diffusers' documents."""


class Refine(DenoisingStage):
    """The last steps of the pass before, by the refiner (diffusers' `denoising_end` and `denoising_start`), or a pass of its own."""

    name: ClassVar[str] = "refine"

    checkpoint: str = Field(min_length=1, max_length=200)
    """The refiner, by the name of its checkpoint."""
    switch_at: float | None = Field(None, gt=0, lt=1)
    """The part of the noise levels, by the model's timesteps, that are left to the pass before; 0.8 without a `denoising_strength`."""
    denoising_strength: float = Field(0.0, ge=0, le=1)
    """How much noise is added: 0 none, the refiner goes on with the latents at `switch_at`; else as in diffusers' img2img."""
    control: Annotated[tuple[Control, ...], WithJsonSchema(CONTROLS_SCHEMA)] = Field((), max_length=0)
    """None: ControlNets are made for base models."""

    @property
    def is_pass(self) -> bool:
        """Always: without noise it makes the rest of the steps."""
        return True

    @property
    def goes_on(self) -> bool:
        """True if it makes the rest of the pass before, with no noise added."""
        return not self.denoising_strength

    @property
    def leaves_latents(self) -> bool:
        """Always."""
        return True

    def of_checkpoint(self, _name: str) -> Self:
        """With its checkpoint's name: a model is never its own refiner."""
        return self

    def check_after(self, *, is_whole_pass: bool) -> None:
        """Raise ValueError if it is to go on within what is made before it, and that is no pass over the whole picture."""
        if self.switch_at is not None and not is_whole_pass:
            why = "needs a pass before it that denoises the whole picture; give denoising_strength in its place"
            raise ValueError(f"refine: switch_at {why}")

    def split_steps(self, requested: int) -> tuple[int, int]:
        """Of n steps diffusers' img2img runs `int(strength * n)`; the rest after a switch is an estimate until the noise levels are known."""
        part = self.denoising_strength or 1 - (self.switch_at or 0)
        return requested, min(max(int(requested * part), 1), requested)

    @field_validator("prompt", "negative_prompt")
    @classmethod
    def _without_loras(cls, text: str | None) -> str | None:
        try:
            uses = take_out_loras(text or "")[1]
        except LoraError as error:
            raise ValueError(error.why) from None
        if uses:
            raise ValueError(f"names the LoRA {uses[0].name}, and LoRAs are made for base models, not for the refiner")
        return text

    @model_validator(mode="before")
    @classmethod
    def _usual_switch(cls, settings: Any) -> Any:
        if not isinstance(settings, dict):
            return settings
        if settings.get("denoising_strength") is None and settings.get("switch_at") is None:
            return {**settings, "switch_at": SWITCH_AT}
        return settings

    @model_validator(mode="after")
    def _begins_somewhere(self) -> Self:
        if not self.goes_on:
            return self
        if self.switch_at is None:
            raise ValueError("a denoising_strength of 0 adds no noise, so it needs switch_at")
        own = [name for name in ("steps", "sampler", "schedule") if getattr(self, name)]
        if own:
            raise ValueError(
                f"{own[0]} is that of the pass before, whose rest is made; a denoising_strength begins anew"
            )
        return self


def latent_name(part: float) -> str:
    """The name of the tensor with the latents after that part of a pass; 1 is its end."""
    return _END if part == 1 else f"{_END}.{part!r}"
