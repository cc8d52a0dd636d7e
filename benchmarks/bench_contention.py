"""Seconds for a demo picture on a CPU by how OpenMP's threads wait, alone and beside a process that is always busy.

    python -m benchmarks.bench_contention [--rounds N] [--size PIXELS] [--steps N] [--setting NAME=VALUE ...]

Each way of waiting has an engine in a process of its own; its first picture isn't counted. In each round every engine renders a
picture alone, in turn, and then one beside the busy process. Prints the rows of a table in docs/explanation/benchmarks.md;
`--setting`, which may be repeated, adds a way to it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.measure import CHECKPOINT, Median, Row

CASES = ("waiting-alone", "waiting-beside")
ALONE_BAR, BESIDE_BAR = 1.05, 2.0
OURS, DEFAULTS = "Darkroom's setting", "PyTorch's defaults"
OTHERS = ("OMP_WAIT_POLICY=PASSIVE", "OMP_NUM_THREADS=1")
ENGINE = """
import sys, time
from darkroom.engine import Engine
from darkroom.request.render_request import RenderRequest
engine = Engine.load(sys.argv[1], device="cpu")
def render(seed):
    settings = {"width": int(sys.argv[2]), "height": int(sys.argv[2]), "steps": int(sys.argv[3]), "cfg_scale": 4}
    begun = time.perf_counter()
    engine.render(RenderRequest(prompt="a red circle", seed=seed, **settings))
    return time.perf_counter() - begun
render(0)
print("ready", flush=True)
for line in sys.stdin:
    print(render(int(line)), flush=True)
"""

BUSY = """
import os
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(100_000):
        pass
"""


class _Engine:
    """An engine's process that renders when it is asked to."""

    def __init__(self, model: Path, environment: Mapping[str, str], size: int, steps: int) -> None:
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "MKL_", "GOMP_"))
        }
        command = [sys.executable, "-c", ENGINE, str(model), str(size), str(steps)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen(command, text=True, env={**inherited, **environment}, **pipes)
        self._read()

    def render(self, seed: int) -> float:
        """Seconds for a picture."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{seed}\n")
        self._process.stdin.flush()
        return float(self._read())

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("an engine ended")
        return line


@contextmanager
def busy_process() -> Iterator[None]:
    """One process that does nothing but use a processor; it ends with this one, however that ends."""
    process = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def own_ways() -> dict[str, Mapping[str, str]]:
    """What engines are started with, beside nothing."""
    from darkroom.engine.machine import waiting_of_threads

    return {DEFAULTS: {}, OURS: waiting_of_threads({})}


def measure_ways(
    ways: Mapping[str, Mapping[str, str]], rounds: int, size: int = 128, steps: int = 20
) -> dict[str, tuple[Median, Median]]:
    """A picture's seconds by each way: alone, and beside the busy process."""
    alone: dict[str, list[float]] = {name: [] for name in ways}
    beside: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        model = Path(temporary, "model")
        convert = [sys.executable, "-m", "darkroom.cli", "convert", str(CHECKPOINT), str(model)]
        subprocess.run(convert, check=True, stdout=subprocess.DEVNULL)
        engines = {name: _Engine(model, environment, size, steps) for name, environment in ways.items()}
        for engine in engines.values():
            stack.callback(engine.close)
        for number in range(1, rounds + 1):
            for name, engine in engines.items():
                alone[name].append(engine.render(number))
            with busy_process():
                for name, engine in engines.items():
                    beside[name].append(engine.render(number))
    return {name: (Median(alone[name]), Median(beside[name])) for name in ways}


def run(rounds: int, cases: tuple[str, ...] = CASES) -> list[Row]:
    """The rows of these cases."""
    found = measure_ways(own_ways(), rounds)
    (alone, beside), (usual, _) = found[OURS], found[DEFAULTS]
    rows = {
        "waiting-alone": Row("a demo picture, as threads wait", alone, DEFAULTS, usual, ALONE_BAR),
        "waiting-beside": Row("a demo picture beside a busy process", beside, "the same alone", alone, BESIDE_BAR),
    }
    return [row for name, row in rows.items() if name in cases]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=128, help="width and height")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--setting", action="append", default=[], help="environment of one more way")
    options = parser.parse_args()
    ways = own_ways() | {f"`{each}`": dict([each.split("=", 1)]) for each in (*OTHERS, *options.setting)}
    for name, medians in measure_ways(ways, options.rounds, options.size, options.steps).items():
        spread = (f"{each:.2f} s ({min(each.rounds):.2f} to {max(each.rounds):.2f})" for each in medians)
        print(f"| {name} | {' | '.join(spread)} |", flush=True)


if __name__ == "__main__":
    main()
