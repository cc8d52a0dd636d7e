"""The engine: one loaded model that turns requests into pictures.

Takes a verified model and RenderRequests, and the files of LoRAs, embeddings and VAEs by name. Gives pictures with the
facts about them.
Never opens a network connection, runs code from a model folder, or keeps anything of one picture for the next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from darkroom.engine.denoise import Cancelled
    from darkroom.engine.engine import Denoised, Engine, Wanted
    from darkroom.engine.library import Library
    from darkroom.engine.previews import Previews
    from darkroom.engine.rendered import RenderedImage, RenderFacts, UsedAsset
else:
    from darkroom.base.lazy import attributes_of

    __getattr__ = attributes_of(
        __name__,
        {
            "denoise": ("Cancelled",),
            "engine": ("Denoised", "Engine", "Wanted"),
            "library": ("Library",),
            "previews": ("Previews",),
            "rendered": ("RenderFacts", "RenderedImage", "UsedAsset"),
        },
    )

__all__ = [
    "Cancelled",
    "Denoised",
    "Engine",
    "Library",
    "Previews",
    "RenderFacts",
    "RenderedImage",
    "UsedAsset",
    "Wanted",
]
