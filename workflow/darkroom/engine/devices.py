"""Devices: choice, number format, free memory and errors.

Running out of memory costs one picture; after a fault of the device only a new process can use it again.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

from darkroom.engine.arithmetic import reserve_workspace
from darkroom.engine.machine import describe_broken_torch, describe_unusable
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
    "uncorrectable nvlink error",
    "invalid program counter",
    "operation not supported on global/shared address space",
    "gpu is lost",
    "fallen off the bus",
    "cuda error: unknown error",
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

    Raises ConfigError (E-CONFIG) if the machine lacks the requested device, and for a GPU that is there and that torch can't
    use: only a machine without one, or with its GPUs hidden on purpose, renders on the CPU by `auto`.
    """
    reserve_workspace()
    torch = _import_torch()
    has_cuda = torch.cuda.is_available()
    if requested == "auto":
        if has_cuda:
            return "cuda"
        if torch.backends.mps.is_available():
            return "mps"
        if error := describe_unusable(requested, _why_no_cuda()):
            raise error
        return "cpu"
    kind, _, index = requested.partition(":")
    has = {"cpu": True, "cuda": has_cuda, "mps": torch.backends.mps.is_available()}
    if not has.get(kind, False):
        if kind == "cuda" and (error := describe_unusable(requested, _why_no_cuda())):
            raise error
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")  # names the requested GPU, where there are several
        among = "" if kind != "cuda" or visible is None else f", with CUDA_VISIBLE_DEVICES '{visible}'"
        raise ConfigError("engine.device", requested, f"this machine has no such device{among}", "use auto or cpu")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise ConfigError("engine.device", requested, f"there are {torch.cuda.device_count()} GPUs", "use cuda:0")
    return requested


def _import_torch() -> Any:
    """torch. Raises ConfigError (E-CONFIG) for an installation that can't be imported."""
    try:
        import torch
    except (ImportError, OSError) as error:
        raise describe_broken_torch(error) from None
    return torch


def _why_no_cuda() -> str:
    """What torch says when it is made to use CUDA; it says nothing when asked whether it can."""
    import torch

    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return str(error).splitlines()[0].rstrip(".")
    return ""


def check_gpu(device: str) -> None:
    """Use a GPU once, and make it the one that torch uses unless told otherwise.

    Raises ConfigError (E-CONFIG) for a GPU that torch has no code for or that can't be used, OutOfMemoryError (E-OOM) for one
    whose memory is all taken, CudaError (E-CUDA).
    """
    if not device.startswith("cuda"):
        return
    import torch

    try:
        major, minor = torch.cuda.get_device_capability(device)
        if not torch.version.hip and not has_code_for((major, minor), torch.cuda.get_arch_list()):
            why = f"torch has no code for its compute capability {major}.{minor}"
            error = describe_unusable(device, why, is_other_code=True)
            raise error or ConfigError("engine.device", device, why, "use cpu")
        torch.cuda.set_device(device)
        work = partial(torch.zeros, 1, device=device)
        with_coded_errors(work, device, "device", device, "end what else runs on it")
    except RuntimeError as error:
        why = str(error).splitlines()[0].rstrip(".")
        raise describe_unusable(device, why) or ConfigError(
            "engine.device", device, why, "use another device"
        ) from None


def has_code_for(capability: tuple[int, int], architectures: Sequence[str]) -> bool:
    """True if one of torch's architectures, such as `sm_86` or `compute_120`, runs on a GPU of that compute capability.

    `sm_XY` runs on GPUs of the same major and no smaller minor version, `compute_XY` is compiled for any later one (CUDA
    Programming Guide, "Binary Compatibility" and "PTX Compatibility"). An empty list says nothing.
    """
    for name in architectures:
        kind, _, digits = name.partition("_")
        number = int(digits.rstrip("af"))
        if divmod(number, 10) <= capability and (kind == "compute" or number // 10 == capability[0]):
            return True
    return not architectures


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


def processor_of(device: str) -> str:
    """The model of a GPU, or which instructions torch uses of a CPU, such as `AVX512`; both decide a picture's last bits."""
    import torch

    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    return torch.backends.cpu.get_cpu_capability() if device == "cpu" else device


def threads_of(device: str) -> int | None:
    """How many threads compute a picture on a CPU; None for other devices, where threads of the CPU change no bit."""
    import torch

    return torch.get_num_threads() if device == "cpu" else None


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


def peak_memory() -> int | None:
    """The most of the machine's memory that this process has held, in bytes (proc(5), VmHWM); None if unknown."""
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    line = next((line for line in text.splitlines() if line.startswith("VmHWM:")), None)
    return None if line is None else int(line.split()[1]) * 1024


def peak_device_memory(device: str) -> int | None:
    """The most of a GPU's memory that this process has held, in bytes, without what CUDA itself takes; None elsewhere."""
    if not device.startswith("cuda"):
        return None
    import torch

    return int(torch.cuda.max_memory_reserved(device))


@cache
def gpu_uuid(device: str) -> str | None:
    """A GPU's UUID as the driver has it, `GPU-…`; None elsewhere."""
    if not device.startswith("cuda"):
        return None
    import torch

    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"


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
