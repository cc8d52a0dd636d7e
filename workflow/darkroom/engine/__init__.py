"""The engine: one loaded model that turns a RenderRequest into a picture."""

from __future__ import annotations

from darkroom.engine.engine import Cancelled, Engine, RenderedImage, RenderFacts

__all__ = ["Cancelled", "Engine", "RenderFacts", "RenderedImage"]
