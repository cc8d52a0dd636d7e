"""One random checkpoint and one model folder for all tests of this folder, and copies to damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.fixtures.checkpoints import make_model_dir


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `tiny.safetensors`, `tiny/` and `tiny.audit.json`; not to be changed."""
    folder = tmp_path_factory.mktemp("made")
    make_model_dir(folder)
    return folder


@pytest.fixture(scope="session")
def checkpoint(made: Path) -> Path:
    return made / "tiny.safetensors"


@pytest.fixture
def model(made: Path, tmp_path: Path) -> Path:
    """A model folder of one's own, with its audit."""
    shutil.copytree(made / "tiny", tmp_path / "tiny")
    shutil.copy(made / "tiny.audit.json", tmp_path / "tiny.audit.json")
    return tmp_path / "tiny"
