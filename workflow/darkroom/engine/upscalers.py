"""Pictures made larger without a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from darkroom.engine.devices import MemoryPlan
from darkroom.engine.library import Library
from darkroom.engine.rendered import UsedAsset
from darkroom.errors import RequestError

if TYPE_CHECKING:
    from PIL.Image import Image

LANCZOS, NEAREST = "Lanczos", "Nearest"


class Upscalers:
    """The upscalers that an engine has."""

    def __init__(self, library: Library, device: str, dtype: str, plan: MemoryPlan) -> None:
        self._known = (LANCZOS, NEAREST)

    def used(self, name: str) -> UsedAsset | None:
        """The file of that upscaler, for metadata; None for one without."""
        return None

    def upscale(
        self, image: Image, name: str, *, size: tuple[int, int], cancelled: Callable[[], bool] | None = None
    ) -> Image:
        """The RGB picture at that size (width, height). Raises RequestError (E-REQUEST) for an unknown name."""
        from PIL import Image as Images

        if name not in self._known:
            raise RequestError("upscaler", name, "there is none of that name", f"use {LANCZOS} or {NEAREST}")
        return image.resize(size, Images.Resampling.LANCZOS if name == LANCZOS else Images.Resampling.NEAREST)
