"""A study's table with a real Snakemake: when it is made, what an edit measures again, and that damage is found."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.workflow.project import STUDY_SHEET, Project

CELLS = {f"sailor.age-{age}.cfg_scale-{cfg}-1" for age in ("young", "old") for cfg in (3, 8)}


def table(project: Project) -> list[dict[str, str]]:
    with (project.results / "first/study.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def measured(project: Project) -> str:
    """What the last job said: `N pictures, M of them measured`."""
    return (project.folder / "logs/gallery/first.study.log").read_text().splitlines()[-1].partition(": ")[2]


def test_a_study_gets_a_table_and_another_sheet_none(finished_study: Project) -> None:
    rows = table(finished_study)
    assert [Path(row["file"]).stem for row in rows] == [
        "sailor.age-young.cfg_scale-3-1",
        "sailor.age-young.cfg_scale-8-1",
        "sailor.age-old.cfg_scale-3-1",
        "sailor.age-old.cfg_scale-8-1",
    ]
    assert [(row["age"], row["cfg_scale"]) for row in rows[1:3]] == [("young", "8"), ("old", "3")]
    assert not (finished_study.results / "plain/study.csv").exists()
    assert not (finished_study.results / "thumbnails/plain/_measures.json").exists()
    entries = [json.loads(line) for line in (finished_study.results / "manifest.jsonl").read_text().splitlines()]
    assert {row["sha256"] for row in rows} == {entry["sha256"] for entry in entries if entry["sheet"] == "first"}


def test_only_cells_that_are_new_or_compared_with_new_ones_are_measured(study: Project) -> None:
    study.write("prompts/first.yaml", STUDY_SHEET.replace("[3, 8]", "[3, 8, 9]"))
    study.make()
    assert measured(study) == "6 pictures, 2 of them measured"
    assert len(table(study)) == 6
    study.write(
        "prompts/first.yaml",
        STUDY_SHEET.replace("  cfg_scale: [3, 8]\n", "  cfg_scale: [3, 8]\nexclude: [{age: old, cfg_scale: 8}]\n"),
    )
    study.make()
    assert measured(study) == "3 pictures, 0 of them measured"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize("damage", [cut, Path.unlink])
@pytest.mark.parametrize("path", ["first/study.csv", "thumbnails/first/_measures.json"])
def test_a_damaged_table_is_made_again(path: str, damage: Callable[[Path], None], study: Project) -> None:
    before = (study.results / path).read_bytes()
    damage(study.results / path)
    study.make(*(["results/first/study.csv"] if damage is cut else []))
    assert (study.results / path).read_bytes() == before
    again = "0" if path.endswith(".csv") else "4"
    assert measured(study) == f"4 pictures, {again} of them measured"
    assert "Nothing to be done" in study.make()


def test_the_target_of_a_sheet_makes_its_table_too(study: Project) -> None:
    (study.results / "first/study.csv").unlink()
    study.make("results/first/")
    assert len(table(study)) == 4
