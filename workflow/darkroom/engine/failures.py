"""What a device's own exceptions mean: out of memory, which costs one picture, or a fault that costs the process."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from darkroom.engine.devices import GB, free_memory, release_memory
from darkroom.errors import CudaError, OutOfMemoryError

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
"""From the CUDA driver's list of errors (CUresult): after these "the process must be terminated and relaunched"."""


def with_coded_errors(work: Callable[[], T], device: str, what: str, value: str, hint: str) -> T:
    """Run `work`; what a device refuses is told by a code.

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
    """Whether torch or Python ran out of memory; on a CPU torch says so in a plain RuntimeError."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def is_sticky(error: BaseException) -> bool:
    """Whether a device's error stays: its context is lost, and only a new process gets another."""
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in text for sign in _STICKY)
