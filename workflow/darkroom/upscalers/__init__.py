"""Upscaler files: models that enlarge RGB pictures, of the architectures that spandrel knows.

Takes a safetensors file. Gives the loaded model with its scale, and how a picture is cut into tiles for it. Never opens a
pickle, and never runs a model: `darkroom.engine.upscalers` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from darkroom.upscalers.upscaler_file import Upscaler, load_upscaler, pickle_hint
else:
    from darkroom.base.lazy import attributes_of

    __getattr__ = attributes_of(__name__, {"upscaler_file": ("Upscaler", "load_upscaler", "pickle_hint")})

__all__ = ["Upscaler", "load_upscaler", "pickle_hint"]
