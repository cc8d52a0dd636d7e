"""What a warm engine's process is started with: the JSON in its only argument.

The client writes it, without importing this module: a dataclass takes longer to import than the client has.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """A server's options.

    `verified` is the receipt that the folder `model_dir` must match. The socket's folder must be private. `device_name` is
    the device's name in the configuration, where that isn't the engine's own name for it. `lease` is the process to live
    for. With `detach`, the server goes on in the background once its socket is bound.
    """

    model_dir: Path
    socket: Path
    verified: Path | None = None
    device: str = "auto"
    device_name: str | None = None
    dtype: str = "auto"
    memory: str = "auto"
    compile: Literal["off", "regional"] = "off"
    start_timeout_s: float = 900
    idle_timeout_s: float = 300
    lease: str | None = None
    detach: bool = False

    @classmethod
    def from_json(cls, text: str) -> Self:
        given = json.loads(text)
        paths = {key: Path(given[key]) for key in ("model_dir", "socket", "verified") if given.get(key)}
        return cls(**{**given, **paths})
