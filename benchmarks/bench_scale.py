"""1,000 and 5,000 pictures beside Snakemake's own floor: a trivial workflow of the same graph, whose jobs `touch` files.

- `plan`: a dry-run where every picture is to be made; `unchanged`: a run that finds nothing to be done; `edited`: a run
  after one prompt of all was edited; `run`: a run that makes everything, pages too.
- `beyond`: how much longer a run after one of 10,000 prompts was edited takes than one of the same project that finds nothing to be done,
  against three seconds.
- `watched`: the same run beside one without hooks, which has no numbers and no page while pictures are made.
- `sheets`: reading the prompt sheet and building its requests, against a second.
- `job`: processor time that Snakemake takes for a picture near the 9,000th of 10,000, against one near the 1,000th.
- `engine`: from the first of 200 pictures to the last, by a stand-in that takes 250 or 50 ms a picture and no processor, against
  that time alone.

A stand-in engine, started beforehand, answers each request at once with a small picture: what is measured is the workflow.

    python -m benchmarks.bench_scale [--rounds N] [--only CASE ...]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.measure import (
    ROOT,
    Median,
    Row,
    make_project,
    measure,
    prompts,
    seconds_between,
    snakemake,
    write_sheet,
)

SIZES = (1000, 5000)
ACTIONS = ("plan", "unchanged", "edited", "run")
ENGINES = {"engine-250-ms": (0.25, 1.03), "engine-50-ms": (0.05, 1.25)}
"""Seconds that a stand-in takes for a picture, and the bar."""
ENGINE_PICTURES = 200
JOBS, EARLY, LATE, JOB_SPAN = 10_000, 1000, 9000, 500
"""A run's pictures, and how many around the early and the late place are counted to either side."""
CASES = (
    *(f"{action}-{size}" for size in SIZES for action in (*ACTIONS, "watched", "sheets")),
    "beyond",
    "job",
    *ENGINES,
)
BAR = 1.3
WATCHED_BAR = 1.05
SHEETS_BAR_S = 1.0
BEYOND, BEYOND_BAR_S = 10_000, 3.0
_WHAT = {
    "plan": "dry-run of {:,} pictures",
    "unchanged": "nothing changed, {:,} pictures",
    "edited": "one of {:,} pictures edited",
    "run": "{:,} pictures by a stand-in engine",
}
_STAND_IN = ROOT / "tests/unit/warm/fake_engine_server.py"
_TRIVIAL = """
prompts = open("prompts.txt").read().splitlines()


rule all:
    name: "results/"
    input:
        "page.html",


rule make_page:
    input:
        "sheet.png",
    output:
        "page.html",
    shell:
        "touch {output}"


rule make_sheet:
    input:
        expand("out/{i}.png", i=range(len(prompts))),
    output:
        "sheet.png",
    shell:
        "touch {output}"


rule make_receipt:
    output:
        "receipt.json",
    shell:
        "touch {output}"


rule make_picture:
    input:
        "receipt.json",
    output:
        "out/{i}.png",
    params:
        request=lambda wildcards: prompts[int(wildcards.i)],
    shell:
        "touch {output}"
"""


class Ours:
    """A working folder of ours with its model, beside which a stand-in engine runs while `engine` is entered."""

    def __init__(self, folder: Path, pictures: int) -> None:
        self.folder, self.prompts = folder, prompts(pictures)
        make_project(folder, pictures)
        run_command(self.command("models/verified/demo.json"))

    def command(self, *arguments: str) -> list[str]:
        return snakemake(self.folder, ROOT / "Snakefile", *arguments)

    def edit(self, text: str) -> None:
        """Give the first picture another prompt."""
        write_sheet(self.folder, [text, *self.prompts[1:]])

    def clear(self) -> None:
        """As if nothing had been rendered yet."""
        for made in ("results", "logs", ".snakemake"):
            shutil.rmtree(self.folder / made, ignore_errors=True)

    def finish(self) -> None:
        """As after a first run: each picture is a copy of one."""
        self.copy_pictures([f"many/demo/p{i}-{i}.png" for i in range(len(self.prompts))])

    def copy_pictures(self, paths: Sequence[str]) -> None:
        """Make the first of these pictures, and the others below results/ as copies of it."""
        results = self.folder / "results"
        run_command(self.command(f"results/{paths[0]}"))
        for path in paths[1:]:
            shutil.copyfile(results / paths[0], results / path)
        for page in ("index.html", "manifest.jsonl", "many/contact-sheet.png"):
            (self.folder / "results" / page).touch()
        run_command(self.command("--touch", "results/"))

    def made(self) -> int:
        """How many pictures there are."""
        return len(list(self.folder.glob("results/many/demo/*.png")))

    def seconds_between(self) -> float:
        """From the end of the first picture to that of the last."""
        return seconds_between(self.folder.glob("results/many/demo/*.png"))

    @contextmanager
    def engine(self, seconds: float = 0) -> Iterator[None]:
        """`seconds` is how long it takes for a picture."""
        from darkroom.warm.lease import make_lease
        from darkroom.warm.paths import server_files, server_key

        model, verified = self.folder / "models/diffusers/demo", self.folder / "models/verified/demo.json"
        socket = server_files(server_key(model, verified, "auto", "auto", "auto")).socket
        behaviour = self.folder / "engine/behaviour.txt"
        behaviour.parent.mkdir()
        behaviour.write_text("ok")
        behaviour.with_name("seconds").write_text(str(seconds))
        options = {"model_dir": str(behaviour.parent), "socket": str(socket), "lease": make_lease(os.getpid())}
        command = [sys.executable, str(_STAND_IN), json.dumps(options)]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:
            try:
                while not socket.exists():
                    time.sleep(0.05)
                yield
            finally:
                server.terminate()


class Floor:
    """The trivial workflow, with the same things to do to it."""

    def __init__(self, folder: Path, pictures: int) -> None:
        self.folder, self.prompts = folder, prompts(pictures)
        folder.mkdir()
        (folder / "Snakefile").write_text(_TRIVIAL)
        self.edit(self.prompts[0])
        run_command(self.command("receipt.json"))

    def command(self, *arguments: str) -> list[str]:
        return snakemake(self.folder, self.folder / "Snakefile", *arguments)

    def edit(self, text: str) -> None:
        (self.folder / "prompts.txt").write_text("\n".join([text, *self.prompts[1:]]))

    def clear(self) -> None:
        for made in ("out", ".snakemake"):
            shutil.rmtree(self.folder / made, ignore_errors=True)
        for page in ("sheet.png", "page.html"):
            (self.folder / page).unlink(missing_ok=True)

    def finish(self) -> None:
        """As after a first run. The first picture is made by its job: without a record of its params an edit would be none."""
        run_command(self.command("out/0.png"))
        for i in range(1, len(self.prompts)):
            (self.folder / f"out/{i}.png").touch()
        for page in ("sheet.png", "page.html"):
            (self.folder / page).touch()
        run_command(self.command("--touch", "results/"))

    def made(self) -> int:
        return len(list(self.folder.glob("out/*.png")))


def run(rounds: int, cases: Sequence[str] = CASES) -> list[Row]:
    rows = []
    for size in SIZES:
        if actions := [action for action in ACTIONS if f"{action}-{size}" in cases]:
            rows += _compare(size, actions, rounds)
        if f"watched-{size}" in cases:
            rows.append(_watch(size, rounds))
        if f"sheets-{size}" in cases:
            rows.append(_read_sheets(size, rounds))
    if "beyond" in cases:
        rows.append(_measure_edit(BEYOND, rounds))
    if "job" in cases:
        rows.append(_compare_jobs(JOBS, EARLY, LATE, JOB_SPAN))
    rows += [_wait_for_engine(*ENGINES[case], rounds) for case in ENGINES if case in cases]
    return rows


def _compare(size: int, actions: Sequence[str], rounds: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as temporary:
        ours, floor = Ours(Path(temporary, "ours"), size), Floor(Path(temporary, "floor"), size)
        with ours.engine():
            return [_measure(action, size, {"ours": ours, "floor": floor}, rounds) for action in actions]


def _measure(action: str, size: int, sides: Mapping[str, Ours | Floor], rounds: int) -> Row:
    for side in sides.values():
        if action in ("unchanged", "edited") and side.made() < size:
            side.finish()
            run_command(side.command("results/"))
    texts = (f"another prompt, {i}" for i in itertools.count())

    def before(name: str) -> None:
        if action in ("plan", "run"):
            sides[name].clear()
        if action == "edited":
            sides[name].edit(next(texts))

    for name, side in sides.items() if action in ("unchanged", "edited") else ():
        before(name)
        has_work = "Nothing to be done" not in run_command(side.command("--dry-run", "results/"))
        if has_work != (action == "edited"):
            raise SystemExit(f"{name} has {'something' if has_work else 'nothing'} to do")
    arguments = ["--dry-run", "results/"] if action == "plan" else ["results/"]
    commands = {name: side.command(*arguments) for name, side in sides.items()}
    seconds = measure(commands, rounds, before=before)
    for name, side in sides.items():
        if action != "plan" and side.made() != size:
            raise SystemExit(f"{name}: {side.made()} pictures instead of {size}")
    return Row(_WHAT[action].format(size), seconds["ours"], "a trivial workflow", seconds["floor"], BAR)


def _measure_edit(size: int, rounds: int) -> Row:
    """What an edited picture costs beyond Snakemake's look at all of them. The two kinds of run take turns."""
    with tempfile.TemporaryDirectory() as temporary:
        ours = Ours(Path(temporary, "ours"), size)
        with ours.engine():
            ours.finish()
            run_command(ours.command("results/"))
            texts = (f"another prompt, {i}" for i in itertools.count())
            commands = dict.fromkeys(("unchanged", "edited"), ours.command("results/"))
            seconds = measure(
                commands, rounds, before=lambda name: ours.edit(next(texts)) if name == "edited" else None
            )
    pairs = zip(seconds["edited"].rounds, seconds["unchanged"].rounds, strict=True)
    beyond = Median(edited - unchanged for edited, unchanged in pairs)
    return Row(f"one of {size:,} pictures edited, beyond no change", beyond, "the bar's three seconds", BEYOND_BAR_S, 1)


def _watch(size: int, rounds: int) -> Row:
    """What a run's numbers and its page while pictures are made add to it."""
    with tempfile.TemporaryDirectory() as temporary:
        ours = Ours(Path(temporary, "ours"), size)
        commands = {"watched": ours.command("results/"), "alone": ours.command("--no-hooks", "results/")}
        with ours.engine():
            seconds = measure(commands, rounds, before=lambda _: ours.clear())
    what = f"{size:,} pictures with numbers and a page on the way"
    return Row(what, seconds["watched"], "the same without", seconds["alone"], WATCHED_BAR)


def _compare_jobs(size: int, early: int, late: int, span: int) -> Row:
    """In one run, because a long one is compared with itself."""
    with tempfile.TemporaryDirectory() as temporary:
        ours = Ours(Path(temporary, "ours"), size)
        with ours.engine():
            ours.clear()
            command = ours.command("results/")
            with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
                first, second = (_seconds_a_job(run, ours, place, span) for place in (early, late))
            if run.returncode:
                raise SystemExit(f"{' '.join(command)} failed")
    what = f"job {late:,} of {size:,} pictures, processor time"
    return Row(what, second, f"job {early:,}", first, 1.3)


def _seconds_a_job(run: subprocess.Popen[bytes], ours: Ours, place: int, span: int) -> float:
    """Processor seconds of a run's main process for a picture, between `span` pictures before and behind a place."""
    marks = []
    for wanted in (place - span, place + span):
        while (made := ours.made()) < wanted and run.poll() is None:
            time.sleep(0.2)
        fields = Path(f"/proc/{run.pid}/stat").read_text().rpartition(")")[2].split()
        marks.append((made, (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")))
    (made, seconds), (made_later, seconds_later) = marks
    return (seconds_later - seconds) / (made_later - made)


def _wait_for_engine(seconds: float, bar: float, rounds: int) -> Row:
    """How much longer pictures take than their engine."""
    with tempfile.TemporaryDirectory() as temporary:
        ours = Ours(Path(temporary, "ours"), ENGINE_PICTURES)
        taken = []
        with ours.engine(seconds):
            for _ in range(rounds):
                ours.clear()
                run_command(ours.command("results/"))
                taken.append(ours.seconds_between())
                print(f"  ours: {taken[-1]:.2f} s", flush=True)
    what = f"{ENGINE_PICTURES} pictures of {1000 * seconds:g} ms, after the first"
    alone = (ENGINE_PICTURES - 1) * seconds
    return Row(what, Median(taken), "the engine alone", alone, bar)


def _read_sheets(size: int, rounds: int) -> Row:
    """In a process of its own, without the imports."""
    code = """
import os, sys, time
from darkroom.config import load_config
from darkroom.sheets.read import load_pictures
os.chdir(sys.argv[1])
config = load_config("config/config.yaml")
begun = time.perf_counter()
load_pictures(config)
print(time.perf_counter() - begun)
"""
    with tempfile.TemporaryDirectory() as temporary:
        make_project(Path(temporary, "ours"), size)
        command = [sys.executable, "-c", code, str(Path(temporary, "ours"))]
        seconds = Median(float(run_command(command)) for _ in range(rounds))
    return Row(f"reading sheets of {size:,} pictures", seconds, "the bar's second", SHEETS_BAR_S, 1)


def run_command(command: Sequence[str]) -> str:
    """What a command prints; ends the measurement if it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}")
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=CASES, default=CASES)
    arguments = parser.parse_args()
    for row in run(arguments.rounds, arguments.only):
        print(f"{row.what}: {row.ours_s:.2f} s, {row.reference} {row.reference_s:.2f} s, ratio {row.ratio:.2f}")


if __name__ == "__main__":
    main()
