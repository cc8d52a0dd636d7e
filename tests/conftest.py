"""What many tests share: a model folder of random weights in the demo's architecture."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixtures.checkpoints import make_model_dir


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted model with its audit beside it. Not to be changed: copy it first."""
    return make_model_dir(tmp_path_factory.mktemp("model"))
