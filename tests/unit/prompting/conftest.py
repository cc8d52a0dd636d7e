from __future__ import annotations

from typing import Any

import pytest

from tests.unit.prompting.encoders import make_encoders, make_tokenizers


@pytest.fixture(scope="session")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    return make_tokenizers(tmp_path_factory.mktemp("tokenizers"))


@pytest.fixture(scope="session")
def encoders() -> tuple[Any, Any]:
    return make_encoders()
