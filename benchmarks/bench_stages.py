"""What a stage costs beside the engine: the picture before it goes there, and its own comes back and is written.

    python -m benchmarks.bench_stages [--rounds N]

A job's client, the warm engine's server and the engine's process are the real ones; the engine is a stand-in that gives
a picture of noise at once, the hardest kind to carry. Counted is what is neither the engine's time nor PNG encoding: reading
and hashing the files, two hops there and back, and writing the picture, into memory (/dev/shm) where that is there, so that it
isn't the disk that is measured. The interpreter's start is not counted: every picture has it, with stages or without.
The note says how much more processor time a stage takes in all three processes than a picture without stages, which a
busy machine changes less.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks.measure import ROOT, Row

CASES = ("stage",)
COST_BAR_MS = 5.0
PIXELS = 1024
REQUEST = {"prompt": "noise", "width": PIXELS, "height": PIXELS, "steps": 1}
STAGE = {**REQUEST, "stages": [{"img2img": {}}]}
ENGINE = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from benchmarks.bench_stages import be_engine; be_engine()"
SERVER = f"import sys; from darkroom.warm import server; server.main((sys.executable, '-c', {ENGINE!r}))"


class NoiseEngine:
    """Gives the same picture of noise for every request, which takes it no time."""

    name, model_hash, device, dtype, memory, overlaps = "noise", None, "cpu", "fp32", "cpu, fp32", False

    def __init__(self) -> None:
        from PIL import Image

        self._image = Image.frombytes("RGB", (PIXELS, PIXELS), os.urandom(3 * PIXELS * PIXELS))

    def denoise(self, request: Any, **_: Any) -> Any:
        return request

    def decode(self, request: Any) -> Any:
        from darkroom.engine import RenderedImage, RenderFacts

        facts = RenderFacts(1, 0, 1, *([0.0] * 5), "cpu", "fp32", self.memory, self.name, None, (), ())
        return RenderedImage(self._image, request, facts)

    def close(self) -> None:
        pass


def be_engine() -> None:
    """Run as the engine's process."""
    from darkroom.serve import engine_process

    engine_process.main(lambda files, options, on_read: NoiseEngine())


@contextmanager
def _runtime(folder: Path) -> Iterator[None]:
    """A runtime folder of its own, and a lease on this process, with which the engine ends."""
    from darkroom.warm.lease import make_lease

    changes = {"XDG_RUNTIME_DIR": str(folder), "DARKROOM_LEASE": make_lease(os.getpid())}
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _processor_s(pids: list[int]) -> float:
    """Seconds of processor time that these processes and this one have used."""
    ticks = sum(sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13])) for pid in pids)
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def _children(folder: Path) -> list[int]:
    """The server and the engine: processes whose environment names the runtime folder, other than this one."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            with suppress(OSError):
                if f"XDG_RUNTIME_DIR={folder}".encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
    return found


def run(rounds: int, cases: tuple[str, ...] = CASES) -> list[Row]:
    """The row: the median of a hundred stages a round, and beside it in the note that of pictures without stages."""
    from darkroom.warm.chain_files import Chain
    from darkroom.warm.client import EngineSpec, render

    if not cases:
        return []
    costs: dict[str, list[float]] = {"first": [], "stage": []}
    used = dict.fromkeys(costs, 0.0)
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="dr-", dir=memory) as temporary, _runtime(Path(temporary)):
        folder = Path(temporary)
        first, second = folder / "first.png", folder / "second.png"
        spec = EngineSpec(folder, command=(sys.executable, "-c", SERVER), idle_timeout_s=30)
        ways = {"first": (json.dumps(REQUEST), first, None), "stage": (json.dumps(STAGE), second, Chain({}, first))}
        render(spec, *ways["first"][:2])  # which starts the engine
        pids = _children(folder)
        for _ in range(10 * rounds):
            for name, (request, output, chain) in ways.items():
                before = _processor_s(pids)
                for _ in range(10):
                    _render(costs[name], spec, request, output, chain)
                used[name] += _processor_s(pids) - before
        size = first.stat().st_size
    count = len(costs["stage"])
    beside, more = statistics.median(costs["first"]), (used["stage"] - used["first"]) / count
    note = (
        f"{size / 1e6:.1f} MB there and back; a picture without stages {1000 * beside:.1f} ms; "
        f"{1000 * more:.1f} ms more of processor time; median of {count}"
    )
    row = (
        "a stage outside engine and PNG",
        statistics.median(costs["stage"]),
        "the bar's 5 ms",
        COST_BAR_MS / 1000,
        1.0,
    )
    return [Row(*row, note)]


def _render(costs: list[float], spec: Any, request: str, output: Path, chain: Any) -> None:
    """One picture; adds the seconds that were neither the engine's nor PNG encoding's."""
    from darkroom.warm.client import render

    begun = time.perf_counter()
    facts = render(spec, request, output, chain=chain)
    costs.append(time.perf_counter() - begun - facts["total_s"] - facts["png_s"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    for row in run(parser.parse_args().rounds):
        print(f"{row.what}: {1000 * row.ours_s:.1f} ms, {row.reference}; {row.note}")
