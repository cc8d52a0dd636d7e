"""The stages `inpaint` and `outpaint`: a part of the picture is made anew, the rest keeps its pixels."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from darkroom.request.control import ResizeMode, Sha256
from darkroom.request.stages.stage import DenoisingStage, next_multiple_of_8

MaskedContent = Literal["fill", "original", "latent noise", "latent nothing"]
"""What the masked part holds before noise is added, by A1111's names."""
_Side = Annotated[int, Field(ge=0, le=4096, multiple_of=8)]


class Inpaint(DenoisingStage):
    """A masked img2img, blended with the picture at each step and at the end (A1111's latent mask blending)."""

    name: ClassVar[str] = "inpaint"

    mask: Sha256
    """The mask's file: white is made anew, black stays; brought to the picture's size. Sheets give a path."""
    invert: bool = False
    """Make the black part anew instead."""
    mask_blur: int = Field(4, ge=0, le=64)
    """Gaussian blur of the mask's edge, in pixels."""
    masked_content: MaskedContent = "original"
    """What the masked part holds before: `fill` (colours of its surroundings), `original`, `latent noise` or `latent nothing`."""
    only_masked: bool = False
    """Work on the masked part alone, brought to `width` and `height`, and paste it back."""
    padding: int = Field(32, ge=0, le=1024)
    """With `only_masked`: how many pixels around the mask belong to the part."""
    width: int | None = Field(None, ge=64, le=8192, multiple_of=8)
    """In pixels, of the picture or, with `only_masked`, of the part that is worked on; the picture's if left out."""
    height: int | None = Field(None, ge=64, le=8192, multiple_of=8)
    """In pixels, as `width`."""
    resize_mode: ResizeMode = "stretch"
    """How the picture is brought to another shape before, without `only_masked`: `stretch`, `crop` or `fill`."""

    @property
    def pictures(self) -> tuple[str, ...]:
        """The mask."""
        return (self.mask,)

    def size_after(self, width: int, height: int) -> tuple[int, int]:
        """The stage's own size, or the picture's; with `only_masked` always the picture's."""
        return (width, height) if self.only_masked else (self.width or width, self.height or height)

    def work_size(self, width: int, height: int) -> tuple[int, int]:
        """The stage's own size, or the picture's, in multiples of 8."""
        return next_multiple_of_8(self.width or width), next_multiple_of_8(self.height or height)


class Outpaint(DenoisingStage):
    """The canvas is extended, and the new part is inpainted."""

    name: ClassVar[str] = "outpaint"

    left: _Side = 0
    """How many pixels are added at this side, a multiple of 8."""
    right: _Side = 0
    """How many pixels are added at this side, a multiple of 8."""
    up: _Side = 0
    """How many pixels are added at this side, a multiple of 8."""
    down: _Side = 0
    """How many pixels are added at this side, a multiple of 8."""
    mask_blur: int = Field(8, ge=0, le=64)
    """How far the new part reaches softly into the picture, in pixels."""
    masked_content: MaskedContent = "fill"
    """What the new part holds before noise is added."""
    denoising_strength: float = Field(0.9, ge=0, le=1)
    """How much of the new part is made anew: 0 nothing, 1 all of it."""

    def size_after(self, width: int, height: int) -> tuple[int, int]:
        """With the new sides."""
        return width + self.left + self.right, height + self.up + self.down

    @model_validator(mode="after")
    def _has_a_side(self) -> Self:
        if not (self.left or self.right or self.up or self.down):
            raise ValueError("needs left, right, up or down")
        return self
