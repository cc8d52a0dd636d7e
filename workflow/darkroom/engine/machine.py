"""The machine as an engine finds it: its GPUs, their driver and torch's build; and why torch can't use a GPU that is there.

A GPU that is there and can't be used is an error: to render on the CPU instead would take hours, and look like a slow GPU.
The CPU is taken where there is no GPU, or where it was asked for. Imports no torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from darkroom.base.nvidia import Nvidia, find_nvidia
from darkroom.base.torch_builds import (
    OLDEST_DRIVERS,
    TorchBuild,
    choose_build,
    cuda_of_driver,
    install_command,
    read_build,
)
from darkroom.errors import ConfigError

VISIBLE = "CUDA_VISIBLE_DEVICES"
GB = 10**9
_NONE = ("", "-1", "NoDevFiles", "none", "void")
"""Values that hide all GPUs: CUDA takes whatever isn't a GPU for the end of the list, and SLURM writes NoDevFiles."""
_AMD = Path("/dev/kfd")
_WSL = Path("/dev/dxg")
_PCI = Path("/sys/bus/pci/devices")
_NVIDIA_ID, _DISPLAY_CLASS = "0x10de", "0x03"
"""Of the PCI bus: NVIDIA's vendor id, and the class of displays and 3D controllers."""
_TO_CPU = "or set engine.device to cpu (--device cpu)"
Find = Callable[[], Nvidia]

_WAITING = {"GOMP_SPINCOUNT": "10000", "OMP_WAIT_POLICY": "PASSIVE"}
"""10,000 turns of libgomp's waiting loop, 0.1 to 0.5 ms by the processor, where it would wait 300,000; other OpenMP libraries
know the policy alone (GCC's libgomp manual, section 4.23; OpenMP 5.2, section 21.1.6)."""


def waiting_of_threads(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What the environment lacks for threads on a CPU to wait well, before torch is imported; nothing if it says how they wait.

    A thread that waits for another one spins as long as most operations of a model take, then sleeps: one that spins longer keeps
    the processor from the thread that it waits for, if another process has that one's. No bit of a picture depends on it.
    """
    return {} if any(name in environment for name in _WAITING) else _WAITING


def are_hidden(environment: Mapping[str, str]) -> bool:
    """True if CUDA_VISIBLE_DEVICES hides all GPUs, which is to ask for the CPU."""
    given = environment.get(VISIBLE)
    return given is not None and given.split(",")[0].strip() in _NONE


def visible_fault(environment: Mapping[str, str], count: int) -> str | None:
    """Why CUDA finds no GPU by CUDA_VISIBLE_DEVICES, of a machine with `count` of them; None if that isn't the reason."""
    given = environment.get(VISIBLE)
    if given is None:
        return None
    names = [name.strip() for name in given.split(",")]
    if len(set(names)) < len(names):
        return f"{VISIBLE} is '{given}', which names a GPU twice"
    if count and names[0].isdecimal() and int(names[0]) >= count:
        return f"{VISIBLE} is '{given}', and there {'is 1 GPU' if count == 1 else f'are {count} GPUs'}, counted from 0"
    return None


def describe_unusable(
    requested: str,
    said: str,
    environment: Mapping[str, str] = os.environ,
    find: Find = find_nvidia,
    *,
    is_other_code: bool = False,
) -> ConfigError | None:
    """The error for a GPU that is there and that torch can't use; None if there is none, or if it is hidden on purpose.

    `said` is what torch says of it, empty if nothing; with `is_other_code` that its code is for other models of GPUs.
    """
    if are_hidden(environment):
        return None
    found, build = find(), read_build() or TorchBuild("not installed")
    if not found.has_gpu:
        return _unusable_amd(requested, build)
    why, way = _reason(found, build, said, environment)
    if is_other_code and (right := choose_build(found)):
        why, way = said, f"run {install_command(right, build.release)}"
    names = ", ".join(dict.fromkeys(gpu.name for gpu in found.gpus)) or "an NVIDIA GPU"
    both = f"{found.title}, {build.title}"
    return ConfigError("engine.device", requested, f"{names} is there, but {why}: {both}", f"{way}, {_TO_CPU}")


def _reason(found: Nvidia, build: TorchBuild, said: str, environment: Mapping[str, str]) -> tuple[str, str]:
    """Why torch can't use the GPU, and what to do about it."""
    right = choose_build(found)
    install = install_command(right or "cu126", build.release)
    knows = cuda_of_driver(found)
    if knows is not None and knows < min(OLDEST_DRIVERS):
        oldest = OLDEST_DRIVERS[min(OLDEST_DRIVERS)]
        return "its driver is too old for every build of torch", f"install a driver of version {oldest} or newer"
    if build.cuda_major is None:
        return "this torch is not built for it", f"run {install}"
    if fault := visible_fault(environment, len(found.gpus)):
        return fault, f"correct or unset {VISIBLE}"
    if found.closed:
        way = "join the group that owns the file, on a cluster request a GPU (--gres=gpu:1)"
        return f"this user may not open {found.closed[0]}", way
    if not found.files and not found.gpus and not _WSL.exists():
        return "it has no file /dev/nvidia0", "start the container with --gpus all, or run nvidia-modprobe -u -c 0"
    if found.fault:
        return found.fault, "restart the machine or, if that doesn't help, install the driver again"
    if knows is not None and knows < build.cuda_major:
        newer = f"install a driver of version {OLDEST_DRIVERS.get(build.cuda_major, 580)} or newer"
        return "its driver is too old for this torch", f"run {install}, {newer}"
    return f"torch can't use it ({said or 'it finds no device'})", "run nvidia-smi and fix what it reports"


def _unusable_amd(requested: str, build: TorchBuild) -> ConfigError | None:
    if not (build.hip and _AMD.exists()):
        return None
    way = "join the groups render and video, and run rocminfo"
    return ConfigError(
        "engine.device", requested, f"{_AMD} is there, but {build.title} can't use it", f"{way}, {_TO_CPU}"
    )


def describe_broken_torch(error: BaseException) -> ConfigError:
    """The error for a torch that can't be imported, such as one without the libraries of its CUDA."""
    build = read_build()
    if build is None:
        return ConfigError("torch", None, "is not installed", "follow docs/how-to/install.md")
    found = find_nvidia()
    right = choose_build(found) or ("cpu" if not found.has_gpu else "cu126")
    why = f"can't be imported ({str(error).splitlines()[0] if str(error) else type(error).__name__}); {found.title}"
    hint = f"run {install_command(right, build.release)} --force-reinstall"
    return ConfigError("torch", build.title, why, hint)


def machine_line(requested: str, environment: Mapping[str, str] = os.environ, find: Find = find_nvidia) -> str:
    """One line for a log: driver, CUDA, torch, GPUs and their memory; of a machine without a GPU processor and memory."""
    found, build = find(), read_build()
    torch = "torch is not installed" if build is None else build.title
    visible = environment.get(VISIBLE)
    if found.has_gpu and requested != "cpu" and not are_hidden(environment):
        shown = "" if visible is None else f", {VISIBLE} '{visible}'"
        return f"machine: {_list_gpus(found)}; {found.title}; {torch}{shown}"
    if not found.has_gpu:
        why = "; ".join(["no NVIDIA GPU", *_unused()])
    elif requested == "cpu":
        why = f"{_list_gpus(found)} not used, since the device is cpu"
    else:
        why = f"{_list_gpus(found)} not used, since {VISIBLE} is '{visible}'"
    return f"machine: {why}; processor with {_threads(environment)} threads, {_memory()}; {torch}"


def _list_gpus(found: Nvidia) -> str:
    """Each model of GPU with its number and memory."""
    names: dict[str, int] = {}
    for gpu in found.gpus:
        size = "" if gpu.memory is None else f" ({gpu.memory / GB:.1f} GB)"
        names[gpu.name + size] = names.get(gpu.name + size, 0) + 1
    listed = [name if count == 1 else f"{count} × {name}" for name, count in names.items()]
    return ", ".join(listed) or "an NVIDIA GPU"


def _unused() -> list[str]:
    """What may be a GPU, and isn't used."""
    notes = []
    if _AMD.exists():
        notes.append("an AMD GPU is there, for which Darkroom wasn't made")
    if _WSL.exists():
        notes.append("Windows shows this WSL a GPU, but no NVIDIA driver")
    try:
        cards = [path for path in _PCI.iterdir() if (path / "vendor").read_text().strip() == _NVIDIA_ID]
        if any((path / "class").read_text().startswith(_DISPLAY_CLASS) for path in cards):
            notes.append("an NVIDIA GPU is on the PCI bus, but NVIDIA's driver is not installed")
    except OSError:
        pass
    return notes


def _threads(environment: Mapping[str, str]) -> int:
    given = environment.get("OMP_NUM_THREADS", "")
    own = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return int(given) if given.isdecimal() else own


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / GB:.1f} GB"
    except (OSError, ValueError):
        return "unknown memory"
