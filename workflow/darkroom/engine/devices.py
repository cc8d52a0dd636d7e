"""Which device and number format a picture is made with, from the config's words."""

from __future__ import annotations

import gc
import os
from typing import Any

from darkroom.errors import ConfigError

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
        raise ConfigError("engine.device", requested, "this machine has no such device", "use auto or cpu")
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
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None


def release_memory(device: str) -> None:
    """Give back what dropped tensors still hold."""
    import torch

    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch or Python ran out of memory; on a CPU torch says so in a plain RuntimeError."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
