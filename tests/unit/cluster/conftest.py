"""A working folder where a scheduler's commands are stand-ins."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.unit.cluster.commands import Commands


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Commands on the PATH, in an empty working folder."""
    folder, work = tmp_path / "bin", tmp_path / "work"
    folder.mkdir()
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("PATH", os.pathsep.join([str(folder), os.environ["PATH"]]))
    return Commands(folder)
