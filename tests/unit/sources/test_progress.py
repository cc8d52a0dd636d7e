"""What a person is told of a download."""

from __future__ import annotations

import re

import pytest

from darkroom.sources import progress
from darkroom.sources.progress import Progress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_lines_come_every_few_seconds_with_rate_and_remaining_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, said = Clock(), list[str]()
    monkeypatch.setattr(progress, "time", clock)
    told = Progress(said.append)
    told.begin(1_000_000_000, 100_000_000)
    for _ in range(12):
        clock.now += 1
        told.advance(10_000_000)
    assert said == [
        "15 %, 150 MB of 1.0 GB, 10.0 MB/s, 85 s left",
        "20 %, 200 MB of 1.0 GB, 10.0 MB/s, 80 s left",
    ]


def test_without_a_size_there_is_a_rate_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, said = Clock(), list[str]()
    monkeypatch.setattr(progress, "time", clock)
    told = Progress(said.append)
    told.begin(None, 0)
    clock.now += 10
    told.advance(20_000_000)
    assert said == ["20.0 MB, 2.0 MB/s"]


def test_terminal_gets_a_bar_that_goes_away(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    said = list[str]()
    told = Progress(said.append, bar_title="portraits.safetensors")
    told.begin(1000, 0)
    told.advance(500)
    told.say("retry 1/6")
    told.end()
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().err)
    assert "portraits.safetensors" in shown
    assert said == ["retry 1/6"]
