"""Measure every bar and write the table of docs/explanation/benchmarks.md: `make bench`.

    python -m benchmarks [--only ROW ...] [--busy] [--rounds N]
    python -m benchmarks --compare REV [REV] [--only ROW ...]

Needs aria2 and 45 GB of disk, for full-size checkpoints of random numbers and their copies, and a machine that nothing else uses:
a row that other processes may have slowed is not written, unless `--busy` says that it may, and then the row says so.

`--compare` measures rows with the code of one commit and of another or of this working tree, in turn, and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks import (
    bench_contention,
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
from benchmarks.compare import compare
from benchmarks.measure import ROOT, Median, Row, processors_of_others

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
    *bench_contention.CASES,
    *(case.name for case in bench_fetch.CASES),
    *(case.name for case in bench_encode.CASES),
    *(case.dtype for case in bench_convert.CASES),
)
LEAST_ROUNDS = 5
QUIET_PROCESSORS = 0.1
"""What other processes may use of all processors together."""
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def table(rows: Sequence[Row], kept: Sequence[str]) -> str:
    """The table with these rows, and of the lines `kept` those of other rows, in their old order."""
    lines = {_what(line): line for line in kept}
    for row in rows:
        met = "met" if row.ratio <= row.bar else "**missed**"
        lines[row.what] = (
            f"| {row.what} | {_seconds(row.ours_s)} | {row.reference} | {_seconds(row.reference_s)} "
            f"| {row.ratio:.2f} | {row.bar:g}, {met} | {'; '.join(filter(None, (row.note, _circumstances(row))))} |"
        )
    head = ["| what | ours | beside it | | ratio | bar | |", "| --- | --- | --- | --- | --- | --- | --- |"]
    return "\n".join([*head, *lines.values()])


def _seconds(seconds: float) -> str:
    """A number of seconds; of a median its rounds' least and most too."""
    digits = 2 if seconds >= 0.1 else 4
    if not isinstance(seconds, Median):
        return f"{seconds:.{digits}f} s"
    return f"{seconds:.{digits}f} s ({min(seconds.rounds):.{digits}f} to {max(seconds.rounds):.{digits}f})"


def _circumstances(row: Row) -> str:
    assert isinstance(row.ours_s, Median)
    count = len(row.ours_s.rounds)
    rounds = f"{count} round" + "s" * (count > 1)
    return rounds if row.others is None else f"{rounds}, others used {row.others:.1f} of {os.cpu_count()} processors"


def _what(line: str) -> str:
    return line.split("|")[1].strip()


def measures(arguments: argparse.Namespace) -> Iterator[Callable[[], list[Row]]]:
    """What measures the chosen rows: each returns those that share what they need."""
    rounds = arguments.rounds

    def chosen(names: Sequence[str]) -> tuple[str, ...]:
        return tuple(name for name in names if name in arguments.only)

    # First, since it needs a file from the network: better to know at once if that can't be had.
    if encoders := [case for case in bench_encode.CASES if case.name in arguments.only]:
        yield lambda: bench_encode.run(rounds, cases=encoders)
    if "pictures" in arguments.only:
        yield lambda: bench_pictures.run(rounds)
    if bench_study_page.NAME in arguments.only:
        yield lambda: bench_study_page.run(rounds)
    if bench_upscale.CASE in arguments.only:
        yield lambda: bench_upscale.run(rounds)
    for bench in (bench_gallery, bench_scale, bench_studies, bench_stages, bench_replay, bench_contention):
        if cases := chosen(bench.CASES):
            yield lambda bench=bench, cases=cases: bench.run(rounds, cases)
    if remotes := tuple(case for case in bench_fetch.CASES if case.name in arguments.only):
        yield lambda: bench_fetch.run(rounds, remotes)
    if served := chosen(bench_serve.CASES):
        yield lambda: bench_serve.run(rounds, served, arguments.folder / "full/diffusers/full")
    if conversions := tuple(case for case in bench_convert.CASES if case.dtype in arguments.only):
        yield lambda: bench_convert.run(arguments.folder, rounds, keep=arguments.keep, cases=conversions)


def write(rows: Sequence[Row]) -> None:
    """Put the rows into the document's table, which keeps its others."""
    head, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    old, _, tail = rest.partition(END)
    kept = [line for line in old.splitlines() if line.startswith("| ") and not line.startswith(("| what", "| ---"))]
    machine = f"Medians, with the least and the most, on {os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}."
    DOCUMENT.write_text(f"{head}{BEGIN}\n\n{table(rows, kept)}\n\n{machine}\n\n{END}{tail}", encoding="utf-8")


def check_quiet(others: float, *, may_be_busy: bool) -> None:
    """Raise SystemExit if other processes use the machine, unless they may."""
    if others > QUIET_PROCESSORS and not may_be_busy:
        raise SystemExit(
            f"other processes use {others:.1f} of {os.cpu_count()} processors: a row measured now can't be trusted. "
            "Hint: end them, or add --busy, which the row will say."
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "build/bench", help="for the full-size checkpoints")
    parser.add_argument("--rounds", type=int, default=LEAST_ROUNDS, help=f"at least {LEAST_ROUNDS}")
    parser.add_argument("--keep", action="store_true", help="keep the full-size checkpoints that are written")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=ROWS, help="measure these, keep the table's others")
    parser.add_argument("--busy", action="store_true", help="measure although other processes use the machine")
    parser.add_argument("--compare", nargs="+", metavar="REV", help="a commit with this working tree, or two commits")
    parser.add_argument("--json", action="store_true", help="print the rounds of each row, and write nothing")
    arguments = parser.parse_args()
    if arguments.compare and len(arguments.compare) > 2:
        parser.error("--compare takes one commit or two")
    if arguments.rounds < LEAST_ROUNDS and not arguments.json:
        parser.error(f"a row is the median of at least {LEAST_ROUNDS} rounds, not {arguments.rounds}")
    if not arguments.json:
        check_quiet(processors_of_others(), may_be_busy=arguments.busy)
    if arguments.compare:
        compare(arguments.compare, arguments.only, arguments.rounds, arguments.folder)
        return
    for measured in measures(arguments):
        before = 0.0 if arguments.json else processors_of_others()
        rows = measured()
        if arguments.json:
            print(json.dumps({row.what: row.ours_s for row in rows}), flush=True)
            continue
        others = max(before, processors_of_others())
        check_quiet(others, may_be_busy=arguments.busy)
        rows = [replace(row, others=others) for row in rows]
        write(rows)
        print(table(rows, []), flush=True)


if __name__ == "__main__":
    main()
