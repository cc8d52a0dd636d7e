"""Pictures behind links."""

from __future__ import annotations

import pytest

from darkroom.serve import result_cache
from darkroom.serve.result_cache import LIFETIME_S, KeptPictures


def test_a_picture_can_be_had_for_an_hour() -> None:
    now = [0.0]
    pictures = KeptPictures(lambda: now[0])
    name = pictures.add(b"png")
    now[0] = LIFETIME_S - 1
    assert pictures.get(name) == b"png"
    now[0] = LIFETIME_S
    assert pictures.get(name) is None
    assert pictures.get("unknown") is None


def test_names_can_not_be_guessed() -> None:
    pictures = KeptPictures()
    names = {pictures.add(b"same") for _ in range(100)}
    assert len(names) == 100
    assert min(map(len, names)) >= 32


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result_cache, "MAX_BYTES", 10)
    pictures = KeptPictures()
    names = [pictures.add(b"1234") for _ in range(5)]
    assert [pictures.get(name) is not None for name in names] == [False, False, False, True, True]
