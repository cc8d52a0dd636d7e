"""Nothing that a request says is worked on in the event loop: bodies, settings and metrics are, in threads."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from darkroom.config import ServeConfig
from darkroom.errors import BusyError, DarkroomError, LimitError
from darkroom.serve import bodies, service
from darkroom.serve.bodies import MAX_VALUES, Uploads, check_json
from darkroom.serve.catalog import Model, Models
from darkroom.serve.dispatcher import Dispatcher
from darkroom.serve.engines import EngineOptions, ModelFiles
from darkroom.serve.http import Refusal
from darkroom.serve.metrics import Metrics
from darkroom.serve.service import Service


def note_threads(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> list[threading.Thread]:
    """The threads that call a function of a module from now on."""
    real: Callable[..., Any] = getattr(module, name)
    seen: list[threading.Thread] = []

    def noted(*arguments: Any) -> Any:
        seen.append(threading.current_thread())
        return real(*arguments)

    monkeypatch.setattr(module, name, noted)
    return seen


def test_a_large_body_is_checked_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = note_threads(monkeypatch, bodies, "_check_json")
    asyncio.run(check_json(json.dumps({"prompt": "x" * 100_000}).encode()))
    assert seen != [threading.main_thread()]


def test_settings_are_read_in_a_thread(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = note_threads(monkeypatch, service, "check_limits")

    async def ask() -> None:
        model = Model("m", ModelFiles(tmp_path), None, None)
        dispatcher = Dispatcher([EngineOptions({"m": model.files})], "m", limit=1, observer=Metrics())
        one = Service(Models([model], tmp_path), dispatcher, ServeConfig(queue=1), Metrics())
        with pytest.raises(DarkroomError):
            await one.make_pictures([{"prompt": "a"}, {"prompt": "b"}, {"prompt": "c", "vae": "none"}])

    asyncio.run(ask())
    assert len(seen) == 3
    assert threading.main_thread() not in seen


VALUES = {
    "empty lists": b"[" + b"[]," * 500_000 + b"1]",
    "deep lists": b"[" * 1_000_000,
    "texts": b"[" + b'"a",' * 500_000 + b'"a"]',
    "keys": b"{" + b'"a":1,' * 300_000 + b'"a":1}',
}


@pytest.mark.parametrize("kind", VALUES)
def test_too_many_values_are_refused_before_they_are_built(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(json, "loads", None)
    with pytest.raises(Refusal) as caught:
        asyncio.run(check_json(VALUES[kind]))
    assert isinstance(caught.value.error, LimitError)
    assert caught.value.status == 413


def test_prompts_full_of_marks_are_no_values() -> None:
    prompt = '[]{},:"\\' * (30_000 // 8)
    asyncio.run(check_json(json.dumps({"prompt": prompt, "negative_prompt": prompt, "loras": ["x"] * 100}).encode()))
    most = [0] * (MAX_VALUES - 1)
    asyncio.run(check_json(json.dumps(most).encode()))


def test_uploads_count_together() -> None:
    uploads = Uploads(10)
    uploads.grow(6)
    with pytest.raises(Refusal) as caught:
        uploads.grow(6)
    error = caught.value.error
    assert isinstance(error, BusyError)
    assert error.retry_after_s >= 1
    assert caught.value.status == 503
