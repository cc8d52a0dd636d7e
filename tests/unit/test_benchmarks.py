"""The tables of benchmarks: rows say how far their rounds lie apart and what else the machine did; a GPU's parts go on."""

from __future__ import annotations

import json
import os
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import bench_gpu
from benchmarks.__main__ import check_quiet, table
from benchmarks.compare import describe
from benchmarks.measure import Median, Row

ROW = Row("ready", Median([1.4, 1.0, 1.2, 1.1, 9.0]), "imports", Median([1.0, 1.1, 0.9, 1.0, 1.0]), 1.3, "a note", 0.04)


def test_a_row_has_medians_their_spread_the_rounds_and_the_load() -> None:
    line = table([ROW], []).splitlines()[-1]
    assert line.startswith("| ready | 1.20 s (1.00 to 9.00) | imports | 1.00 s (0.90 to 1.10) | 1.20 | 1.3, met | ")
    assert "a note; 5 rounds, others used 0.0 of " in line


def test_a_row_replaces_its_own_line_and_no_other() -> None:
    kept = ["| ready | old | | | | | |", "| encode | old | | | | | |"]
    lines = table([replace(ROW, bar=1.1)], kept).splitlines()[2:]
    assert len(lines) == 2
    assert "**missed**" in lines[0]
    assert lines[1] == kept[1]


def test_seconds_without_their_rounds_make_no_row() -> None:
    with pytest.raises(TypeError, match="the seconds of 'ready' are no Median"):
        replace(ROW, ours_s=1.2)


def test_a_busy_machine_measures_nothing_unless_it_may() -> None:
    check_quiet(0.05, may_be_busy=False)
    check_quiet(1.6, may_be_busy=True)
    with pytest.raises(SystemExit, match=r"other processes use 1\.6 of .*--busy"):
        check_quiet(1.6, may_be_busy=False)


def test_two_commits_are_compared_round_by_round() -> None:
    line = describe("stage", {"old": [1.0, 2.0, 4.0], "new": [0.9, 1.0, 4.4]})
    assert line == "stage: old 2 s, new 1 s, ratio 0.900 (0.500 to 1.100)"
    assert describe("new row", {"old": [], "new": [1.0]}) == "new row: not measured on both"


def test_a_part_on_a_gpu_ends_in_time_with_all_it_started(tmp_path: Path) -> None:
    """What it started would keep the GPU from the next part."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    command = ["sh", "-c", 'exec 3> "$1"; sleep 1000 & echo begun >&3; wait', "sh", str(pipe)]
    assert bench_gpu.run_limited(command, 2) == "took more than 2 s"
    os.set_blocking(reader, True)
    assert os.read(reader, 100) == b"begun\n"
    assert os.read(reader, 100) == b"", "nobody has the pipe open any more"
    os.close(reader)
    assert bench_gpu.run_limited(["sh", "-c", "exit 3"], 60) == "ended with 3"
    assert bench_gpu.run_limited(["true"], 60) == ""


def test_parts_on_a_gpu_that_failed_or_ended_early_are_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def line(part: str, **more: object) -> dict[str, object]:
        return {"part": part, "device": "cuda", **more}

    good = [line("speed", what="8 steps", seconds=1.5, edge=1024), line("speed", is_done=True, machine="A GPU")]
    bad = [line("tests", what="tests", passed=False, summary="1 failed"), line("tests", is_done=True)]
    early = [line("offload", what="8 steps", seconds=9)]
    other = [line("large", device="cpu", is_done=True)]
    results = tmp_path / "results.jsonl"
    results.write_text("".join(json.dumps(each) + "\n" for each in [*bad, *good, *early, *other]))
    tried: list[str] = []

    def run(command: list[str], limit_s: float) -> str:
        tried.append(command[command.index("--part") + 1])
        return "took more than 50 s" if tried[-1] == "offload" else ""

    monkeypatch.setattr(bench_gpu, "run_limited", run)
    bench_gpu._run_parts(Namespace(again=False, results=results, device="cuda", model=tmp_path))
    assert tried == [part.name for part in bench_gpu.PARTS if part.name != "speed"]
    failed = line("offload", what="offload", passed=False, summary="took more than 50 s")
    assert bench_gpu._read(results) == [*good, *other, failed]

    document = tmp_path / "gpu.md"
    document.write_text(f"before\n{bench_gpu.BEGIN}\nNot measured yet.\n{bench_gpu.END}\nafter\n")
    bench_gpu.write_table(document, [*good, failed])
    text = document.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "Not measured" not in text
    assert "A GPU." in text and "- offload: took more than 50 s" in text and "| 8 steps | 1024 | 1.5 |" in text
