"""Latents beside a picture: a second output of passes whose latents a stage goes on with, as a safetensors file.

A stage that enlarges latents takes those at the end of the pass, a refiner those at its switch.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from pathlib import Path

from darkroom.pictures.formats import PNG
from darkroom.request.stages.refine import latent_name

LATENT_SUFFIX = ".latent.safetensors"
_MOST_HEADER_BYTES = 2**16


def latent_path(picture: str) -> str:
    """Where the latents of the picture at this path lie: `ID-SEED.latent.safetensors` beside `ID-SEED.png`."""
    return picture.removesuffix(PNG.suffix) + LATENT_SUFFIX


def holds(path: Path, parts: Iterable[float]) -> bool:
    """Whether a file of latents, which isn't damaged, has those after these parts of the pass."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return set(map(latent_name, parts)) <= set(json.loads(file.read(length)))


def is_damaged(path: Path) -> bool:
    """Whether a file of latents isn't as long as its header says, or has none; False if there is no such file.

    The format is eight bytes with the header's length, the header as JSON, then the numbers (safetensors, format).
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length)) if length <= _MOST_HEADER_BYTES else {}
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        return not ends or size != 8 + length + max(ends)
    except FileNotFoundError:
        return False
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, struct.error):
        return True
