"""A SLURM for the session, and working folders whose runs go through it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.project import ClusterProject, make_sheet
from tests.cluster.slurm import Slurm, missing_programs, running_slurm
from tests.workflow.project import Project


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    if missing := missing_programs():
        pytest.skip(f"no SLURM here: {', '.join(missing)} missing (Debian: slurm-wlm and munge)")
    with running_slurm() as slurm:
        yield slurm


@pytest.fixture(scope="session")
def prepared(slurm: Slurm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterProject]:
    """A project whose model is converted and verified, without pictures. Not to be changed: take `project`."""
    here = Project(tmp_path_factory.mktemp("prepared"), is_real=True)  # without the cluster
    here.set_up(make_sheet(1), "models/verified/tiny.json")
    yield ClusterProject(here.folder, here.runtime, slurm=slurm)
    here.close()


@pytest.fixture
def project(prepared: ClusterProject, tmp_path: Path) -> Iterator[ClusterProject]:
    """A copy of the prepared project. After a test that failed, too, the next one finds the cluster as it was."""
    project = prepared.copy(tmp_path / "project")
    yield project
    project.slurm.clear()
    project.close()
