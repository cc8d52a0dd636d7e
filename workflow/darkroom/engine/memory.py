"""How a model and a picture share memory: plain functions of sizes, decided before anything is loaded.

A GPU with 20 GB or more keeps the whole model; a smaller one gets its parts moved in one after the other, as whole
models (moving single layers in costs far more time than it saves memory). Big pictures are decoded in tiles. Free
memory plays no part: the same picture on the same device must not depend on what else was running.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

GB = 10**9
RESIDENT_BYTES = 20 * GB
SMALL_BYTES = 12 * GB
TILED_PIXELS = 1536 * 1536
SMALL_TILED_PIXELS = 1024 * 1024

Mode = Literal["resident", "offload", "cpu"]


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Where the model lives, why, and from how many pixels on the VAE decodes in tiles (None: never)."""

    mode: Mode
    reason: str
    tiled_from: int | None

    def is_tiled(self, width: int, height: int) -> bool:
        """Whether a picture of this size in pixels is decoded in tiles."""
        return self.tiled_from is not None and width * height >= self.tiled_from

    def describe(self, dtype: str) -> str:
        """One line for the log, such as `offload (GPU of 8.6 GB is below 20 GB), fp16, VAE tiling from 1.0 MP`."""
        tiling = "off" if self.tiled_from is None else f"from {self.tiled_from / 1e6:.1f} MP"
        head = self.mode if self.mode == "cpu" else f"{self.mode} ({self.reason})"
        return f"{head}, {dtype}, VAE tiling {tiling}"

    def startup_lines(self, device: str) -> list[str]:
        """What operators look for in the log once a model is loaded: where it is kept, and how the VAE decodes."""
        kept = {
            "resident": "the model stays on the device",
            "offload": "model CPU offload enabled",
            "cpu": "no GPU, the model is in the machine's memory",
        }[self.mode]
        tiling = "VAE tiling off"
        if self.tiled_from is not None:
            tiling = f"VAE tiling enabled from {self.tiled_from / 1e6:.1f} MP on"
        return [f"GPU memory of {device}: {self.reason}; {kept}" if self.mode != "cpu" else kept, tiling]


def decide(device_kind: str, total_bytes: int, requested: str) -> MemoryPlan:
    """The plan for a device.

    `device_kind` is `cpu`, `cuda` or `mps`; `total_bytes` is the device's memory; `requested` is the config's
    `memory`: `auto`, `resident` or `offload`. A CPU and an MPS device share the machine's memory, so there is
    nowhere to move a model to and the request has no effect.
    """
    if device_kind == "cpu":
        return MemoryPlan("cpu", "the model is in the machine's memory", None)
    if device_kind != "cuda":
        return MemoryPlan("resident", f"{device_kind} shares the machine's memory", TILED_PIXELS)
    size = f"GPU of {total_bytes / GB:.1f} GB"
    tiled_from = SMALL_TILED_PIXELS if total_bytes < SMALL_BYTES else TILED_PIXELS
    if requested == "resident":
        return MemoryPlan("resident", f"as configured, {size}", TILED_PIXELS)
    if requested == "offload":
        return MemoryPlan("offload", f"as configured, {size}", tiled_from)
    if total_bytes >= RESIDENT_BYTES:
        return MemoryPlan("resident", f"{size} has room for it", TILED_PIXELS)
    return MemoryPlan("offload", f"{size} is below {RESIDENT_BYTES // GB} GB", tiled_from)
