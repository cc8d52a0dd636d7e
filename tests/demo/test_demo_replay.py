"""The demo's picture, made and replayed by processes that would take different numbers of threads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from darkroom.installation import DEMO, ROOT
from darkroom.pictures.png import read_png_text
from darkroom.replay.rendering import processors

pytestmark = pytest.mark.full


def darkroom(threads: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "darkroom.cli", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_picture_is_replayed_with_its_own_number_of_threads(tmp_path: Path) -> None:
    model, picture = tmp_path / "models/diffusers/demo", tmp_path / "star.png"
    assert darkroom(1, "convert", ROOT / DEMO / "darkroom-demo.safetensors", model).returncode == 0
    settings = ["--prompt", "a green star", "--width", 256, "--height", 256, "--steps", 8, "--device", "cpu"]
    assert darkroom(2, "render", model, *settings, "--output", picture).returncode == 0
    made_on = json.loads(read_png_text(picture)["darkroom"])["made_on"]
    assert made_on["threads"] == 2
    threads = [] if processors() > 1 else ["--threads", 2]
    options = ["--models-dir", tmp_path / "models", "--config", tmp_path / "none.yaml"]
    replayed = darkroom(1, "replay", picture, "--check", *options, *threads)
    assert replayed.returncode == 0 and "bitwise equal, 2 threads" in replayed.stdout, replayed.stdout + replayed.stderr
