"""The memory policy, on the sizes of real devices."""

from __future__ import annotations

import pytest

from darkroom.base import worker_words
from darkroom.engine.memory import GB, decide


@pytest.mark.parametrize(
    ("kind", "gigabytes", "requested", "mode"),
    [
        ("cuda", 24, "auto", "resident"),
        ("cuda", 20, "auto", "resident"),
        ("cuda", 16, "auto", "offload"),
        ("cuda", 8, "auto", "offload"),
        ("cuda", 8, "resident", "resident"),
        ("cuda", 80, "offload", "offload"),
        ("mps", 0, "auto", "resident"),
        ("cpu", 0, "auto", "cpu"),
        ("cpu", 0, "offload", "cpu"),
    ],
)
def test_where_the_model_lives(kind: str, gigabytes: int, requested: str, mode: str) -> None:
    assert decide(kind, gigabytes * GB, requested).mode == mode


@pytest.mark.parametrize(
    ("kind", "gigabytes", "side", "tiled"),
    [
        ("cuda", 80, 1024, False),
        ("cuda", 80, 1528, False),
        ("cuda", 80, 1536, True),
        ("cuda", 16, 1024, False),
        ("cuda", 8, 1016, False),
        ("cuda", 8, 1024, True),
        ("cpu", 0, 4096, False),
    ],
)
def test_big_pictures_are_decoded_in_tiles(kind: str, gigabytes: int, side: int, tiled: bool) -> None:
    assert decide(kind, gigabytes * GB, "auto").is_tiled(side, side) is tiled


def test_the_decision_is_one_line_for_the_log() -> None:
    assert decide("cpu", 0, "auto").describe("fp32") == "cpu, fp32, VAE tiling off"
    line = decide("cuda", 8 * GB, "auto").describe("fp16")
    assert line == "offload (GPU of 8.0 GB is below 20 GB), fp16, VAE tiling from 1.0 MP"


@pytest.mark.parametrize(
    ("kind", "gigabytes", "memory", "words"),
    [
        ("cuda", 24, "auto", [worker_words.TILING, "GPU memory: 24.0 GB", worker_words.RESIDENT]),
        ("cuda", 8, "auto", [worker_words.TILING, "GPU memory: 8.0 GB", worker_words.OFFLOAD]),
        ("cuda", 24, "offload", [worker_words.TILING, "GPU memory: 24.0 GB", worker_words.OFFLOAD]),
        ("mps", 0, "auto", [worker_words.TILING]),
        ("cpu", 0, "auto", []),
    ],
)
def test_the_log_has_the_lines_of_the_earlier_worker_that_are_true(
    kind: str, gigabytes: int, memory: str, words: list[str]
) -> None:
    total = gigabytes * GB
    assert decide(kind, total, memory).startup_lines(kind, total)[2:] == words
