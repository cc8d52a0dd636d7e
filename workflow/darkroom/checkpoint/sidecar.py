"""The sidecar of a checkpoint: `NAME.yaml` beside `NAME.safetensors`, as A1111 reads it.

Of such a file only `parameterization` is used (`v` or `eps`), wherever it stands; usually below `model.params`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from darkroom.base.strict_yaml import load_yaml
from darkroom.errors import ConfigError

PARAMETERIZATIONS = {"v": "v_prediction", "eps": "epsilon", "epsilon": "epsilon", "v_prediction": "v_prediction"}


def sidecar_path(checkpoint: Path) -> Path:
    """Where a checkpoint's sidecar stands, if it has one."""
    return checkpoint.with_suffix(".yaml")


def read_sidecar(checkpoint: Path) -> str | None:
    """The `parameterization` that a checkpoint's sidecar names, one of PARAMETERIZATIONS; None without one.

    Raises ConfigError (E-CONFIG) for a sidecar that can't be read, or that names another parameterization.
    """
    path = sidecar_path(checkpoint)
    if not path.is_file():
        return None
    found = _find(load_yaml(path))
    if found is None or found in PARAMETERIZATIONS:
        return found
    known = ", ".join(PARAMETERIZATIONS)
    raise ConfigError(f"parameterization in {path} =", found, "is not one that SDXL can have", f"known are {known}")


def _find(data: Any) -> str | None:
    """The first value of the key `parameterization` in a tree of mappings and lists."""
    if isinstance(data, dict):
        if "parameterization" in data:
            return str(data["parameterization"])
        data = list(data.values())
    if isinstance(data, list):
        return next((found for found in map(_find, data) if found is not None), None)
    return None
