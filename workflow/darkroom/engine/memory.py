"""The memory policy: where a model's weights stay, and from which size on the VAE decodes in tiles.

Both follow from a GPU's class and from what SDXL's stages need, which docs/explanation/gpu.md derives. Free memory plays no part:
a picture on a device must not depend on what else is running there. Classes rather than bytes, because the same card has some
megabytes more or less by driver, error correction and system.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from darkroom.base import worker_words
from darkroom.errors import OutOfMemoryError

logger = logging.getLogger(__name__)

ALLOCATOR_VARIABLES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
"""Read by torch in this order; the last is the name of today (c10/cuda/CUDAAllocatorConfig.h)."""
GB = 10**9
CLASSES = tuple(round(size * GB) for size in (5, 6, 8, 10, 12, 15.5, 20, 23.5, 31, 39, 47, 84))
"""The least memory that CUDA gives for GPUs sold with 5 GB (a MIG slice), 6, 8, 10, 12, 16, 20, 24, 32, 40, 48 and 80 GB."""
OVERHEAD = 1_500_000_000
"""The CUDA context, the libraries' workspaces, what the allocator loses between blocks, and a desktop's share."""
SDXL_BYTES = 7_105_000_000
"""SDXL's weights in fp16, with the VAE in fp32."""
UNET_BYTES = 5_135_000_000
VAE_BYTES = 335_000_000
STEP_BYTES = 331_000_000
"""What a step for 1024 × 1024 pixels takes beside the weights, in fp16 and with classifier-free guidance."""
DECODE_PIXEL_BYTES = 3073
"""What decoding in fp32 takes for each pixel. In half precision it is half of it, but NaN is decoded again in fp32."""
USUAL_PIXELS = 1024 * 1024
TILED_PIXELS = 1536 * 1536
TILE, SMALL_TILE = 1024, 512
"""The edge of the VAE's tiles in pixels."""
MAX_BATCH = 16
"""The most pictures that are denoised together."""
Mode = Literal["resident", "offload", "cpu"]


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Where the model is kept, why, from how many pixels on the VAE decodes in tiles (None: never), and their edge in pixels.

    `room` are the bytes beside a model that stays on a GPU; None where they aren't limited, or the components take turns.
    `step_room` are those for a step's own tensors; None where they aren't limited.
    """

    mode: Mode
    reason: str
    tiled_from: int | None
    tile: int = TILE
    room: int | None = None
    step_room: int | None = None

    def is_tiled(self, width: int, height: int) -> bool:
        """True if a picture of this size in pixels is decoded in tiles."""
        return self.tiled_from is not None and width * height >= self.tiled_from

    def largest_batch(self, width: int, height: int) -> int:
        """How many pictures of this size may be denoised together, with classifier-free guidance in fp16."""
        if self.step_room is None:
            return MAX_BATCH
        return min(MAX_BATCH, max(1, self.step_room // _step_bytes(width * height)))

    def overlaps(self, width: int, height: int, batch: int = 1) -> bool:
        """True if a picture of this size may be decoded while a batch of others of its size is denoised.

        Not where the components take turns on the device, and not on a CPU: two threads that compute there start twice as many
        OpenMP threads, which then sleep between operations.
        """
        if self.mode != "resident" or self.room is None:
            return self.mode == "resident"
        pixels = width * height
        decoded = self.tile**2 if self.is_tiled(width, height) else pixels
        return decoded * DECODE_PIXEL_BYTES + batch * _step_bytes(pixels) <= self.room

    def describe(self, dtype: str) -> str:
        """One line for the log, such as `offload (GPU of 8.6 GB is below 12 GB), fp16, VAE tiling from 2.0 MP`."""
        tiling = "off" if self.tiled_from is None else f"from {self.tiled_from / 1e6:.1f} MP"
        head = self.mode if self.mode == "cpu" else f"{self.mode} ({self.reason})"
        return f"{head}, {dtype}, VAE tiling {tiling}"

    def startup_lines(self, device: str, total_bytes: int) -> list[str]:
        """Log lines for operators once a model is loaded: where it is kept, and how the VAE decodes.

        `total_bytes` is the memory of a GPU, 0 for other devices.
        """
        kept = {
            "resident": "the model stays on the device",
            "offload": "model CPU offload enabled",
            "cpu": "no GPU, the model is in the machine's memory",
        }[self.mode]
        tiling = "VAE tiling off"
        if self.tiled_from is not None:
            tiling = f"VAE tiling enabled from {self.tiled_from / 1e6:.1f} MP on"
        lines = [f"GPU memory of {device}: {self.reason}; {kept}" if self.mode != "cpu" else kept, tiling]
        if self.tiled_from is not None:
            lines.append(worker_words.TILING)
        if total_bytes:
            lines.append(worker_words.GPU_MEMORY % (total_bytes / GB))
            lines.append(worker_words.OFFLOAD if self.mode == "offload" else worker_words.RESIDENT)
        return lines


def decide(
    device_kind: str, total_bytes: int, requested: str, weights: int = SDXL_BYTES, unet: int = UNET_BYTES
) -> MemoryPlan:
    """The plan for a device.

    `device_kind` is `cpu`, `cuda` or `mps`; `total_bytes` is the device's memory; `requested` is the config's `memory`: `auto`,
    `resident` or `offload`; `weights` are the bytes of the model's weights as they are computed with, `unet` its UNet's. A CPU and an MPS device
    share the machine's memory, so there is nowhere to move a model to and the request has no effect.

    A model stays on a GPU that can then still decode a usual picture in one piece.
    """
    if device_kind == "cpu":
        return MemoryPlan("cpu", "the model is in the machine's memory", None)
    if device_kind != "cuda":
        return MemoryPlan("resident", f"{device_kind} shares the machine's memory", TILED_PIXELS)
    size = f"GPU of {total_bytes / GB:.1f} GB"
    known = max((least for least in CLASSES if least <= total_bytes), default=total_bytes)
    needed = next((least for least in CLASSES if _pixels_beside(weights, least) >= USUAL_PIXELS), CLASSES[-1])
    if requested != "auto":
        mode: Mode = "resident" if requested == "resident" else "offload"
        reason = f"as configured, {size}"
    elif known >= needed:
        mode, reason = "resident", f"{size} has room for it"
    else:
        mode, reason = "offload", f"{size} is below {needed / GB:g} GB"
    pixels = _pixels_beside(weights if mode == "resident" else VAE_BYTES, known)
    tile = TILE if pixels >= TILE * TILE else SMALL_TILE
    room = known - OVERHEAD - weights if mode == "resident" else None
    step_room = known - OVERHEAD - unet if room is None else room
    return MemoryPlan(mode, reason, min(pixels, TILED_PIXELS), tile, room, step_room)


def has_room(weights: int, total_bytes: int) -> bool:
    """True if so many bytes of weights may stay on a GPU: every picture that isn't decoded in tiles anyway then is in one piece."""
    known = max((least for least in CLASSES if least <= total_bytes), default=total_bytes)
    return _pixels_beside(weights, known) >= TILED_PIXELS


def check_fits(name: str, sizes: Mapping[str, int], device: str, total_bytes: int) -> None:
    """Raise OutOfMemoryError (E-OOM) for a model of which a component, with a step, is larger than the whole device.

    `sizes` are the components' weights in bytes; `total_bytes` is 0 for a device without memory of its own.
    """
    component, largest = max(sizes.items(), key=lambda item: item[1])
    if total_bytes and largest + STEP_BYTES > total_bytes:
        why = f"its {component} has {largest / GB:.1f} GB and a step takes {STEP_BYTES / GB:.1f} GB more"
        why += f"; {device} has {total_bytes / GB:.1f} GB"
        raise OutOfMemoryError("model", name, why, "use a larger GPU, or set engine.device to cpu")


def use_expandable_segments(device: str) -> None:
    """Have CUDA's allocator extend its blocks instead of holding many that no picture of another size fits into.

    Where the environment sets the allocator, that counts. Virtual GPUs, Jetsons and some WSL2 systems lack what it takes, which
    shows at the first allocation; they go on without it.
    """
    if (
        not device.startswith("cuda")
        or sys.platform == "win32"
        or any(name in os.environ for name in ALLOCATOR_VARIABLES)
    ):
        return
    import torch

    torch.cuda.memory._set_allocator_settings("expandable_segments:True")
    try:
        torch.empty(1, device=device)
    except torch.OutOfMemoryError:
        return  # what comes next says so
    except RuntimeError as error:
        torch.cuda.memory._set_allocator_settings("expandable_segments:False")
        logger.info("%s has no expandable segments: %s", device, str(error).splitlines()[0])


def _step_bytes(pixels: int) -> int:
    """What a step for a picture of so many pixels takes beside the weights: nearly all of it grows with the pixels."""
    return pixels * STEP_BYTES // USUAL_PIXELS


def _pixels_beside(kept: int, total: int) -> int:
    """How many pixels can be decoded in one piece beside so many bytes of weights."""
    return max(0, (total - OVERHEAD - kept) // DECODE_PIXEL_BYTES)
