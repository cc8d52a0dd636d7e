"""The stage `hires`: A1111's Hires. fix, the picture enlarged and denoised again at its new size."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator

from darkroom.request.stages.stage import ALMOST_ALL, DenoisingStage, multiple_of_8

LATENT_UPSCALERS = (
    "Latent",
    "Latent (antialiased)",
    "Latent (bicubic)",
    "Latent (bicubic antialiased)",
    "Latent (nearest)",
    "Latent (nearest-exact)",
)
"""Upscalers that enlarge the latents, by A1111's names (modules/shared_items.py, latent_upscale_modes)."""


class Hires(DenoisingStage):
    """A second pass: all requested steps are run, from the noise level that the denoising strength stands for."""

    name: ClassVar[str] = "hires"

    scale: float = Field(2.0, ge=1, le=8)
    """How much larger, if neither `width` nor `height` is given."""
    width: int | None = Field(None, ge=64, le=8192, multiple_of=8)
    """In pixels; with `height` alone, in proportion. With both, what is too much is cropped."""
    height: int | None = Field(None, ge=64, le=8192, multiple_of=8)
    """In pixels; with `width` alone, in proportion."""
    upscaler: str = Field("Latent", max_length=200)
    """One of A1111's six `Latent…`, `Lanczos`, `Nearest`, or an upscaler by its name in the configuration."""
    denoising_strength: float = Field(0.7, ge=0, le=1)
    """How much of the picture is made anew: 0 nothing, 1 all of it."""

    @property
    def is_latent(self) -> bool:
        """True if it enlarges latents, which the stage before it has to keep."""
        return self.upscaler in LATENT_UPSCALERS

    @property
    def is_whole_pass(self) -> bool:
        """Unless nothing is made anew."""
        return self.is_pass

    @property
    def leaves_latents(self) -> bool:
        """Unless the picture is only enlarged."""
        return self.is_latent or self.denoising_strength > 0

    def split_steps(self, requested: int) -> tuple[int, int]:
        """All requested steps are run, of `int(steps / min(strength, 0.999))` (A1111, setup_img2img_steps)."""
        strength = self.denoising_strength
        return (int(requested / min(strength, ALMOST_ALL)), requested) if strength else (requested, 0)

    def enlarged(self, width: int, height: int) -> tuple[int, int]:
        """The size before what is too much is cropped, in multiples of 8: `size_after`, longer in one direction."""
        wide, high = self.size_after(width, height)
        if width * high < wide * height:
            return wide, max(high, multiple_of_8(wide * height / width))
        return max(wide, multiple_of_8(high * width / height)), high

    def size_after(self, width: int, height: int) -> tuple[int, int]:
        """As A1111's calculate_target_resolution (modules/processing.py), in multiples of 8."""
        if self.width is None and self.height is None:
            return multiple_of_8(width * self.scale), multiple_of_8(height * self.scale)
        wide = self.width or multiple_of_8(width * (self.height or 0) / height)
        return wide, self.height or multiple_of_8(height * wide / width)

    @model_validator(mode="after")
    def _scale_or_size(self) -> Self:
        if "scale" in self.model_fields_set and (self.width or self.height) and self.scale != 2.0:
            raise ValueError("scale and a size contradict each other")
        return self
