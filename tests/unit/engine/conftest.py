from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from darkroom.engine import Engine
from darkroom.request.render_request import RenderRequest

REQUEST = RenderRequest(prompt="a (red:1.2) fox", negative_prompt="blurry", width=64, height=64, steps=3, seed=7)


@pytest.fixture
def request_() -> RenderRequest:
    return REQUEST


@pytest.fixture(scope="session")
def engine(model_dir: Path) -> Iterator[Engine]:
    """An engine on the CPU that all tests share: whatever one does to it must not show in the next."""
    engine = Engine.load(model_dir, device="cpu")
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def expected(model_dir: Path) -> bytes:
    """The pixels a fresh engine gives for the request."""
    engine = Engine.load(model_dir, device="cpu")
    pixels = engine.render(REQUEST).image.tobytes()
    engine.close()
    return pixels
