"""One finished run that the tests copy, so that each begins where a user would: with everything made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.workflow.project import DEMO_SHEET, Project


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
