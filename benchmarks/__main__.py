"""Measure every bar and write the table of docs/benchmarks.md: `make bench`.

Needs a quiet machine and 25 GB of disk, for a full-size checkpoint of random numbers and its copies.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from pathlib import Path

from benchmarks import bench_convert, bench_nothing_changed, bench_pictures
from benchmarks.measure import ROOT, Row

DOCUMENT = ROOT / "docs/benchmarks.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def convert_rows(folder: Path, rounds: int) -> list[Row]:
    checkpoint = folder / "sdxl-random.safetensors"
    if not checkpoint.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, ROOT / "benchmarks/full_size_checkpoint.py", checkpoint], check=True)
    scratch = folder / "bench-convert"
    scratch.mkdir(exist_ok=True)
    figures = bench_convert.measure(checkpoint, scratch, rounds)
    note = f"peak memory {figures['peak_memory_mb']:.0f} MB (bar 256 MB)"
    what = f"convert {figures['bytes'] / 1e9:.2f} GB, fp16 to fp16"
    return [Row(what, figures["convert_s"], "`cp` and fsync", figures["cp_fsync_s"], 1.5, note)]


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
    parser.add_argument("--folder", type=Path, default=ROOT / "build/bench", help="for the full-size checkpoint")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    rows = bench_nothing_changed.run(arguments.rounds + 2)
    rows += bench_pictures.run(arguments.rounds)
    rows += convert_rows(arguments.folder, arguments.rounds)
    machine = f"Medians of {arguments.rounds} rounds or more on {os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}."
    text = DOCUMENT.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    DOCUMENT.write_text(
        f"{head}{BEGIN}\n\n{table(rows)}\n\n{machine}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8"
    )
    print(table(rows))


if __name__ == "__main__":
    main()
