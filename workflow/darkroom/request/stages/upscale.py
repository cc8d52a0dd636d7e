"""The stages `upscale` and `tile`: the picture enlarged, as it is or with its tiles denoised again."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator

from darkroom.request.stages.stage import DenoisingStage, Stage, next_multiple_of_8


class Upscale(Stage):
    """The picture enlarged by an upscaler, and brought to its exact size with Lanczos."""

    name: ClassVar[str] = "upscale"

    upscaler: str = Field("Lanczos", max_length=200)
    """`Lanczos`, `Nearest`, or an upscaler by its name in the configuration."""
    scale: float = Field(2.0, ge=1, le=8)
    """How much larger, if neither `width` nor `height` is given."""
    width: int | None = Field(None, ge=8, le=16384)
    """In pixels; with `height` alone, in proportion."""
    height: int | None = Field(None, ge=8, le=16384)
    """In pixels; with `width` alone, in proportion."""

    def size_after(self, width: int, height: int) -> tuple[int, int]:
        """The size asked for, in whole pixels."""
        if self.width is None and self.height is None:
            return int(width * self.scale), int(height * self.scale)
        wide = self.width or max(1, round(width * (self.height or 0) / height))
        return wide, self.height or max(1, round(height * wide / width))

    @model_validator(mode="after")
    def _scale_or_size(self) -> Self:
        if "scale" in self.model_fields_set and (self.width or self.height) and self.scale != 2.0:
            raise ValueError("scale and a size contradict each other")
        return self


class Tile(DenoisingStage):
    """The SD upscale kind: the picture is enlarged, and overlapping tiles of it go through img2img."""

    name: ClassVar[str] = "tile"

    upscaler: str = Field("Lanczos", max_length=200)
    """`Lanczos`, `Nearest`, or an upscaler by its name in the configuration."""
    scale: float = Field(2.0, ge=1, le=8)
    """How much larger."""
    tile: int = Field(1024, ge=64, le=4096, multiple_of=8)
    """A tile's edge in pixels, a multiple of 8."""
    overlap: int = Field(128, ge=0, le=1024, multiple_of=8)
    """How many pixels neighbouring tiles share, a multiple of 8."""
    denoising_strength: float = Field(0.3, ge=0, le=1)
    """How much of each tile is made anew: 0 nothing, 1 all of it."""

    def size_after(self, width: int, height: int) -> tuple[int, int]:
        """The enlarged size in whole pixels."""
        return int(width * self.scale), int(height * self.scale)

    def work_size(self, width: int, height: int) -> tuple[int, int]:
        """A tile's size; smaller where the picture is."""
        wide, high = self.size_after(width, height)
        return min(self.tile, next_multiple_of_8(wide)), min(self.tile, next_multiple_of_8(high))

    def places(self, width: int, height: int) -> tuple[tuple[int, int], ...]:
        """The left and upper edges of the tiles of the picture, before it is enlarged, row by row, in multiples of 8."""
        (wide, high), (across, down) = self.size_after(width, height), self.work_size(width, height)
        lefts = _spread(next_multiple_of_8(wide), across, self.overlap)
        return tuple((left, top) for top in _spread(next_multiple_of_8(high), down, self.overlap) for left in lefts)

    @model_validator(mode="after")
    def _overlaps_by_less_than_half(self) -> Self:
        if self.overlap * 2 > self.tile:
            raise ValueError("overlap is more than half of a tile")
        return self


def _spread(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin, evenly spread from end to end, that overlap by at least so much; all in multiples of 8."""
    count = 1 if length <= tile else -(-(length - overlap) // (tile - overlap))
    return [(length - tile) * number // max(count - 1, 1) // 8 * 8 for number in range(count)]
