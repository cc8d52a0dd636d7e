"""What stages have in common: a stage makes a picture from the picture before it.

A stage holds all that decides its pixels in addition to the request it belongs to; other pictures, such as masks, are named
by the SHA-256 of their files' bytes. Names and defaults are A1111's where it has them.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self

from pydantic import ConfigDict, Field, WithJsonSchema, field_validator

from darkroom.base.validation import StrictModel
from darkroom.request.control import CONTROLS_SCHEMA, MAX_CONTROLS, Control
from darkroom.request.samplers import find_schedule, split_sampler

MAX_TEXT = 30_000
ALMOST_ALL = 0.999
"""A1111's largest denoising strength."""


class Stage(StrictModel):
    """A link of the chain after the first picture: frozen, hashable, part of RenderRequest's JSON under its name."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    name: ClassVar[str]
    """What it is called in sheets, in files' names (`ID-SEED.1-NAME.png`) and in the registry."""

    @property
    def pictures(self) -> tuple[str, ...]:
        """The SHA-256 of the files that it needs in addition to the picture before it."""
        return ()

    @property
    def is_whole_pass(self) -> bool:
        """True if it denoises the whole picture in one pass, which a refiner can go on with before its end."""
        return False

    @property
    def leaves_latents(self) -> bool:
        """True if the picture after it is what its latents decode to, with nothing done to its pixels."""
        return False

    def size_after(self, width: int, height: int) -> tuple[int, int]:
        """The picture's width and height in pixels after the stage."""
        return width, height

    def of_checkpoint(self, _name: str) -> Self:
        """The stage of a picture of that checkpoint, which is no other one for it."""
        return self


class DenoisingStage(Stage):
    """A stage that adds noise to the picture and denoises it again. What it leaves out is as in the request."""

    denoising_strength: float = Field(0.75, ge=0, le=1)
    """How much of the picture is made anew: 0 nothing, 1 all of it."""
    steps: int = Field(0, ge=0, le=1000)
    """Sampling steps; 0 as many as the request's."""
    prompt: str | None = Field(None, max_length=MAX_TEXT)
    """Another prompt for this stage."""
    negative_prompt: str | None = Field(None, max_length=MAX_TEXT)
    """Another negative prompt for this stage."""
    sampler: str | None = None
    """Another sampler for this stage."""
    schedule: str | None = None
    """Another schedule type for this stage."""
    cfg_scale: float | None = Field(None, ge=0, le=100)
    """Another CFG scale for this stage."""
    checkpoint: str | None = Field(None, min_length=1, max_length=200)
    """Another checkpoint for this stage, by its name; the picture's own if left out."""
    control: Annotated[tuple[Control, ...] | None, WithJsonSchema({"anyOf": [CONTROLS_SCHEMA, {"type": "null"}]})] = (
        Field(None, max_length=MAX_CONTROLS)
    )
    """Other controls for this stage; an empty list for none."""

    @field_validator("sampler")
    @classmethod
    def _canonical_sampler(cls, name: str | None) -> str | None:
        return None if name is None else split_sampler(name)[0]

    @field_validator("schedule")
    @classmethod
    def _canonical_schedule(cls, name: str | None) -> str | None:
        return None if name is None else find_schedule(name)

    @property
    def is_pass(self) -> bool:
        """True if it denoises: a strength of 0 runs no step."""
        return self.denoising_strength > 0

    def of_checkpoint(self, name: str) -> Self:
        """Without its checkpoint's name if it is the picture's own."""
        return self.model_copy(update={"checkpoint": None}) if self.checkpoint == name else self

    def split_steps(self, requested: int) -> tuple[int, int]:
        """The steps of the whole schedule, and how many of them, from its end, are run.

        A1111's img2img runs `int(min(strength, 0.999) * steps) + 1` (modules/sd_samplers_common.py, setup_img2img_steps).
        A strength of 0 runs none.
        """
        strength = self.denoising_strength
        return requested, int(min(strength, ALMOST_ALL) * requested) + 1 if strength else 0

    def work_size(self, width: int, height: int) -> tuple[int, int]:
        """The width and height in pixels of what is denoised, of a picture of that size: multiples of 8."""
        wide, high = self.size_after(width, height)
        return next_multiple_of_8(wide), next_multiple_of_8(high)

    def settings(self) -> dict[str, Any]:
        """The request's settings that it changes."""
        names = ("prompt", "negative_prompt", "sampler", "schedule", "cfg_scale", "control")
        found = {name: value for name in names if (value := getattr(self, name)) is not None}
        return {**found, **({"steps": self.steps} if self.steps else {})}


def multiple_of_8(size: float) -> int:
    """A number of pixels brought down to a multiple of 8, at least 8: what latents can have."""
    return max(8, int(size) // 8 * 8)


def next_multiple_of_8(size: int) -> int:
    """A number of pixels brought up to a multiple of 8."""
    return -(-size // 8) * 8
