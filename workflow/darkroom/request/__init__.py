"""What a picture is: RenderRequest, its LoRA tags, samplers, presets and assets.

Takes settings by the names that users write. Gives a frozen, validated RenderRequest, which alone decides the pixels.
Never imports torch, opens a file of weights or uses the network.
"""

from __future__ import annotations

from darkroom.request.render_request import MAX_SEED, Emphasis, FreeU, RenderRequest, separate_schedule

__all__ = ["MAX_SEED", "Emphasis", "FreeU", "RenderRequest", "separate_schedule"]
