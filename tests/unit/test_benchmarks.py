"""The table of docs/explanation/benchmarks.md: each row says how far its rounds lie apart and what else the machine did."""

from __future__ import annotations

from dataclasses import replace

import pytest

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
