"""Measure every bar and write the table of docs/explanation/benchmarks.md: `make bench`.

Needs a quiet machine, aria2 and 45 GB of disk, for full-size checkpoints of random numbers and their copies.
"""

from __future__ import annotations

import argparse
import os
import platform
from pathlib import Path

from benchmarks import (
    bench_convert,
    bench_encode,
    bench_fetch,
    bench_gallery,
    bench_pictures,
    bench_replay,
    bench_scale,
    bench_serve,
    bench_stages,
    bench_studies,
    bench_study_page,
    bench_upscale,
)
from benchmarks.measure import ROOT, Row

DOCUMENT = ROOT / "docs/explanation/benchmarks.md"
ROWS = (
    "pictures",
    bench_study_page.NAME,
    *bench_gallery.CASES,
    bench_upscale.CASE,
    *bench_scale.CASES,
    *bench_studies.CASES,
    *bench_serve.CASES,
    *bench_stages.CASES,
    *bench_replay.CASES,
    *(case.name for case in bench_fetch.CASES),
    *(case.name for case in bench_encode.CASES),
    *(case.dtype for case in bench_convert.CASES),
)
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def table(rows: list[Row], rounds: int, kept: list[str]) -> str:
    """The table with these rows, and of the lines `kept` those of other rows, in their old order."""
    lines = {_what(line): line for line in kept}
    for row in rows:
        met = "met" if row.ratio <= row.bar else "**missed**"
        lines[row.what] = (
            f"| {row.what} | {_seconds(row.ours_s)} | {row.reference} | {_seconds(row.reference_s)} "
            f"| {row.ratio:.2f} | {row.bar:g}, {met} | {'; '.join(filter(None, (row.note, f'{rounds} round' + 's' * (rounds > 1))))} |"
        )
    head = ["| what | ours | beside it | | ratio | bar | |", "| --- | --- | --- | --- | --- | --- | --- |"]
    return "\n".join([*head, *lines.values()])


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.1 else f"{seconds:.4f} s"


def _what(line: str) -> str:
    return line.split("|")[1].strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / "build/bench", help="for the full-size checkpoints")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keep", action="store_true", help="keep the full-size checkpoints that are written")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=ROWS, help="measure these, keep the table's others")
    arguments = parser.parse_args()
    # First, since it needs a file from the network: better to know at once if that can't be had.
    rows = bench_encode.run(
        arguments.rounds, cases=[case for case in bench_encode.CASES if case.name in arguments.only]
    )
    if "pictures" in arguments.only:
        rows += bench_pictures.run(arguments.rounds)
    if bench_study_page.NAME in arguments.only:
        rows += bench_study_page.run(arguments.rounds)
    rows += bench_gallery.run(arguments.rounds, [case for case in bench_gallery.CASES if case in arguments.only])
    if bench_upscale.CASE in arguments.only:
        rows += bench_upscale.run(arguments.rounds)
    rows += bench_scale.run(arguments.rounds, [case for case in bench_scale.CASES if case in arguments.only])
    rows += bench_studies.run(arguments.rounds, [case for case in bench_studies.CASES if case in arguments.only])
    rows += bench_fetch.run(arguments.rounds, tuple(case for case in bench_fetch.CASES if case.name in arguments.only))
    served = tuple(case for case in bench_serve.CASES if case in arguments.only)
    rows += bench_serve.run(arguments.rounds, served, arguments.folder / "full/diffusers/full")
    rows += bench_stages.run(arguments.rounds, tuple(case for case in bench_stages.CASES if case in arguments.only))
    rows += bench_replay.run(arguments.rounds, tuple(case for case in bench_replay.CASES if case in arguments.only))
    cases = tuple(case for case in bench_convert.CASES if case.dtype in arguments.only)
    rows += bench_convert.run(arguments.folder, arguments.rounds, keep=arguments.keep, cases=cases)
    head, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    old, _, tail = rest.partition(END)
    kept = [line for line in old.splitlines() if line.startswith("| ") and not line.startswith(("| what", "| ---"))]
    written = table(rows, arguments.rounds, kept)
    machine = f"Medians, on {os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}."
    DOCUMENT.write_text(f"{head}{BEGIN}\n\n{written}\n\n{machine}\n\n{END}{tail}", encoding="utf-8")
    print(written)


if __name__ == "__main__":
    main()
