"""Attributes of a package that are imported when they are first used (PEP 562).

A package's public names come from modules that planning, or a client that only sends a request, must not pay for. The
package imports the names for type checkers alone, and lets `attributes_of` find them at run time.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any


def attributes_of(package: str, names: Mapping[str, Collection[str]]) -> Callable[[str], Any]:
    """The `__getattr__` of a package, given its public names by the submodule that defines them.

    No public name may be a submodule's: importing that would hide the attribute.
    """
    modules = {name: module for module, found in names.items() for name in found}

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{package}.{modules[name]}"), name)
        setattr(sys.modules[package], name, value)  # found directly from now on
        return value

    return get
