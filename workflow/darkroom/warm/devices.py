"""Which devices a run has, and how an engine is bound to one of them. Standard library only."""

from __future__ import annotations

import os
from collections.abc import Sequence

from darkroom.errors import ConfigError

VISIBLE = "CUDA_VISIBLE_DEVICES"
_CUDA = "cuda:"


class Device:
    """A device by its name in the configuration; `copy` counts those of the same name before it.

    An engine for `cuda:N` is shown no other GPU, so that it is the first one to it: `seen_as` is the engine's name
    for the device, `visible` what CUDA_VISIBLE_DEVICES is set to, or None where it is left alone.
    """

    def __init__(self, name: str, copy: int, seen_as: str, visible: str | None = None) -> None:
        self.name = name
        self.copy = copy
        self.seen_as = seen_as
        self.visible = visible

    @property
    def environment(self) -> dict[str, str] | None:
        """The environment of its engine, or None for this process's own."""
        return None if self.visible is None else {**os.environ, VISIBLE: self.visible}


def make_devices(names: Sequence[str]) -> list[Device]:
    """The devices of these names. Raises ConfigError (E-CONFIG) for a GPU that this process may not use."""
    return [_make_device(name, names[:place].count(name)) for place, name in enumerate(names)]


def _make_device(name: str, copy: int) -> Device:
    if not name.startswith(_CUDA):
        return Device(name, copy, name)
    number = int(name.removeprefix(_CUDA))
    given = os.environ.get(VISIBLE)
    if given is None:
        return Device(name, copy, f"{_CUDA}0", str(number))
    # Numbers count within what this process may use, as everywhere in CUDA; the variable may also hold UUIDs.
    usable = [each.strip() for each in given.split(",") if each.strip() not in ("", "-1")]
    if number >= len(usable):
        raise ConfigError("engine device", name, f"{VISIBLE} is '{given}'", "name fewer devices, or set it otherwise")
    return Device(name, copy, f"{_CUDA}0", usable[number])
