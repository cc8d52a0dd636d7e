"""The engine: one loaded model that turns a RenderRequest into a picture."""

from __future__ import annotations

from darkroom.engine.denoise import Cancelled
from darkroom.engine.engine import Denoised, Engine
from darkroom.engine.library import Library
from darkroom.engine.rendered import RenderedImage, RenderFacts, UsedAsset

__all__ = ["Cancelled", "Denoised", "Engine", "Library", "RenderFacts", "RenderedImage", "UsedAsset"]
