"""Devices: choice, number format, free memory and errors.

Running out of memory costs one picture; after a fault of the device only a new process can use it again.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from darkroom.engine.memory import GB
from darkroom.errors import ConfigError, CudaError, OutOfMemoryError

_CGROUP = Path("/sys/fs/cgroup")
DTYPES = {"fp16": "float16", "fp32": "float32", "bf16": "bfloat16"}
T = TypeVar("T")
_STICKY = (
    "illegal memory access",
    "illegal instruction",
    "misaligned address",
    "device-side assert",
    "unspecified launch failure",
    "launch timed out",
    "hardware stack error",
    "uncorrectable ecc error",
    "cublas_status_execution_failed",
    "cudnn_status_execution_failed",
)
"""Errors after which "the process must be terminated and relaunched" (CUDA driver API, CUresult)."""


_OUT_OF_MEMORY = (
    ("DefaultCPUAllocator",),
    ("CUDACachingAllocator", "NVML_SUCCESS"),  # on a MIG slice: torch may not ask who else uses the memory
    ("CUBLAS_STATUS_ALLOC_FAILED",),
    ("CUDNN_STATUS_ALLOC_FAILED",),
)
"""Texts in the RuntimeErrors of running out of memory, all of a row."""


def resolve_device(requested: str) -> str:
    """The device; `auto` becomes the first of `cuda`, `mps` and `cpu` that the machine has.

    Raises ConfigError (E-CONFIG) if the machine lacks the requested device.
    """
    import torch

    if requested == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    kind, _, index = requested.partition(":")
    has = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not has.get(kind, False):
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")  # names the requested GPU, where there are several
        among = "" if kind != "cuda" or visible is None else f", with CUDA_VISIBLE_DEVICES '{visible}'"
        raise ConfigError("engine.device", requested, f"this machine has no such device{among}", "use auto or cpu")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise ConfigError("engine.device", requested, f"there are {torch.cuda.device_count()} GPUs", "use cuda:0")
    return requested


def resolve_dtype(requested: str, device: str) -> str:
    """The number format; `auto` becomes fp16 on a GPU and fp32 on a CPU, which is slow at half precision."""
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
    if not device.startswith("cuda"):
        return 0
    import torch

    return int(torch.cuda.get_device_properties(device).total_memory)


def free_memory(device: str) -> int | None:
    """Free memory in bytes on the device or, for a CPU, on the machine; None if unknown."""
    if not device.startswith("cuda"):
        return available_memory()
    import torch

    return int(torch.cuda.mem_get_info(device)[0])


def available_memory() -> int | None:
    """Bytes of the machine's memory that are available without swapping; None if unknown.

    On Linux MemAvailable (proc(5)), since caches give memory back; a container's own limit where it is lower (cgroup
    v2's memory.max and memory.current, without file pages, which can be given back).
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
    """Bytes of the machine's memory that this process holds; None if unknown."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def release_memory(device: str) -> None:
    """Free the memory of tensors that are no longer in use."""
    import torch

    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()


def with_coded_errors(work: Callable[[], T], device: str, what: str, value: str, hint: str) -> T:
    """Run `work`; a device's errors become coded ones.

    Raises OutOfMemoryError (E-OOM) if it needs more memory than there is, with that memory given back, and CudaError
    (E-CUDA) for a fault after which every call to the device fails until the process has ended.

    The error is raised outside the handler: chained to it, the failed work's tensors would stay alive.
    """
    try:
        return work()
    except Exception as error:
        if is_sticky(error):
            raise CudaError("device", device, str(error).splitlines()[0], "the engine starts again by itself") from None
        if not is_out_of_memory(error):
            raise
    release_memory(device)
    free = free_memory(device)
    left = "" if free is None else f", {free / GB:.1f} GB are free without it"
    raise OutOfMemoryError(what, value, f"does not fit into the memory of {device}{left}", hint)


def is_out_of_memory(error: BaseException) -> bool:
    """True if torch, one of CUDA's libraries or Python ran out of memory; on a CPU torch raises a plain RuntimeError."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(all(sign in text for sign in signs) for signs in _OUT_OF_MEMORY)


def is_sticky(error: BaseException) -> bool:
    """True for an error after which the device's context is lost: only a new process gets another one."""
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in text for sign in _STICKY)
