"""Timing whole commands in turn, how busy the machine is meanwhile, and the working folders that they run in."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import yaml

# The most memory that the process held at once: unlike ru_maxrss, it begins anew when the interpreter starts.
_PEAK = """
with open("/proc/self/status") as status:
    print(next(line.split()[1] for line in status if line.startswith("VmHWM")))
"""
ROOT = Path(__file__).resolve().parent.parent
CHECKPOINT = ROOT / "workflow/resources/demo/darkroom-demo.safetensors"
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
SHAPES = ("circle", "square", "triangle", "star", "ring", "diamond", "heart", "cross")


class Median(float):
    """The median of a figure's rounds, which it keeps in `rounds`, in their order."""

    rounds: tuple[float, ...]

    def __new__(cls, rounds: Iterable[float]) -> Self:
        values = tuple(rounds)
        median = super().__new__(cls, statistics.median(values))
        median.rounds = values
        return median


@dataclass(frozen=True)
class Row:
    """One bar: our median seconds, the reference's, and the largest ratio allowed.

    `ours_s` is a Median, and `reference_s` too unless it is the bar itself. `others` is how many processors other processes
    used. Raises TypeError for seconds that don't say from which rounds they are.
    """

    what: str
    ours_s: float
    reference: str
    reference_s: float
    bar: float
    note: str = ""
    others: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.ours_s, Median):
            raise TypeError(f"the seconds of {self.what!r} are no Median of their rounds")

    @property
    def ratio(self) -> float:
        return self.ours_s / self.reference_s


def processors_of_others(seconds: float = 3.0) -> float:
    """How many processors are in use, other guests' included, while this process waits: none of it is the benchmark's."""

    def used() -> int:
        fields = list(map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]))
        return sum(fields) - fields[3] - fields[4]  # idle, and idle while it waits for a disk

    before, begun = used(), time.perf_counter()
    time.sleep(seconds)
    return (used() - before) / os.sysconf("SC_CLK_TCK") / (time.perf_counter() - begun)


def measure(
    commands: Mapping[str, Sequence[str]],
    rounds: int,
    *,
    before: Callable[[str], None] = lambda name: None,
    after: Callable[[str], None] = lambda name: None,
) -> dict[str, Median]:
    """Median wall seconds of each command, run in turn A B A B; `before` resets what the run makes, `after` looks at it."""
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            before(name)
            begun = time.perf_counter()
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            seconds[name].append(time.perf_counter() - begun)
            if done.returncode:
                raise SystemExit(f"{name} failed:\n{done.stdout}")
            after(name)
            print(f"  {name}: {seconds[name][-1]:.2f} s", flush=True)
    return {name: Median(values) for name, values in seconds.items()}


def processor_s(pids: Iterable[int]) -> float:
    """Seconds of processor time that these processes have used."""
    ticks = sum(sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13])) for pid in pids)
    return ticks / os.sysconf("SC_CLK_TCK")


def seconds_between(pictures: Iterable[Path]) -> float:
    """From the end of the first of these files to that of the last."""
    times = [path.stat().st_mtime for path in pictures]
    return max(times) - min(times)


def run_python(code: str, *arguments: object) -> tuple[float, float]:
    """Wall seconds and peak memory (MB) of code in a process of its own, the interpreter's start included.

    Raises CalledProcessError, with what the process wrote, if it fails.
    """
    begun = time.perf_counter()
    command = [sys.executable, "-c", code + _PEAK, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return time.perf_counter() - begun, int(done.stdout.split()[-1]) * 1024 / 1e6


def snakemake(folder: Path, snakefile: Path, *arguments: str) -> list[str]:
    """The command that a user types in that folder."""
    where = ["--snakefile", str(snakefile), "--directory", str(folder)]
    return [sys.executable, "-m", "snakemake", *where, "--cores", "1", "--scheduler", "greedy", *arguments]


def prompts(count: int) -> list[str]:
    """Different short prompts that the demo checkpoint can draw."""
    things = [f"a {c} {s} on a {b} background" for b in COLOURS for c in COLOURS for s in SHAPES if b != c]
    return [things[i % len(things)] + f", picture {i}" for i in range(count)]


def make_project(folder: Path, pictures: int) -> None:
    """A working folder with one sheet for the demo checkpoint."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "config").mkdir(parents=True)
    (folder / "prompts").mkdir()
    shutil.copyfile(CHECKPOINT, folder / "demo.safetensors")
    config = {
        "checkpoints": {"demo": {"source": "demo.safetensors"}},
        "sheets": ["prompts/many.yaml"],
        "render": {"width": 128, "height": 128, "steps": 20, "cfg_scale": 4, "sampler": "Euler"},
    }
    (folder / "config/config.yaml").write_text(yaml.safe_dump(config))
    write_sheet(folder, prompts(pictures))


def write_sheet(folder: Path, texts: Sequence[str]) -> None:
    """The sheet of a project: a picture for each prompt."""
    sheet = [{"id": f"p{i}", "prompt": text, "seed": i} for i, text in enumerate(texts)]
    (folder / "prompts/many.yaml").write_text(yaml.safe_dump(sheet))
