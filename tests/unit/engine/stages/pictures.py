"""Pictures, masks, and requests for stages on them."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from darkroom.request.render_request import RenderRequest


def noisy_picture(width: int, height: int) -> Image.Image:
    """Random colours, smooth enough for a VAE to matter."""
    values = np.random.default_rng(3).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    return Image.fromarray(values).resize((width, height))


def box_mask(width: int, height: int, box: tuple[int, int, int, int]) -> Image.Image:
    """Black, with a white box (left, upper, right, lower; the last two included)."""
    mask = Image.new("L", (width, height))
    ImageDraw.Draw(mask).rectangle(box, fill=255)
    return mask


def file_of(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def request_of(*stages: dict[str, Any], **settings: Any) -> RenderRequest:
    """A request for 64 × 64 pixels of few steps."""
    fixed = {"prompt": "a fox", "width": 64, "height": 64, "steps": 4, "seed": 7, "cfg_scale": 3.0}
    return RenderRequest.from_settings({**fixed, **settings, "stages": list(stages)})


def on_picture(image: Image.Image, *stages: dict[str, Any], **settings: Any) -> tuple[RenderRequest, dict[str, bytes]]:
    """A request that begins with a picture, and the files for it."""
    data = file_of(image)
    size = {"width": -(-image.width // 8) * 8, "height": -(-image.height // 8) * 8}
    return request_of(*stages, image=digest(data), **{**size, **settings}), {digest(data): data}
