"""Write a random fp16 checkpoint of SDXL base's full size (6.94 GB) in the original single-file layout.

    python benchmarks/full_size_checkpoint.py PATH [--architecture NAME]

Every tensor begins at another place of one block of noise, whose length is prime: no two rows are alike, so that a
wrong slice or a wrong name shows in a bitwise comparison. Memory stays below 300 MB.
"""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path

import numpy as np

from darkroom.checkpoint.architectures import load_architecture
from darkroom.checkpoint.header import encode_header

NOISE_LENGTH = 16_777_213  # prime
STRIDE = 1_299_709  # prime
SCALE = 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--architecture", default="sdxl-base")
    arguments = parser.parse_args()
    write_checkpoint(arguments.path, arguments.architecture)


def write_checkpoint(path: Path, architecture: str) -> None:
    """Write the checkpoint under a temporary name and rename it."""
    shapes = dict(sorted(load_architecture(architecture).source_shapes().items()))
    rows, position = [], 0
    for key, shape in shapes.items():
        size = math.prod(shape) * 2
        if key.startswith("first_stage_model.") and ".attn_1." in key and len(shape) == 2:
            shape = (*shape, 1, 1)  # the original keeps these as 1x1 convolutions
        rows.append((key, "F16", shape, position, position + size))
        position += size
    noise = (np.random.default_rng(0).standard_normal(NOISE_LENGTH, np.float32) * np.float32(SCALE)).astype(np.float16)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    with temporary.open("wb", buffering=0) as file:
        file.write(encode_header(rows, {"modelspec.title": "random noise of SDXL's shape"}))
        for number, (key, _, shape, _, _) in enumerate(rows):
            base = np.float16(1 if len(shape) == 1 and key.endswith("weight") else 0)  # norms stay near 1
            count, start = math.prod(shape), number * STRIDE % NOISE_LENGTH
            while count:
                part = noise[start : start + count]
                file.write((part + base if base else part).tobytes())
                count -= len(part)
                start = 0
        os.fsync(file.fileno())
    temporary.replace(path)


if __name__ == "__main__":
    main()
