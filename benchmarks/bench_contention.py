"""Seconds for a demo picture on a CPU by the wait policy of OpenMP's threads, alone and beside a process that is always busy.

    python -m benchmarks.bench_contention [--pictures N]

Each engine is a process of its own; its first picture isn't counted. Prints the rows of a table in
docs/explanation/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.measure import CHECKPOINT
from darkroom.serve.supervisor import ENVIRONMENT

SETTINGS = {
    "PyTorch's defaults": {},
    "`OMP_WAIT_POLICY=PASSIVE`": ENVIRONMENT,
    "`OMP_NUM_THREADS=1`": {"OMP_NUM_THREADS": "1"},
}
RENDER = """
import sys, time
from darkroom.engine import Engine
from darkroom.request.render_request import RenderRequest
engine = Engine.load(sys.argv[1], device="cpu")
for seed in range(int(sys.argv[2]) + 1):
    begun = time.perf_counter()
    engine.render(RenderRequest(prompt="a red circle", width=128, height=128, steps=20, cfg_scale=4, seed=seed))
    if seed:
        print(time.perf_counter() - begun)
"""


def seconds(model: Path, pictures: int, settings: dict[str, str]) -> float:
    """The median of a picture's seconds."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "MKL_"))}
    command = [sys.executable, "-c", RENDER, str(model), str(pictures)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**inherited, **settings})
    return statistics.median(map(float, done.stdout.split()))


@contextmanager
def busy_process() -> Iterator[None]:
    """One process that does nothing but use a processor."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=3)
    pictures = parser.parse_args().pictures
    with tempfile.TemporaryDirectory() as temporary:
        model = Path(temporary, "model")
        subprocess.run([sys.executable, "-m", "darkroom.cli", "convert", str(CHECKPOINT), str(model)], check=True)
        for name, settings in SETTINGS.items():
            print(f"| {name} | {seconds(model, pictures, settings):.2f} s |", end="", flush=True)
            with busy_process():
                print(f" {seconds(model, pictures, settings):.2f} s |", flush=True)


if __name__ == "__main__":
    main()
