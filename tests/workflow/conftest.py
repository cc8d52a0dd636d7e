"""One finished run that the tests copy, so that each begins where a user would: with everything made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.workflow.project import DEMO_SHEET, STUDY_SHEET, Project


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A project after its first run. Not to be changed: take `project`."""
    with Project(tmp_path_factory.mktemp("finished")) as project:
        project.set_up(DEMO_SHEET)
        yield project


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Iterator[Project]:
    """A copy of the finished project, to edit and run again."""
    with finished.copy(tmp_path / "project") as project:
        yield project


@pytest.fixture
def empty(tmp_path: Path, finished: Project) -> Iterator[Project]:
    """A project with a checkpoint and a sheet, where nothing was made yet."""
    with Project(tmp_path / "empty") as project:
        project.folder.mkdir()
        project.checkpoint.hardlink_to(finished.checkpoint)
        project.configure()
        project.write("prompts/first.yaml", DEMO_SHEET)
        yield project


@pytest.fixture(scope="session")
def finished_study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A finished study of four cells, and a sheet that is none. Not to be changed: take `study`."""
    with Project(tmp_path_factory.mktemp("study")) as project:
        project.write("prompts/plain.yaml", "- {id: star, prompt: a green star}\n")
        project.set_up(STUDY_SHEET, sheets=["prompts/first.yaml", "prompts/plain.yaml"])
        yield project


@pytest.fixture
def study(finished_study: Project, tmp_path: Path) -> Iterator[Project]:
    """A copy of the finished study, to edit and run again."""
    with finished_study.copy(tmp_path / "project") as project:
        yield project
