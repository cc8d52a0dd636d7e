"""RenderRequest: everything that decides a picture's pixels, and nothing else."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from darkroom.errors import RequestError
from darkroom.samplers import find_sampler, find_schedule

Emphasis = Literal["lpw"]
MAX_SEED = 2**63 - 1
MAX_PROMPT_CHARACTERS = 30_000  # one shell argument of a job may hold 128 KiB


class RenderRequest(BaseModel):
    """One picture: frozen, hashable, JSON both ways (`to_json`, `from_json`).

    `sampler` and `schedule` are kept under their A1111 names, whatever spelling came in.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    prompt: str = Field(max_length=MAX_PROMPT_CHARACTERS)
    """What to draw. Any length; A1111 weights such as `(red:1.3)` and `[less]`."""
    negative_prompt: str = Field("", max_length=MAX_PROMPT_CHARACTERS)
    """What to steer away from."""
    width: int = Field(1024, ge=64, le=8192, multiple_of=8)
    """In pixels, a multiple of 8."""
    height: int = Field(1024, ge=64, le=8192, multiple_of=8)
    """In pixels, a multiple of 8."""
    steps: int = Field(25, ge=1, le=1000)
    """Sampling steps."""
    cfg_scale: float = Field(7.0, ge=0, le=100)
    """Classifier-free guidance. At 1 or less the negative prompt has no say."""
    sampler: str = "Euler"
    """By its A1111, diffusers or worker-sdxl name."""
    schedule: str = "Automatic"
    """A1111's schedule type."""
    seed: int = Field(0, ge=0, le=MAX_SEED)
    """Decides the noise that the picture starts from."""
    emphasis: Emphasis = "lpw"
    """How weights act on the text encoders' output."""
    clip_skip: int = Field(0, ge=0, le=12)
    """As in A1111: 0 and 1 take the usual layer, each further one an earlier layer."""

    @field_validator("sampler")
    @classmethod
    def _canonical_sampler(cls, name: str) -> str:
        return find_sampler(name).name

    @field_validator("schedule")
    @classmethod
    def _canonical_schedule(cls, name: str) -> str:
        return find_schedule(name)

    @model_validator(mode="after")
    def _possible_schedule(self) -> Self:
        possible = find_sampler(self.sampler).schedules
        if self.schedule not in possible:
            raise ValueError(
                f"the sampler {self.sampler} can't follow the schedule {self.schedule}, only {', '.join(possible)}"
            )
        return self

    @classmethod
    def from_settings(cls, settings: dict[str, Any], where: str = "request") -> Self:
        """Build a request from untrusted settings; raises RequestError (E-REQUEST) that names the first wrong one."""
        try:
            return cls.model_validate(settings)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            reason = first["msg"].removeprefix("Value error, ")
            if not key:
                raise RequestError(where, None, reason, "change one of the two") from None
            raise RequestError(f"{where}: {key}", first["input"], reason, f"give {key} another value") from None

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"]) or "body"
            raise RequestError(f"request: {key}", None, first["msg"].removeprefix("Value error, ")) from None

    def to_json(self) -> str:
        """Canonical JSON: the same request always gives the same text."""
        return self.model_dump_json()
