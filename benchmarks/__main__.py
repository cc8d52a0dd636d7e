"""Measure every bar and write the table of docs/benchmarks.md: `make bench`.

Needs a quiet machine and 45 GB of disk, for full-size checkpoints of random numbers and their copies.
"""

from __future__ import annotations

import argparse
import os
import platform
from pathlib import Path

from benchmarks import bench_convert, bench_nothing_changed, bench_pictures
from benchmarks.measure import ROOT, Row

DOCUMENT = ROOT / "docs/benchmarks.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def table(rows: list[Row]) -> str:
    lines = ["| what | ours | beside it | | ratio | bar | |", "| --- | --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        met = "met" if row.ratio <= row.bar else "**missed**"
        lines.append(
            f"| {row.what} | {row.ours_s:.2f} s | {row.reference} | {row.reference_s:.2f} s "
            f"| {row.ratio:.2f} | {row.bar:g}, {met} | {row.note} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / "build/bench", help="for the full-size checkpoints")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", action="store_true", help="keep the full-size checkpoints that are written")
    arguments = parser.parse_args()
    rows = bench_nothing_changed.run(arguments.rounds + 2)
    rows += bench_pictures.run(arguments.rounds)
    rows += bench_convert.run(arguments.folder, arguments.rounds, keep=arguments.keep)
    machine = f"Medians of {arguments.rounds} rounds or more on {os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}."
    text = DOCUMENT.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    DOCUMENT.write_text(
        f"{head}{BEGIN}\n\n{table(rows)}\n\n{machine}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8"
    )
    print(table(rows))


if __name__ == "__main__":
    main()
