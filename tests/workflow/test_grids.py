"""The grids of studies with a real Snakemake: when they are drawn, from what, and after a run that failed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from darkroom.pictures.formats import PNG
from tests.workflow.project import Project

SHEET = """\
defaults: {seeds: [1]}
prompts:
  - {id: sailor, prompt: "a ${age} sailor"}
axes:
  age: [young, old]
  cfg_scale: [4, 8]
  steps: [2, 3]
grid: {rows: age, columns: cfg_scale}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A finished study of two grids. Not to be changed: take `study`."""
    with Project(tmp_path_factory.mktemp("grids")) as project:
        project.set_up(SHEET)
        yield project


@pytest.fixture
def study(made: Project, tmp_path: Path) -> Iterator[Project]:
    with made.copy(tmp_path / "project") as project:
        yield project


def grids(project: Project) -> dict[str, int]:
    """When each grid was written."""
    return {path.name: path.stat().st_mtime_ns for path in project.results.glob("first/grid*.png")}


def width_of(path: Path) -> int:
    with Image.open(path) as image:
        return image.width


def redrawn(project: Project, *changes: tuple[str, str]) -> set[str]:
    """The grids that a run draws after these replacements in the sheet; it must succeed."""
    text = project.folder.joinpath("prompts/first.yaml").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    project.write("prompts/first.yaml", text)
    before = grids(project)
    done = project.run()
    assert done.returncode == 0, done.stdout
    return {name for name, when in grids(project).items() if before.get(name) != when}


def test_a_run_draws_the_grids_and_a_second_one_nothing(study: Project) -> None:
    assert set(grids(study)) == {"grid.png", "grid.steps-3.png"}
    path = study.results / "first/grid.steps-3.png"
    settings = PNG.read_text(path.read_bytes(), path)["parameters"]
    assert 'Script: X/Y/Z plot, X Type: CFG Scale, X Values: "4,8", Y Type: age, Y Values: "young,old"' in settings
    assert "Z Type: Steps, Z Values: 3" in settings
    done = study.run()
    assert "Nothing to be done" in done.stdout, done.stdout


def test_only_the_grids_that_show_a_change_are_drawn_again(study: Project) -> None:
    assert redrawn(study, ("[2, 3]", "[2, 4]")) == {"grid.steps-4.png"}
    assert redrawn(study, ("age: [young, old]", "age: [old, young]")) == {"grid.png", "grid.steps-4.png"}
    listed = subprocess.run(
        [sys.executable, "-m", "darkroom.cli", "prune", "--yes"],
        cwd=study.folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "results/first/grid.steps-3.png" in listed.stdout.splitlines()
    assert set(grids(study)) == {"grid.png", "grid.steps-4.png"}
    assert redrawn(study) == set()


def test_a_damaged_and_a_deleted_grid_are_drawn_again(study: Project) -> None:
    first = study.results / "first/grid.png"
    first.write_bytes(first.read_bytes()[:-100])
    (study.results / "first/grid.steps-3.png").unlink()
    assert redrawn(study) == {"grid.png", "grid.steps-3.png"}
    assert redrawn(study) == set()


def test_after_a_failed_run_a_grid_shows_what_is_there_and_the_next_run_replaces_it(study: Project) -> None:
    sheet = study.folder.joinpath("prompts/first.yaml").read_text()
    study.write("prompts/first.yaml", sheet.replace("cfg_scale", "clip_skip").replace("[4, 8]", "[2, 9]"))
    failed = study.run("--keep-going", "results/")
    assert failed.returncode != 0
    assert "results/first/grid.png: 2 of 4 pictures missing" in failed.stdout
    path = study.results / "first/grid.png"
    assert "X Type: Clip skip" in PNG.read_text(path.read_bytes(), path)["parameters"]
    width = width_of(path)
    assert redrawn(study, ("[2, 9]", "[2]")) == {"grid.png", "grid.steps-3.png"}
    assert width_of(path) < width
    assert redrawn(study) == set()


@pytest.mark.full
def test_a_failed_run_without_keep_going_leaves_a_grid_too(study: Project) -> None:
    sheet = study.folder.joinpath("prompts/first.yaml").read_text()
    study.write("prompts/first.yaml", sheet.replace("cfg_scale: [4, 8]", "cfg_scale: [4, 8]\n  clip_skip: [~, 9]"))
    failed = study.run("results/")
    assert failed.returncode != 0
    assert redrawn(study, ("[~, 9]", "[~, 3]"))
    assert redrawn(study) == set()
