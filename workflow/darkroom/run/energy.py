"""The energy that a run takes, from counters that the machine keeps: nothing is estimated, and what can't be read says why.

Processors and memory: RAPL through the kernel's powercap (Documentation/power/powercap/powercap.rst): `energy_uj` of the zones
named package-N, and of dram below them; it starts again at 0 after `max_energy_range_uj`. GPUs: NVML's
nvmlDeviceGetTotalEnergyConsumption (mJ since the driver was loaded; Volta and newer). All count whatever runs on them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

POWERCAP = Path("/sys/class/powercap")
SAMPLE_S = 60.0
"""How often a meter has to be read: a package's counter of 262 kJ takes eleven minutes at 400 W to start again."""
_COUNTED = ("package", "dram")
_UUID_BYTES = 96
_NVML_OK = 0


@dataclass
class _Counter:
    """A counter in `unit_j` joules that starts again at 0 after `most`."""

    read: Callable[[], int]
    unit_j: float
    most: int | None = None
    last: int = 0
    total: int = 0

    def sample(self) -> None:
        now = self.read()
        self.total += now - self.last + (self.most or 0 if now < self.last else 0)
        self.last = now


@dataclass
class EnergyMeter:
    """Reads the machine's counters from `start` on; `sample` has to be called every `SAMPLE_S` seconds, and at the end.

    `absent` says what isn't counted, and why.
    """

    powercap: Path = POWERCAP
    load_nvml: Callable[[], Any] = lambda: ctypes.CDLL("libnvidia-ml.so.1")
    absent: dict[str, str] = field(default_factory=dict)
    _machine: list[_Counter] = field(default_factory=list)
    _gpus: dict[str, _Counter] = field(default_factory=dict)

    def start(self) -> None:
        """Find the counters and read them for the first time."""
        self._machine = list(self._find_zones())
        self._gpus = dict(self._find_gpus())

    def sample(self) -> None:
        """Read all counters."""
        for name, counters in (("processors", self._machine), ("GPUs", self._gpus.values())):
            for counter in counters:
                self._try(name, counter, _Counter.sample)

    def joules(self, gpus: Iterable[str]) -> tuple[float | None, float | None]:
        """What processors and memory have taken, and what these GPUs have, by their UUIDs; None for what isn't counted."""
        used = set(gpus)
        machine = _sum(self._machine) if self._machine and "processors" not in self.absent else None
        return machine, _sum(self._gpus[uuid] for uuid in used) if used and used <= self._gpus.keys() else None

    def _try(self, name: str, counter: _Counter, act: Callable[[_Counter], None]) -> bool:
        """Whether the counter could be read."""
        try:
            act(counter)
        except (OSError, ValueError) as error:
            self.absent[name] = str(error)
            return False
        return True

    def _find_zones(self) -> Iterator[_Counter]:
        found = [zone for zone in sorted(self.powercap.glob("*-rapl:*")) if _name(zone).startswith(_COUNTED)]
        if not found:
            self.absent["processors"] = f"{self.powercap} has no RAPL zones"
        for zone in found:
            counter = _Counter(partial(_read_number, zone / "energy_uj"), 1e-6)
            counter.most = _read_number(zone / "max_energy_range_uj")
            if self._try("processors", counter, _begin):
                yield counter

    def _find_gpus(self) -> Iterator[tuple[str, _Counter]]:
        try:
            nvml = self.load_nvml()
        except OSError:
            self.absent["GPUs"] = "there is no NVML here, the library of NVIDIA's driver"
            return
        count = ctypes.c_uint()
        if nvml.nvmlInit_v2() != _NVML_OK or nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) != _NVML_OK:
            self.absent["GPUs"] = "NVML finds no driver"
            return
        for number in range(count.value):
            device, uuid = ctypes.c_void_p(), ctypes.create_string_buffer(_UUID_BYTES)
            if nvml.nvmlDeviceGetHandleByIndex_v2(number, ctypes.byref(device)) == _NVML_OK:
                nvml.nvmlDeviceGetUUID(device, uuid, _UUID_BYTES)
                counter = _Counter(partial(_read_gpu, nvml, device), 1e-3)
                if self._try("GPUs", counter, _begin):
                    yield uuid.value.decode(), counter


def _read_number(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))


def _begin(counter: _Counter) -> None:
    counter.last = counter.read()


def _sum(counters: Iterable[_Counter]) -> float:
    return sum(counter.total * counter.unit_j for counter in counters)


def _name(zone: Path) -> str:
    try:
        return (zone / "name").read_text().strip()
    except OSError:
        return ""


def _read_gpu(nvml: Any, device: ctypes.c_void_p) -> int:
    """Raises OSError where the GPU has no such counter."""
    energy = ctypes.c_ulonglong()
    if nvml.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(energy)) != _NVML_OK:
        raise OSError("a GPU doesn't count its energy")
    return energy.value
