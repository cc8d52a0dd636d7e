"""Which device and number format a picture is made with, from the config's words."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

from darkroom.errors import ConfigError

_CGROUP = Path("/sys/fs/cgroup")
DTYPES = {"fp16": "float16", "fp32": "float32", "bf16": "bfloat16"}


def resolve_device(requested: str) -> str:
    """`auto` becomes `cuda`, `mps` or `cpu`, the first there is.

    Raises ConfigError (E-CONFIG) if the machine lacks the device asked for.
    """
    import torch

    if requested == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    kind, _, index = requested.partition(":")
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(kind, False):
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")  # names the GPU that was asked for, where there are several
        among = "" if kind != "cuda" or visible is None else f", with CUDA_VISIBLE_DEVICES '{visible}'"
        raise ConfigError("engine.device", requested, f"this machine has no such device{among}", "use auto or cpu")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise ConfigError("engine.device", requested, f"there are {torch.cuda.device_count()} GPUs", "use cuda:0")
    return requested


def resolve_dtype(requested: str, device: str) -> str:
    """`auto` becomes fp16 on a GPU and fp32 on a CPU, which is slow at half precision."""
    if requested == "auto":
        return "fp32" if device == "cpu" else "fp16"
    if requested not in DTYPES:
        raise ConfigError("engine.dtype", requested, "unknown number format", f"use auto, {', '.join(DTYPES)}")
    return requested


def torch_dtype(name: str) -> Any:
    """The torch dtype of `fp16`, `fp32` or `bf16`."""
    import torch

    return getattr(torch, DTYPES[name])


def make_deterministic(device: str) -> None:
    """Keep cuDNN from choosing algorithms by timing them, which would make equal requests differ."""
    import torch

    if device.startswith("cuda"):
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True


def total_memory(device: str) -> int:
    """The device's own memory in bytes; 0 where it has none of its own."""
    import torch

    return int(torch.cuda.get_device_properties(device).total_memory) if device.startswith("cuda") else 0


def free_memory(device: str) -> int | None:
    """Free memory in bytes on the device or, for a CPU, on the machine; None if nobody can tell."""
    import torch

    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    return available_memory()


def available_memory() -> int | None:
    """Bytes of the machine's memory that can be had without swapping; None if nobody can tell.

    On Linux MemAvailable (proc(5)): free memory alone would leave out what caches give back. A container's own limit
    counts where it is less (cgroup v2's memory.max and memory.current; file pages of it can be given back).
    """
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        machine = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        held = int((_CGROUP / "memory.current").read_text())
        stat = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        return min(machine, limit - held + int(stat["file"]))
    except (OSError, ValueError, KeyError):  # no limit ("max"), or no cgroup v2
        return machine


def resident_memory() -> int | None:
    """Bytes of the machine's memory that this process holds; None if nobody can tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def release_memory(device: str) -> None:
    """Give back what dropped tensors still hold."""
    import torch

    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
