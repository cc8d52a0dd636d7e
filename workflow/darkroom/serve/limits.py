"""What one request may ask of a server, beyond what makes a valid picture."""

from __future__ import annotations

from darkroom.config import ServeConfig
from darkroom.errors import LimitError
from darkroom.request import RenderRequest


def check_count(pictures: int, limits: ServeConfig) -> None:
    """Raise LimitError (E-LIMIT) for a request of more pictures than allowed, or of none."""
    if not 1 <= pictures <= limits.max_images:
        raise LimitError("pictures", pictures, f"a request is for 1 to {limits.max_images}", "send several requests")


def check_limits(request: RenderRequest, limits: ServeConfig) -> None:
    """Raise LimitError (E-LIMIT) for a picture with more pixels, steps or LoRAs than allowed."""
    size = f"{request.width}x{request.height}"
    asked = (
        ("size", size, request.width * request.height, limits.max_pixels, "pixels"),
        ("steps", request.steps, request.steps, limits.max_steps, "steps"),
        ("loras", len(request.all_loras), len(request.all_loras), limits.max_loras, "LoRAs"),
    )
    for what, value, count, most, unit in asked:
        if count > most:
            raise LimitError(what, value, f"this server makes pictures of at most {most:,} {unit}", "ask for less")
