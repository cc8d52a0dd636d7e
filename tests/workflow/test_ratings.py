"""Sheets that go on with pictures people chose, with a real Snakemake: a rating renders what it chooses and nothing else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.workflow.project import Project

SHEET = "prompts: [{id: cat, prompt: a cat, seeds: [1, 2, 3]}]\naxes: {cfg: {cfg_scale: [3]}}\n"
CHOSEN = """\
prompts:
  - {from: {sheet: first, rating: ">=4"}, then: [{upscale: {scale: 2}}]}
"""
HEAD = "picture,rating,against,note\n"


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    with Project(tmp_path / "project") as project:
        project.folder.mkdir()
        project.set_up(SHEET)
        yield project


def darkroom(project: Project, *arguments: str) -> str:
    command = [sys.executable, "-m", "darkroom.cli", *arguments]
    done = subprocess.run(command, cwd=project.folder, env=project.environment(), capture_output=True, text=True)
    return done.stdout + done.stderr


def rate(project: Project, text: str) -> None:
    project.write("prompts/first.ratings.csv", HEAD + text)


def test_what_people_choose_is_made_again_in_one_run_and_nothing_else_is_rendered(project: Project) -> None:
    project.write("prompts/again.yaml", CHOSEN)
    project.configure(sheets=["prompts/*.*"])
    refused = project.run()
    assert refused.returncode == 2
    assert (
        "E-SHEET sheet 'first': has no ratings to choose by: prompts/first.ratings.csv does not exist" in refused.stdout
    )

    rate(project, "tiny/cat.cfg-3-1,4,,\ntiny/cat.cfg-3-2,2,,\ntiny/gone-1,5,,\n")
    done = project.run()
    assert done.returncode == 0, done.stdout
    gone = "prompts/first.ratings.csv: 1 picture that no sheet asks for now; their ratings are kept: tiny/gone-1"
    assert gone in done.stdout
    made = {name for name in project.pictures() if name.startswith("again/")}
    assert made == {"again/tiny/cat.cfg-3-1.1-upscale.png"}
    assert "Nothing to be done" in project.run().stdout
    # It isn't a study, though its pictures have the labels of those that they go on with.
    assert darkroom(project, "verify", "results") == "4 pictures are whole\n"
    page = (project.results / "index.html").read_text()
    assert "first/study.html" in page and "again/study.html" not in page

    # Only the gallery shows ratings: a note, or a rating that chooses nothing else, renders no picture.
    page = project.results / "index.html"
    before, sheet = page.read_bytes(), (project.results / "first/contact-sheet.png").stat().st_mtime_ns
    rate(project, "tiny/cat.cfg-3-1,5,,fine fur\ntiny/cat.cfg-3-2,2,,\n")
    assert project.rendered_by(project.run) == set()
    assert page.read_bytes() != before
    assert (project.results / "first/contact-sheet.png").stat().st_mtime_ns == sheet
    assert "Nothing to be done" in project.run().stdout

    rate(project, "tiny/cat.cfg-3-2,reject,,\ntiny/cat.cfg-3-3,4,,\n")
    assert project.rendered_by(project.run) == {"again/tiny/cat.cfg-3-3.1-upscale.png"}
    assert "results/again/tiny/cat.cfg-3-1.1-upscale.png\n1 picture that isn't asked for any more" in darkroom(
        project, "prune"
    )

    rate(project, "tiny/cat.cfg-3-2,rejct,,\ntiny/cat.cfg-3-3,9,,\n")
    broken = project.run()
    assert broken.returncode == 2
    for line, value in ((2, "rejct"), (3, "9")):
        assert f"rating '{value}': is neither 1 to 5 nor reject (prompts/first.ratings.csv:{line})" in broken.stdout
