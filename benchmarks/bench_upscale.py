"""Upscaling 2048 × 2048 to 4096 × 4096 in tiles, against the model run over the whole picture at once.

    python -m benchmarks.bench_upscale [--rounds 3]

A compact network of random numbers (8 layers of 32 features, 2×) on a picture of noise, in fp32 on the CPU, each time in a process of its own with one thread. Time is
that of upscaling alone, 8-bit pixels in and out on both sides; memory is the process's most beyond what it held with the model
loaded. The two pictures are compared: the row ends with an error if any byte differs by more than a rounding.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

from benchmarks.measure import Median, Row
from darkroom.checkpoint.header import encode_header

FEATURES, LAYERS = 32, 8
CASE = "upscale"
BAR, MEMORY_MB = 1.5, 2000
_WORK = """
import json, sys, time
import numpy as np, torch
from pathlib import Path
from PIL import Image
from darkroom.engine.placement import Placement
from darkroom.engine.library import Library
from darkroom.engine.upscalers import DEFAULT_TILE, Upscalers

def memory(key):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(key)) * 1024 / 1e6

torch.set_num_threads(1)
library = Library(".")
library.add("upscalers", "it", Path(sys.argv[1]))
upscalers = Upscalers(library, "fp32", Placement("cpu", takes_turns=False))
tile = DEFAULT_TILE if sys.argv[2] == "tiled" else 0
noise = np.random.default_rng(0).integers(0, 256, (2048, 2048, 3), dtype=np.uint8)
picture = Image.fromarray(noise)
upscalers.upscale(picture.crop((0, 0, 64, 64)), "it", scale=2)
before, begun = memory("VmRSS"), time.perf_counter()
made = upscalers.upscale(picture, "it", scale=2, tile=tile)
seconds = time.perf_counter() - begun
print(json.dumps({"seconds": seconds, "memory": memory("VmHWM") - before}))
np.save(sys.argv[3], np.asarray(made))
"""


def write_network(path: Path) -> None:
    """A compact network (SRVGGNetCompact) whose layers keep the signal's size."""
    import numpy as np

    rng = np.random.default_rng(0)
    widths = [3, *[FEATURES] * (LAYERS + 1), 12]
    rows, data, position = [], b"", 0
    for i, (before, after) in enumerate(pairwise(widths)):
        weight = rng.standard_normal((after, before, 3, 3)) / (9 * before) ** 0.5
        tensors = {f"body.{2 * i}.weight": weight, f"body.{2 * i}.bias": np.zeros(after)}
        if i <= LAYERS:
            tensors[f"body.{2 * i + 1}.weight"] = np.full(after, 0.2)
        for name, tensor in tensors.items():
            piece = tensor.astype("<f4").tobytes()
            rows.append((name, "F32", tensor.shape, position, position + len(piece)))
            data, position = data + piece, position + len(piece)
    path.write_bytes(encode_header(rows, {}) + data)


def run(rounds: int) -> list[Row]:
    """One row."""
    import numpy as np

    seconds: dict[str, list[float]] = {"tiled": [], "whole": []}
    memory = dict.fromkeys(seconds, 0.0)
    with tempfile.TemporaryDirectory() as temporary:
        upscaler = Path(temporary, "network.safetensors")
        write_network(upscaler)
        files = {name: Path(temporary, f"{name}.npy") for name in seconds}
        for _ in range(rounds):
            for name, file in files.items():
                command = [sys.executable, "-c", _WORK, str(upscaler), name, str(file)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                found = json.loads(done.stdout)
                seconds[name].append(found["seconds"])
                memory[name] = max(memory[name], found["memory"])
                print(f"  {name}: {found['seconds']:.2f} s, {found['memory']:.0f} MB", flush=True)
        tiled, whole = (np.load(file).astype(np.int16) for file in files.values())
    difference = int(np.abs(tiled - whole).max())
    if difference > 1:
        raise SystemExit(f"the tiled picture differs by {difference} of 255 from the untiled one")
    ours, reference = (Median(each) for each in seconds.values())
    note = f"peak memory {memory['tiled']:.0f} MB (bar {MEMORY_MB} MB), untiled {memory['whole']:.0f} MB"
    note += f"; largest difference {difference} of 255"
    return [Row("upscale 2048² to 4096²", ours, "the model untiled", reference, BAR, note)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    for row in run(parser.parse_args().rounds):
        print(
            f"{row.what}: {row.ours_s:.1f} s, {row.reference} {row.reference_s:.1f} s, ratio {row.ratio:.2f}; {row.note}"
        )
