"""A run of Snakemake whose processes are killed at random moments; the same command goes on after each.

The soak has the rest: `make soak`. Its seed decides what is killed at which kind of moment; `DARKROOM_KILL_SEED` gives another one.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.soak_kills import soak
from tests.workflow.project import Project


@pytest.mark.parametrize(("is_real", "pictures", "kills"), [(False, 40, 12), (True, 12, 4)], ids=["stand-in", "real"])
def test_whatever_is_killed_the_same_command_goes_on(is_real: bool, pictures: int, kills: int, tmp_path: Path) -> None:
    seed = int(os.environ.get("DARKROOM_KILL_SEED", "1"))
    undisturbed = Project(tmp_path / "undisturbed", is_real=is_real)
    with undisturbed, Project(tmp_path / "disturbed", is_real=is_real) as disturbed:
        found = soak(undisturbed, disturbed, pictures, kills, seed=seed)
    assert found.struck.total() == kills
    assert found.wrong == []
