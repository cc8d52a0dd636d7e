"""From latents to a picture: the VAE's decoder, and checks against NaN and pictures of one colour."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from darkroom.errors import NanImageError

if TYPE_CHECKING:
    from PIL.Image import Image

UNIFORM_RANGE = 2
"""The largest range of a channel, of 255, in a picture that counts as showing one colour."""


def decode(vae: Any, latents: Any, *, tiled: bool) -> tuple[Image, bool]:
    """The RGB picture of latents (1, 4, h/8, w/8), computed as diffusers' pipelines compute it.

    If the output of a decoder in half precision isn't finite, decoding is repeated in fp32 and the second value is
    true. Raises NanImageError (E-NANIMAGE) if that doesn't help.
    """
    import torch
    from PIL import Image

    vae.use_tiling = tiled
    pixels = _decode(vae, latents)
    is_retried = not torch.isfinite(pixels).all() and vae.dtype != torch.float32
    if is_retried:
        dtype = vae.dtype
        vae.to(torch.float32)
        try:
            pixels = _decode(vae, latents)
        finally:
            vae.to(dtype)  # fp32 holds every half-precision number, so the weights are what they were
    if not torch.isfinite(pixels).all():
        raise NanImageError(
            "picture", None, "the VAE's decoder gave NaN or Inf, in fp32 too", "use another VAE, or lower cfg_scale"
        )
    pixels = (pixels * 0.5 + 0.5).clamp(0, 1)[0].permute(1, 2, 0).float()
    return Image.fromarray((pixels * 255).round().to(torch.uint8).cpu().numpy()), is_retried


def is_uniform(image: Image) -> bool:
    """True if an RGB picture shows one colour, as failed pictures do."""
    return all(high - low <= UNIFORM_RANGE for low, high in image.getextrema())  # type: ignore[misc]


def check_latents(finite_steps: list[Any]) -> None:
    """Raise NanImageError (E-NANIMAGE) with the first step that isn't finite, given one truth value for each step."""
    import torch

    if not finite_steps:
        return
    finite = torch.stack(finite_steps).tolist()
    if not all(finite):
        raise NanImageError(
            "picture",
            None,
            f"NaN or Inf in the latents from step {finite.index(False) + 1} of {len(finite)} on",
            "lower cfg_scale or prompt weights, or set engine.dtype to fp32 or bf16; if all pictures fail, convert the"
            " checkpoint again",
        )


def _decode(vae: Any, latents: Any) -> Any:
    return vae.decode(_scale(latents.to(vae.dtype), vae.config), return_dict=False)[0]


def _scale(latents: Any, config: Any) -> Any:
    mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean is None or std is None:
        return latents / config.scaling_factor
    mean, std = (latents.new_tensor(values).view(1, -1, 1, 1) for values in (mean, std))
    return latents * std / config.scaling_factor + mean
