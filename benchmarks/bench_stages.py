"""What stages cost: one beside the engine, and changing the second pass of many pictures beside making both.

    python -m benchmarks.bench_stages [--rounds N] [--only CASE ...] [--pictures N]

`second-pass`: `snakemake --cores 1 results/` with the demo checkpoint, after the denoising strength of a second pass was
changed, against the same with no picture there; the model is converted before. 128 × 128 with 20 steps, then
192 × 192 with 10.

`stage`: the picture before it goes to the engine, and its own comes back and is written. A job's client, the warm engine's server and the engine's process are the real ones; the engine is a stand-in that gives
a picture of noise at once, the hardest kind to carry. Counted is what is neither the engine's time nor PNG encoding: reading
and hashing the files, two hops there and back, and writing the picture, into memory (/dev/shm) where that is there, so that it
isn't the disk that is measured. The interpreter's start is not counted: every picture has it, with stages or without.
The note says how much more processor time a stage takes in client and server than a picture without stages, which a
busy machine changes less; the engine's process encodes PNGs in the meantime.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from benchmarks.measure import ROOT, Median, Row, make_project, measure, processor_s, prompts, snakemake

CASES = ("stage", "second-pass")
COST_BAR_MS = 5.0
PICTURES, SECOND_PASS_BAR = 64, 0.6
PIXELS = 1024
_TURNS, _IN_A_ROW = 10, 10
"""Of a round: how often stages and pictures without take turns, and how many of them are made in each turn."""
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


def _servers(folder: Path) -> list[int]:
    """The server's process: one whose environment names the runtime folder, other than this one and the engine's."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            with suppress(OSError):
                is_engine = ENGINE.encode() in (entry / "cmdline").read_bytes().split(b"\0")
                if f"XDG_RUNTIME_DIR={folder}".encode() in (entry / "environ").read_bytes() and not is_engine:
                    found.append(int(entry.name))
    return found


def run(rounds: int, cases: tuple[str, ...] = CASES, pictures: int = PICTURES) -> list[Row]:
    """The rows of these cases."""
    rows = [_measure_stage(rounds)] if "stage" in cases else []
    return rows + ([_measure_second_pass(rounds, pictures)] if "second-pass" in cases else [])


def _measure_stage(rounds: int) -> Row:
    """Rounds of a hundred stages, and beside it in the note that of pictures without stages."""
    from darkroom.warm.chain_files import Chain
    from darkroom.warm.client import EngineSpec, render

    costs: dict[str, list[float]] = {"first": [], "stage": []}
    used = dict.fromkeys(costs, 0.0)
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="dr-", dir=memory) as temporary, _runtime(Path(temporary)):
        folder = Path(temporary)
        first, second = folder / "first.png", folder / "second.png"
        spec = EngineSpec(folder, command=(sys.executable, "-c", SERVER), idle_timeout_s=30)
        ways = {"first": (json.dumps(REQUEST), first, None), "stage": (json.dumps(STAGE), second, Chain({}, first))}
        render(spec, *ways["first"][:2])  # which starts the engine
        pids = _servers(folder)
        for _ in range(rounds):
            found: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(_TURNS):
                for name, (request, output, chain) in ways.items():
                    before = time.process_time() + processor_s(pids)
                    for _ in range(_IN_A_ROW):
                        _render(found[name], spec, request, output, chain)
                    used[name] += time.process_time() + processor_s(pids) - before
            for name, seconds in found.items():
                costs[name].append(statistics.median(seconds))
        size = first.stat().st_size
    count = _TURNS * _IN_A_ROW
    beside, more = Median(costs["first"]), (used["stage"] - used["first"]) / count / rounds
    note = (
        f"{size / 1e6:.1f} MB there and back; a picture without stages {1000 * beside:.1f} ms; "
        f"{1000 * more:.1f} ms more of processor time in client and server; medians of {count}"
    )
    row = (
        "a stage outside engine and PNG",
        Median(costs["stage"]),
        "the bar's 5 ms",
        COST_BAR_MS / 1000,
        1.0,
    )
    return Row(*row, note)


def _render(costs: list[float], spec: Any, request: str, output: Path, chain: Any) -> None:
    """One picture; adds the seconds that were neither the engine's nor PNG encoding's."""
    from darkroom.warm.client import render

    begun = time.perf_counter()
    facts = render(spec, request, output, chain=chain)
    costs.append(time.perf_counter() - begun - facts["total_s"] - facts["png_s"])


def _measure_second_pass(rounds: int, pictures: int) -> Row:
    """The second passes alone against both; ends with an error if a first pass was made again, or a second one wasn't."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, strengths = Path(temporary, "project"), iter(range(300, 999))
        made = folder / "results/many/demo"
        make_project(folder, pictures)
        subprocess.run(snakemake(folder, ROOT / "Snakefile", "models/"), check=True, capture_output=True)

        def change(name: str) -> None:
            if name == "both":
                shutil.rmtree(folder / "results", ignore_errors=True)
            stage = {"scale": 1.5, "upscaler": "Lanczos", "denoising_strength": next(strengths) / 1000, "steps": 10}
            entries = [{"id": f"p{i}", "prompt": text, "seed": i} for i, text in enumerate(prompts(pictures))]
            sheet = {"defaults": {"then": [{"hires": stage}]}, "prompts": entries}
            (folder / "prompts/many.yaml").write_text(yaml.safe_dump(sheet))

        begun = time.time_ns()
        command = snakemake(folder, ROOT / "Snakefile", "results/")
        times = measure({"both": command, "again": command}, rounds, before=change)
        ends = [path.stat().st_mtime_ns for path in made.glob("*.1-hires.png")]
        firsts = [path.stat().st_mtime_ns for path in made.glob("p*.png") if path.name.count(".") == 1]
    if not len(ends) == len(firsts) == pictures or not begun < max(firsts) < min(ends):
        raise SystemExit("a first pass was made again, or a second pass is missing or was not made again")
    what = f"second pass changed, {pictures} pictures"
    return Row(what, times["again"], "both passes", times["both"], SECOND_PASS_BAR)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--pictures", type=int, default=PICTURES, help="of second-pass")
    options = parser.parse_args()
    for row in run(options.rounds, tuple(options.only), options.pictures):
        print(f"{row.what}: {row.ours_s:.4f} s, {row.reference} {row.reference_s:.4f} s, {row.ratio:.2f}; {row.note}")
