"""A project that an earlier revision finished has nothing to do after an update that changes no picture.

Snakemake runs a job again whose rule's shell text, params, inputs or environment differ from its record. So this fails
if any of them changed, if a receipt of before can't be read any more, or if a conversion gives other bytes. Where that
is meant, raise the stage's number in `darkroom.revisions`, say so in the changelog, and replace the archive as
`tests/fixtures/project_before.py` says.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.project_before import unpack
from tests.workflow.project import Project

NOTHING = "Nothing to be done"


@pytest.fixture
def before(tmp_path: Path) -> Iterator[Project]:
    project = unpack(tmp_path)
    yield project
    project.close()


def test_a_project_of_an_earlier_revision_gets_its_gallery_again_and_nothing_else(before: Project) -> None:
    """In a dry run, which trusts the files' times, and in a run that first inspects the models folder."""
    pictures = before.pictures()
    assert len(pictures) == 9
    for arguments in (["results/", "models/", "--dry-run"], ["results/", "models/"]):
        done = before.run(*arguments)
        assert done.returncode == 0, done.stdout
        assert "build_gallery 1 results/ 1 total 2 " in " ".join(done.stdout.split()), done.stdout
    assert before.pictures() == pictures
    assert NOTHING in before.run("results/", "models/").stdout


def test_one_more_prompt_renders_one_picture(before: Project) -> None:
    """The test of the test: the records are read, and what is missing is made."""
    before.write("prompts/lines.txt", "a blue ring\na pink heart\n")
    done = before.run("results/", "--dry-run")
    assert NOTHING not in done.stdout
    assert "render lines/tiny/a-pink-heart" in done.stdout
    assert "render first/" not in done.stdout and "convert " not in done.stdout
