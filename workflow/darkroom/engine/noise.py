"""The noise that a picture starts from, and variations of it."""

from __future__ import annotations

from typing import Any

from darkroom.request import RenderRequest

_NEARLY_PARALLEL = 0.9995


def starting_noise(request: RenderRequest, generator: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """Unit noise (1, 4, h/8, w/8) on the CPU, drawn from `generator`, with the variation seed's mixed in.

    Without a variation it is what diffusers' pipelines draw themselves from that generator.
    """
    import torch

    noise = torch.randn(shape, generator=generator, dtype=dtype)
    if not request.variation_strength or request.variation_seed is None:
        return noise
    variation = torch.Generator("cpu").manual_seed(request.variation_seed)
    other = torch.randn(shape, generator=variation, dtype=dtype)
    return slerp(request.variation_strength, noise.float(), other.float()).to(dtype)


def slerp(amount: float, low: Any, high: Any) -> Any:
    """Spherical interpolation from `low` (amount 0) to `high` (1), column by column as A1111 does it (modules/rng.py).

    The angle is taken between columns of height h, for each channel and place along the width.
    """
    import torch

    def unit(tensor: Any) -> Any:
        return tensor / torch.linalg.vector_norm(tensor, dim=-2, keepdim=True)

    cosine = (unit(low) * unit(high)).sum(-2, keepdim=True)
    if cosine.mean() > _NEARLY_PARALLEL:
        return low + (high - low) * amount
    angle = torch.acos(cosine.clamp(-1, 1))
    return (torch.sin((1 - amount) * angle) * low + torch.sin(amount * angle) * high) / torch.sin(angle)
