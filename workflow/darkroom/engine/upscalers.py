"""Pictures made larger without a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from darkroom.errors import RequestError

if TYPE_CHECKING:
    from PIL.Image import Image

LANCZOS, NEAREST = "Lanczos", "Nearest"


class Upscalers:
    """The upscalers that an engine has."""

    def upscale(
        self, image: Image, name: str, *, size: tuple[int, int], cancelled: Callable[[], bool] | None = None
    ) -> Image:
        """The RGB picture at that size (width, height). Raises RequestError (E-REQUEST) for an unknown name."""
        from PIL import Image as Images

        if name not in (LANCZOS, NEAREST):
            raise RequestError("upscaler", name, "there is none of that name", f"use {LANCZOS} or {NEAREST}")
        return image.resize(size, Images.Resampling.LANCZOS if name == LANCZOS else Images.Resampling.NEAREST)
