"""From latents to a picture: the VAE's decoder, and the checks that keep a black picture from being one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from darkroom.errors import NanImageError

if TYPE_CHECKING:
    from PIL.Image import Image


def decode(pipeline: Any, latents: Any, *, tiled: bool) -> Image:
    """The RGB picture of latents (1, 4, h/8, w/8), computed as diffusers' pipelines compute it.

    Raises NanImageError (E-NANIMAGE) if the decoder's output isn't finite.
    """
    import torch
    from PIL import Image

    vae = pipeline.vae
    vae.use_tiling = tiled
    pixels = vae.decode(_scale(latents.to(vae.dtype), vae.config), return_dict=False)[0]
    if not torch.isfinite(pixels).all():
        raise NanImageError(
            "picture", None, "the VAE's decoder gave NaN or Inf", "set engine.dtype to fp32 or bf16, or use another VAE"
        )
    pixels = (pixels * 0.5 + 0.5).clamp(0, 1)[0].permute(1, 2, 0).float()
    return Image.fromarray((pixels * 255).round().to(torch.uint8).cpu().numpy())


def check_latents(finite_steps: list[Any]) -> None:
    """Raise NanImageError (E-NANIMAGE) with the first step whose latents weren't finite, given one truth value a step."""
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


def _scale(latents: Any, config: Any) -> Any:
    mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean is None or std is None:
        return latents / config.scaling_factor
    mean, std = (latents.new_tensor(values).view(1, -1, 1, 1) for values in (mean, std))
    return latents * std / config.scaling_factor + mean
