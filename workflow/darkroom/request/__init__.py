"""A picture's request: RenderRequest, its LoRA tags, samplers, presets and assets.

Takes settings by the names that users write. Gives a frozen, validated RenderRequest, which alone decides the pixels.
Never imports torch, reads a file or asks the network.
"""

from __future__ import annotations

from darkroom.request.render_request import MAX_SEED, Emphasis, FreeU, RenderRequest, separate_schedule

__all__ = ["MAX_SEED", "Emphasis", "FreeU", "RenderRequest", "separate_schedule"]
