"""The stage `img2img`: the picture with noise added, denoised again."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from darkroom.request.control import ResizeMode
from darkroom.request.stages.stage import DenoisingStage


class Img2Img(DenoisingStage):
    """A1111's img2img: of the steps, `int(denoising_strength * steps) + 1` are run (diffusers runs one less)."""

    name: ClassVar[str] = "img2img"

    width: int | None = Field(None, ge=64, le=8192, multiple_of=8)
    """In pixels; the picture's if left out."""
    height: int | None = Field(None, ge=64, le=8192, multiple_of=8)
    """In pixels; the picture's if left out."""
    resize_mode: ResizeMode = "stretch"
    """How the picture is brought to another shape before: `stretch`, `crop` or `fill`."""

    @property
    def is_whole_pass(self) -> bool:
        """Unless nothing is made anew."""
        return self.is_pass

    @property
    def leaves_latents(self) -> bool:
        """Unless nothing is made anew."""
        return self.denoising_strength > 0

    def size_after(self, width: int, height: int) -> tuple[int, int]:
        """The stage's own size, or the picture's."""
        return self.width or width, self.height or height
