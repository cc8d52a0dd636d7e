"""Rows by the code of two commits, in turn: this benchmark in a work tree of each."""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.measure import ROOT, Median, processors_of_others


def compare(revisions: Sequence[str], only: Sequence[str], rounds: int, folder: Path) -> None:
    """Print each row's medians and the ratio of the second's seconds to the first's, round by round.

    One revision is compared with the working tree; `folder` holds the full-size checkpoints. Raises SystemExit for a
    revision that git doesn't know, or on which a row can't be measured.
    """
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that no work tree stays behind
    seconds: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as temporary, _trees(revisions, Path(temporary)) as trees:
        for number in range(rounds):
            for name, tree in list(trees.items())[:: -1 if number % 2 else 1]:
                for what, measured in _measure(tree, only, folder).items():
                    seconds.setdefault(what, {}).setdefault(name, []).append(measured)
                    print(f"  {what}, {name}: {measured:.4g} s", flush=True)
        others = processors_of_others()
        for what, of_trees in seconds.items():
            print(describe(what, {name: of_trees.get(name, []) for name in trees}))
    print(f"{rounds} rounds in turn; others used {others:.1f} of {os.cpu_count()} processors at the end")


def describe(what: str, seconds: dict[str, list[float]]) -> str:
    """A row's line: both medians, and the median of the rounds' ratios with the least and the most."""
    if not all(seconds.values()):
        return f"{what}: not measured on both"
    (first, before), (second, after) = seconds.items()
    ratios = [new / old for old, new in zip(before, after, strict=True)]
    sides = f"{first} {Median(before):.4g} s, {second} {Median(after):.4g} s"
    return f"{what}: {sides}, ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


@contextmanager
def _trees(revisions: Sequence[str], folder: Path) -> Iterator[dict[str, Path]]:
    """A work tree for each revision, with today's benchmarks in it; beside a single one stands the working tree itself."""
    trees = {revision: folder / str(number) for number, revision in enumerate(revisions)}
    try:
        for revision, tree in trees.items():
            _git("worktree", "add", "--detach", str(tree), revision)
            shutil.rmtree(tree / "benchmarks", ignore_errors=True)
            shutil.copytree(ROOT / "benchmarks", tree / "benchmarks")
        yield trees if len(trees) > 1 else {**trees, "working tree": ROOT}
    finally:
        for tree in trees.values():
            if tree.exists():
                _git("worktree", "remove", "--force", str(tree))


def _git(*arguments: str) -> None:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr.strip())


def _measure(tree: Path, only: Sequence[str], folder: Path) -> dict[str, float]:
    """One round of the rows by the code of that tree: each row's own seconds."""
    command = [sys.executable, "-m", "benchmarks", "--json", "--rounds", "1", "--folder", str(folder), "--only", *only]
    environment = {**os.environ, "PYTHONPATH": str(tree / "workflow")}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"the rows can't be measured in {tree}:\n{done.stdout}{done.stderr}")
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {what: seconds for row in rows for what, seconds in row.items()}
