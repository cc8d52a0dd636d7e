"""Between latents and pictures: the VAE, and checks against NaN and pictures of one colour."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from darkroom.engine.memory import MemoryPlan
from darkroom.engine.placement import Placement
from darkroom.errors import NanImageError

if TYPE_CHECKING:
    from PIL.Image import Image

UNIFORM_RANGE = 2
"""The largest range of a channel, of 255, in a picture that counts as showing one colour."""


def set_tiling(vae: Any, edge: int | None) -> None:
    """Have an AutoencoderKL work in tiles of `edge` pixels, or in one piece.

    diffusers takes a tile's edge from `sample_size` in the VAE's config, which is 1024 in SDXL's and 512 in some others.
    """
    vae.use_tiling = edge is not None
    if edge is not None:
        vae.tile_sample_min_size, vae.tile_latent_min_size = edge, edge // 8


def decode(vae: Any, latents: Any) -> tuple[Image, bool]:
    """The RGB picture of latents (1, 4, h/8, w/8), computed as diffusers' pipelines compute it.

    If the output of a decoder in half precision isn't finite, decoding is repeated in fp32 and the second value is
    true. Raises NanImageError (E-NANIMAGE) if that doesn't help.
    """
    import torch
    from PIL import Image

    pixels, is_retried = _finite(vae, lambda: _decode(vae, latents))
    if not torch.isfinite(pixels).all():
        raise NanImageError(
            "picture", None, "the VAE's decoder gave NaN or Inf, in fp32 too", "use another VAE, or lower cfg_scale"
        )
    pixels = (pixels * 0.5 + 0.5).clamp(0, 1)[0].permute(1, 2, 0).float()
    return Image.fromarray((pixels * 255).round().to(torch.uint8).cpu().numpy()), is_retried


def encode(vae: Any, image: Image) -> Any:
    """The latents (1, 4, h/8, w/8) in fp32 of an RGB picture whose edges are multiples of 8: the mean of what the VAE allows.

    diffusers and A1111 draw from that distribution, so a picture can't be made again there. Raises NanImageError
    (E-NANIMAGE) as `decode`.
    """
    import numpy as np
    import torch

    values = torch.from_numpy(np.asarray(image.convert("RGB"), np.float32))
    pixels = (values / 255 * 2 - 1).permute(2, 0, 1)[None]
    mean, _ = _finite(vae, lambda: vae.encode(pixels.to(vae.device, vae.dtype), return_dict=False)[0].mode())
    if not torch.isfinite(mean).all():
        raise NanImageError("picture", None, "the VAE's encoder gave NaN or Inf, in fp32 too", "use another VAE")
    return _unscale(mean.float(), vae.config)


class Codec:
    """Decodes and encodes by an engine's memory policy. One at a time, because that may change a VAE's settings for a while."""

    def __init__(self, placement: Placement, plan: MemoryPlan) -> None:
        self._placement = placement
        self._plan = plan
        self._busy = threading.Lock()

    def decode(self, vae: Any, latents: Any) -> tuple[Image, bool]:
        """What `decode` gives, in tiles if the picture is large."""
        with self._busy:
            self._make_ready(vae, latents.shape[-1] * 8, latents.shape[-2] * 8)
            return decode(vae, latents)

    def encode(self, vae: Any, image: Image) -> Any:
        """What `encode` gives, in tiles if the picture is large."""
        with self._busy:
            self._make_ready(vae, *image.size)
            return encode(vae, image)

    def _make_ready(self, vae: Any, width: int, height: int) -> None:
        self._placement.bring(vae)
        set_tiling(vae, self._plan.tile if self._plan.is_tiled(width, height) else None)


def is_uniform(image: Image) -> bool:
    """True if an RGB picture shows one colour, as failed pictures do."""
    return all(high - low <= UNIFORM_RANGE for low, high in image.getextrema())  # type: ignore[misc]


def check_latents(finite_steps: list[Any], where: str = "") -> None:
    """Raise NanImageError (E-NANIMAGE) with the first step that isn't finite, given one truth value for each step.

    `where` is the stage's name.
    """
    import torch

    if not finite_steps:
        return
    finite = torch.stack(finite_steps).tolist()
    if not all(finite):
        raise NanImageError(
            "picture",
            None,
            f"NaN or Inf in the latents{f' of {where}' if where else ''} from step {finite.index(False) + 1} of {len(finite)} on",
            "lower cfg_scale or prompt weights, or set engine.dtype to fp32 or bf16; if all pictures fail, convert the"
            " checkpoint again",
        )


def _finite(vae: Any, work: Callable[[], Any]) -> tuple[Any, bool]:
    """What `work` gives, and true if it was repeated in fp32, because in half precision it isn't finite."""
    import torch

    made = work()
    dtype = vae.dtype
    if dtype == torch.float32 or torch.isfinite(made).all():
        return made, False
    del made
    try:  # which includes the way there: without memory for it, half of the weights may be in fp32
        torch.nn.Module.to(vae, torch.float32)  # diffusers' own `to` warns in the log
        return work(), True
    finally:
        torch.nn.Module.to(vae, dtype)  # fp32 holds every half-precision number, so the weights are what they were


def _decode(vae: Any, latents: Any) -> Any:
    return vae.decode(_scale(latents.to(vae.dtype), vae.config), return_dict=False)[0]


def _unscale(latents: Any, config: Any) -> Any:
    mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean is None or std is None:
        return latents * config.scaling_factor
    mean, std = (latents.new_tensor(values).view(1, -1, 1, 1) for values in (mean, std))
    return (latents - mean) * config.scaling_factor / std


def _scale(latents: Any, config: Any) -> Any:
    mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean is None or std is None:
        return latents / config.scaling_factor
    mean, std = (latents.new_tensor(values).view(1, -1, 1, 1) for values in (mean, std))
    return latents * std / config.scaling_factor + mean
