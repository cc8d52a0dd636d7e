"""Write a random checkpoint of SDXL base's full size (6.94 GB in F16) in the original single-file layout.

    python benchmarks/full_size_checkpoint.py PATH [--architecture NAME|FOLDER] [--dtype F16|BF16|F32|F8_E4M3]
        [--ema] [--no-vae]

Every tensor begins at another place of one block of noise, whose length is prime: no two rows are alike, so that a
wrong slice or a wrong name shows in a bitwise comparison. Memory stays below 500 MB.
"""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from darkroom.checkpoint.architectures import load_architecture
from darkroom.checkpoint.header import DTYPE_BYTES, Shape, encode_header
from darkroom.checkpoint.layouts import EMA, checkpoint_layouts
from darkroom.checkpoint.numbers import convert_numbers

DTYPES = ("F16", "BF16", "F32", "F8_E4M3")
NOISE_LENGTH = 16_777_213  # prime
STRIDE = 1_299_709  # prime
SCALE = 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--architecture", default="sdxl-base")
    parser.add_argument("--dtype", choices=DTYPES, default="F16")
    parser.add_argument("--ema", action="store_true", help="with a moving average of the UNet's weights besides")
    parser.add_argument("--no-vae", dest="vae", action="store_false", help="without a VAE")
    arguments = parser.parse_args()
    write_checkpoint(arguments.path, arguments.architecture, arguments.dtype, ema=arguments.ema, vae=arguments.vae)


def write_checkpoint(path: Path, architecture: str, dtype: str = "F16", *, ema: bool = False, vae: bool = True) -> None:
    """Write the checkpoint under a temporary name and rename it."""
    width = DTYPE_BYTES[dtype]
    rows, position = [], 0
    for key, shape in sorted(_shapes(architecture, ema, vae).items()):
        size = math.prod(shape) * width
        rows.append((key, dtype, shape, position, position + size))
        position += size
    noise = np.random.default_rng(0).standard_normal(NOISE_LENGTH, np.float32) * np.float32(SCALE)
    small, near_one = _encode(noise, dtype), _encode(noise + np.float32(1), dtype)
    del noise
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    with temporary.open("wb", buffering=0) as file:
        file.write(encode_header(rows, {"modelspec.title": "random noise of SDXL's shape"}))
        for number, (key, _, shape, _, _) in enumerate(rows):
            is_norm = len(shape) == 1 and key.endswith("weight")
            _write_from(file, near_one if is_norm else small, number * STRIDE % NOISE_LENGTH, math.prod(shape))
        os.fsync(file.fileno())
    temporary.replace(path)


def _shapes(architecture: str, ema: bool, vae: bool) -> dict[str, Shape]:
    entries = load_architecture(architecture).entries
    wanted = [entry for component, found in entries.items() if vae or component != "vae" for entry in found]
    if ema:
        layouts = checkpoint_layouts("unet", entries["unet"])
        wanted += next(layout.entries for layout in layouts if layout.name == EMA)
    shapes = {entry.source: entry.source_shape for entry in wanted}
    for key, shape in shapes.items():
        if key.startswith("first_stage_model.") and ".attn_1." in key and len(shape) == 2:
            shapes[key] = (*shape, 1, 1)  # the original keeps these as 1x1 convolutions
    return shapes


def _encode(numbers: Any, dtype: str) -> Any:
    """float32 numbers in a number format, as unsigned integers of its width."""
    if dtype != "F8_E4M3":
        return np.frombuffer(convert_numbers(numbers.tobytes(), "F32", dtype), f"<u{DTYPE_BYTES[dtype]}")
    # Of all 256 numbers the nearest, found once for each fp16 number.
    every = np.frombuffer(convert_numbers(bytes(range(256)), dtype, "F32"), "<f4")
    order = np.argsort(every)  # NaNs come last
    finite = every[order][: int(np.isfinite(every).sum())]
    halves = np.arange(2**16, dtype="<u2").view("<f2").astype("<f4")
    nearest = np.searchsorted((finite[1:] + finite[:-1]) / 2, np.nan_to_num(halves))
    return order[nearest].astype("u1")[numbers.astype("<f2").view("<u2")]


def _write_from(file: BinaryIO, block: Any, start: int, count: int) -> None:
    """Write `count` numbers of the block from `start` on, from its beginning again when it ends."""
    while count:
        part = block[start : start + count]
        file.write(part.tobytes())
        count -= len(part)
        start = 0


if __name__ == "__main__":
    main()
