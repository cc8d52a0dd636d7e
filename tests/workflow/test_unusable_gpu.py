"""A GPU that is there and that torch can't use: a coded line at each entrance, and no picture made on the CPU instead.

The GPU is a command `nvidia-smi` in PATH, which is asked where the driver's library is not installed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.nvidia import write_smi
from tests.workflow.project import Project

COMMAND = str(Path(sys.executable).with_name("darkroom"))
LINE = re.compile(
    r"E-CONFIG engine\.device 'auto': NVIDIA GeForce RTX 3090 is there, but .*: driver 550\.54\.14 \(CUDA 12\.4\), torch \S+ \(.*\)\. "
    r"Hint: .*, or set engine\.device to cpu \(--device cpu\)\."
)


def can_use_a_gpu() -> bool:
    import torch

    return bool(torch.cuda.is_available())


pytestmark = pytest.mark.skipif("can_use_a_gpu()", reason="torch can use a GPU of this machine")


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_smi(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_a_run_ends_and_says_which_torch_to_install(
    project: Project, smi: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.is_real = True
    for picture in project.pictures():
        (project.results / picture).unlink()
    done = project.run()
    assert done.returncode == 1
    assert LINE.search(done.stdout), done.stdout
    assert project.pictures() == {}
    assert "pip install torch==" in done.stdout and "/whl/cu126" in done.stdout
    assert any(LINE.search(log.read_text()) for log in project.folder.glob("logs/render/**/*.log"))
    assert re.search(r"^machine: NVIDIA GeForce RTX 3090; driver 550\.54\.14 \(CUDA 12\.4\); torch ", done.stdout, re.M)

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # hides the GPU: asks for the CPU
    done = project.run()
    assert done.returncode == 0, done.stdout
    assert len(project.pictures()) == 3
    why = "machine: NVIDIA GeForce RTX 3090 not used, since CUDA_VISIBLE_DEVICES is ''; processor with "
    assert done.stdout.count(why) == 1
    assert why in project.engine_log()


@pytest.mark.full
def test_every_other_entrance_says_it_too(project: Project, smi: None) -> None:
    picture = project.results / next(iter(project.pictures()))
    entrances = {
        "render": ("models/diffusers/tiny", "--output", "new.png", "--prompt", "x"),
        "upscale": (str(picture), "--output", "new.png", "--model", "Lanczos"),
        "serve": ("--config", "config/config.yaml", "--port", "0"),
        "runpod": ("models/diffusers/tiny", "--test_input", '{"input": {"prompt": "x"}}'),
    }
    for verb, options in entrances.items():
        done = subprocess.run([COMMAND, verb, *options], cwd=project.folder, capture_output=True, text=True)
        assert done.returncode != 0, verb
        assert LINE.search(done.stdout + done.stderr), (verb, done.stdout + done.stderr)
        assert not (project.folder / "new.png").exists()
