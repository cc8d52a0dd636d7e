"""Imports spandrel, with or without torchvision.

spandrel imports torchvision for two of its architectures, LaMa and RestoreFormer, which are no upscalers. torchvision must be
of the very build that torch is of: with another one transformers fails to import. So Darkroom doesn't install it, and a
stand-in takes its place while spandrel is imported.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from types import ModuleType
from typing import Any

NAMES = {"torchvision.transforms.functional": ("InterpolationMode", "normalize", "rotate")}
"""What spandrel imports of torchvision, by module."""

_importing = Lock()


def import_spandrel() -> Any:
    """The module `spandrel`."""
    with _importing:
        if "spandrel" in sys.modules or importlib.util.find_spec("torchvision") is not None:
            import spandrel

            return spandrel
        with _stand_in():
            import spandrel

            return spandrel


@contextmanager
def _stand_in() -> Iterator[None]:
    """torchvision's modules, whose names are there and fail when they are used; removed afterwards.

    Others ask whether torchvision is installed, so it must not stay.
    """
    modules: dict[str, ModuleType] = {}
    for path, names in NAMES.items():
        parts = path.split(".")
        for count in range(1, len(parts) + 1):
            name = ".".join(parts[:count])
            modules[name] = modules.get(name, ModuleType(name))
            modules[name].__path__ = []
        for name in names:
            setattr(modules[path], name, _Missing())
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            sys.modules.pop(name, None)


class _Missing:
    def __call__(self, *arguments: object, **settings: object) -> object:
        raise RuntimeError("torchvision is not installed, and this architecture of spandrel needs it")
