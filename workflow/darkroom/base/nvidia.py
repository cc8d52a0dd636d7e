"""Which NVIDIA GPUs this machine has, as the driver tells it, whether torch can use them or not. Standard library only.

Four things say that a GPU is there: its device file, the kernel module's version file, NVML (the driver's own library, which
WSL has too), and `nvidia-smi` where that library can't be opened. NVML's functions and error numbers are those of nvml.h:
https://docs.nvidia.com/deploy/nvml-api/.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

DEV = Path("/dev")
DRIVER = Path("/proc/driver/nvidia/version")
LIBRARIES = ("libnvidia-ml.so.1", "/usr/lib/wsl/lib/libnvidia-ml.so.1")
_NVML_FAULTS = {
    4: "the driver refuses this user",
    9: "the driver's kernel module is not loaded",
    15: "a GPU has fallen off the bus",
    18: "the driver was updated, and the kernel still has the older one",
}
"""nvmlReturn_t: NO_PERMISSION, DRIVER_NOT_LOADED, GPU_IS_LOST, LIB_RM_VERSION_MISMATCH."""
_NAME_BYTES = 96
_SMI_S = 20
_VERSION = re.compile(r"\b\d{3,4}\.\d+(?:\.\d+)?\b")
_SMI_CUDA = re.compile(r"CUDA Version:\s*(\d+)\.(\d+)")
_SMI_GPU = re.compile(r"^GPU \d+: (.+?) \(UUID:", re.MULTILINE)
Load = Callable[[str], Any]


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU by the name of its model; `memory` in bytes and the compute capability are None if the driver doesn't say."""

    name: str
    memory: int | None = None
    capability: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Nvidia:
    """What the machine has of NVIDIA's.

    `driver` is its version such as `550.54.14`, `cuda` the newest CUDA that it knows; `files` are the GPUs' device files and
    `closed` those that this user may not open; `fault` is what keeps the driver from answering.
    """

    driver: str | None = None
    cuda: tuple[int, int] | None = None
    gpus: tuple[Gpu, ...] = ()
    files: tuple[str, ...] = ()
    closed: tuple[str, ...] = ()
    fault: str | None = None

    @property
    def has_gpu(self) -> bool:
        """True if anything says that a GPU, or the driver of one, is there."""
        return bool(self.files or self.gpus or self.driver)

    @property
    def title(self) -> str:
        """Driver and CUDA in a few words, such as `driver 550.54.14 (CUDA 12.4)`."""
        version = self.driver or "of unknown version"
        return f"driver {version}" + (f" (CUDA {self.cuda[0]}.{self.cuda[1]})" if self.cuda else "")


def find_nvidia(
    dev: Path | None = None,
    driver: Path | None = None,
    libraries: tuple[str, ...] | None = None,
    load: Load = ctypes.CDLL,
) -> Nvidia:
    """What is there. Paths and libraries are this module's if not given."""
    dev, driver = dev or DEV, driver or DRIVER
    files = sorted(path for path in dev.glob("nvidia[0-9]*") if path.name.removeprefix("nvidia").isdecimal())
    control = [path for path in [dev / "nvidiactl"] if files and path.exists()]
    closed = [path for path in [*files, *control] if not os.access(path, os.R_OK | os.W_OK)]
    found = Nvidia(_read_version(driver), files=tuple(map(str, files)), closed=tuple(str(path) for path in closed))
    library = _open_library(LIBRARIES if libraries is None else libraries, load)
    return _ask_smi(found) if library is None else _ask_nvml(found, library)


def _read_version(path: Path) -> str | None:
    """The version in the kernel module's file; a module for an open and a closed driver writes it differently."""
    try:
        found = _VERSION.search(path.read_text(encoding="ascii", errors="replace"))
    except OSError:
        return None
    return found and found[0]


def _open_library(libraries: tuple[str, ...], load: Load) -> Any:
    for name in libraries:
        try:
            return load(name)
        except OSError:
            continue
    return None


def _ask_nvml(found: Nvidia, library: Any) -> Nvidia:
    if code := library.nvmlInit_v2():
        fault = _NVML_FAULTS.get(code, f"NVML answers with error {code}")
        return replace(found, fault=fault)
    # NVML is left open: where nothing else holds the driver, closing it would have it start anew for torch.
    text, number, count = ctypes.create_string_buffer(_NAME_BYTES), ctypes.c_int(), ctypes.c_uint()
    if not library.nvmlSystemGetDriverVersion(text, _NAME_BYTES):
        found = replace(found, driver=text.value.decode())
    if not library.nvmlSystemGetCudaDriverVersion_v2(ctypes.byref(number)):
        found = replace(found, cuda=(number.value // 1000, number.value % 1000 // 10))
    if code := library.nvmlDeviceGetCount_v2(ctypes.byref(count)):
        return replace(found, fault=_NVML_FAULTS.get(code, f"NVML answers with error {code}"))
    asked = [_ask_gpu(library, index) for index in range(count.value)]
    lost = next((each for each in asked if isinstance(each, str)), None)
    return replace(found, gpus=tuple(each for each in asked if isinstance(each, Gpu)), fault=lost)


class _Memory(ctypes.Structure):
    """nvmlMemory_t, in bytes."""

    _fields_ = [(name, ctypes.c_ulonglong) for name in ("total", "free", "used")]


def _ask_gpu(library: Any, index: int) -> Gpu | str:
    """A GPU, or why the driver can't reach it."""
    handle, text, memory = ctypes.c_void_p(), ctypes.create_string_buffer(_NAME_BYTES), _Memory()
    major, minor = ctypes.c_int(), ctypes.c_int()
    if code := library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)):
        return f"GPU {index}: {_NVML_FAULTS.get(code, f'NVML answers with error {code}')}"
    if library.nvmlDeviceGetName(handle, text, _NAME_BYTES):
        text.value = b"NVIDIA GPU"
    has_memory = not library.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory))
    is_known = not library.nvmlDeviceGetCudaComputeCapability(handle, ctypes.byref(major), ctypes.byref(minor))
    return Gpu(
        text.value.decode(),
        memory.total if has_memory else None,
        (major.value, minor.value) if is_known else None,
    )


def _ask_smi(found: Nvidia) -> Nvidia:
    """What the command `nvidia-smi` says, if there is one; it ends with another code than 0 if it can't reach the driver."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return found
    head, listed = (_run([command, *options]) for options in ([], ["-L"]))
    if head is None or listed is None:
        return replace(found, fault="nvidia-smi can't reach the driver") if found.has_gpu else found
    cuda, version = _SMI_CUDA.search(head), _VERSION.search(head)
    return replace(
        found,
        driver=version[0] if version else found.driver,
        cuda=(int(cuda[1]), int(cuda[2])) if cuda else None,
        gpus=tuple(Gpu(name) for name in _SMI_GPU.findall(listed)),
    )


def _run(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_SMI_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
