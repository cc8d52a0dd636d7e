"""A study's page with a real Snakemake: when it is made, that damage is found, and that other sheets have none."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from darkroom.pictures.records import read_study_seal
from tests.workflow.project import Project

PAGE = "first/study.html"


def verify(project: Project) -> str:
    command = [sys.executable, "-m", "darkroom.cli", "verify", "results"]
    return subprocess.run(command, cwd=project.folder, capture_output=True, text=True).stdout


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def test_a_study_gets_a_page_that_the_gallery_links_and_another_sheet_none(finished_study: Project) -> None:
    assert read_study_seal((finished_study.results / PAGE).read_bytes()) is not None
    assert not (finished_study.results / "plain/study.html").exists()
    index = (finished_study.results / "index.html").read_text()
    assert index.count('"first/study.html"') == 1
    assert "plain/study.html" not in index


def test_a_second_run_does_nothing(study: Project) -> None:
    assert "Nothing to be done" in study.make()


@pytest.mark.parametrize(
    "damage", [Path.unlink, flip, pytest.param(empty, marks=pytest.mark.full)], ids=["deleted", "flipped", "emptied"]
)
def test_a_damaged_page_is_made_again_and_nothing_else(study: Project, damage: Callable[[Path], None]) -> None:
    page = study.results / PAGE
    before, table = page.read_bytes(), study.results / "first/study.csv"
    measured = table.stat().st_mtime_ns
    damage(page)
    assert str(Path("results", PAGE)) in verify(study)
    assert study.rendered_by(study.run) == set()
    assert page.read_bytes() == before
    assert table.stat().st_mtime_ns == measured
    assert str(Path("results", PAGE)) not in verify(study)
    assert "Nothing to be done" in study.make()


@pytest.mark.full
def test_the_page_follows_its_pictures(study: Project) -> None:
    page = study.results / PAGE
    before = page.read_bytes()
    text = study.folder.joinpath("prompts/first.yaml").read_text()
    study.write("prompts/first.yaml", text.replace("[3, 8]", "[3, 5, 8]"))
    study.make()
    assert page.read_bytes() != before
    assert '"labels":["3","5","8"]' in page.read_text()
    study.write("prompts/first.yaml", text)
    study.make()
    assert '"labels":["3","8"]' in page.read_text()


@pytest.mark.full
def test_after_a_failed_run_the_page_shows_what_is_there_and_the_next_run_replaces_it(study: Project) -> None:
    text = study.folder.joinpath("prompts/first.yaml").read_text()
    study.write("prompts/first.yaml", text.replace("cfg_scale: [3, 8]", "clip_skip: [2, 9]"))
    failed = study.run("--keep-going", "results/")
    assert failed.returncode != 0
    assert "results/first/study.html: 2 pictures, 2 missing" in failed.stdout
    assert '"cells":4' in (study.results / PAGE).read_text()
    study.write("prompts/first.yaml", text.replace("cfg_scale: [3, 8]", "clip_skip: [2]"))
    study.make()
    assert '"cells":2' in (study.results / PAGE).read_text()
    assert "Nothing to be done" in study.make()


@pytest.mark.full
def test_each_target_makes_what_it_shows(study: Project) -> None:
    shutil.rmtree(study.results)
    study.make("results/first/study.html")
    assert (study.results / PAGE).exists() and not (study.results / "index.html").exists()
    (study.results / PAGE).unlink()
    study.make("results/index.html")
    assert (study.results / PAGE).exists()
    (study.results / PAGE).unlink()
    study.make("results/first/")
    assert (study.results / PAGE).exists()


@pytest.mark.full
def test_there_is_no_page_of_a_sheet_that_is_no_study(study: Project) -> None:
    done = study.run("results/plain/study.html")
    assert done.returncode != 0
    assert not (study.results / "plain/study.html").exists()


@pytest.mark.full
def test_the_page_goes_with_the_last_picture_of_its_sheet(study: Project) -> None:
    study.configure(sheets=["prompts/plain.yaml"])
    command = [sys.executable, "-m", "darkroom.cli", "prune", "--yes"]
    subprocess.run(command, cwd=study.folder, check=True, capture_output=True)
    assert not (study.results / "first").exists()
    assert len(list((study.results / ".trash").glob("*/first/study.html"))) == 1


STAGED = """\
defaults: {then: [{upscale: {scale: 1.5}}]}
prompts:
  - {id: cat, prompt: a cat, seeds: [1]}
axes:
  size: {then.upscale.scale: [1.5, 2]}
  cfg_scale: [3, 8]
"""


def test_a_study_over_a_stage_shows_its_last_pictures(tmp_path: Path) -> None:
    """First passes are shared between its cells, and are no cells; a run after it has nothing to do."""
    with Project(tmp_path / "staged") as project:
        project.set_up(STAGED)
        assert len(project.pictures()) == 6
        rows = [line.split(",") for line in (project.results / "first/study.csv").read_text().splitlines()]
        files = [row[rows[0].index("file")] for row in rows[1:]]
        assert len(files) == 4
        assert all(file.endswith(".1-upscale.png") for file in files)
        assert (project.results / "first/grid.png").exists()
        assert read_study_seal((project.results / PAGE).read_bytes()) is not None
        assert "Nothing to be done" in project.make()
        assert verify(project).count("6 pictures") == 1
