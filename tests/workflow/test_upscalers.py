"""Upscalers in real runs: fetched and checked, refused where they aren't any, and used by `darkroom upscale`."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch
from PIL import Image

from darkroom.pictures.infotext import read_infotext
from darkroom.pictures.png import read_png_text
from tests.fixtures.assets import write_lora
from tests.fixtures.upscalers import compact, write_upscaler
from tests.workflow.project import Project

FETCHED = "models/upscalers/tiny-2x"


def configure(project: Project, source: str) -> None:
    project.configure(upscalers={"tiny-2x": {"source": source}})


def upscale(project: Project, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["darkroom", "upscale", *arguments]
    return subprocess.run(command, cwd=project.folder, env=project.environment(), capture_output=True, text=True)


def test_a_configured_upscaler_renders_nothing_again_and_enlarges_a_picture_of_the_run(project: Project) -> None:
    write_upscaler(project.folder / "mine.safetensors")
    configure(project, "mine.safetensors")
    assert "Nothing to be done" in project.run().stdout
    made = project.run("models/")
    assert made.returncode == 0, made.stdout
    picture = sorted(project.results.glob("first/tiny/*.png"))[0]
    done = upscale(project, str(picture), "--model", "tiny-2x", "--scale", "2", "--output", "large.png")
    assert done.returncode == 0, done.stderr
    large = project.folder / "large.png"
    with Image.open(large) as image:
        assert image.size == (128, 128)
    before, after = (read_infotext(read_png_text(path)["parameters"]) for path in (picture, large))
    assert after["prompt"] == before["prompt"]
    new = {"Postprocess upscale by": "2", "Postprocess upscaler": "tiny-2x"}
    assert after["settings"] == before["settings"] | new
    assert "Nothing to be done" in project.run().stdout


def test_other_bytes_are_fetched_again_and_the_same_are_not(project: Project) -> None:
    source = write_upscaler(project.folder / "mine.safetensors")
    configure(project, "mine.safetensors")
    assert project.run("models/").returncode == 0
    first = (project.folder / f"{FETCHED}.receipt.json").read_text()
    assert "Nothing to be done" in project.run("models/").stdout
    source.unlink()
    write_upscaler(source, compact(seed=9))
    assert project.run("models/").returncode == 0
    assert (project.folder / f"{FETCHED}.receipt.json").read_text() != first


@pytest.mark.full
def test_a_folder_of_upscalers(project: Project) -> None:
    write_upscaler(project.folder / "more/below/R-ESRGAN 2x+.safetensors")
    project.configure(upscalers={"all": {"folder": "more"}})
    assert project.run("models/").returncode == 0
    assert (project.folder / "models/upscalers/R-ESRGAN%202x%2B.safetensors").is_file()
    done = upscale(
        project, str(next(project.results.glob("first/tiny/*.png"))), "--model", "R-ESRGAN 2x+", "-o", "x.png"
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", ["pickle", "lora"])
def test_what_is_no_upscaler_is_refused_when_it_is_fetched(kind: str, project: Project) -> None:
    path = project.folder / ("4x.pth" if kind == "pickle" else "lines.safetensors")
    if kind == "pickle":
        torch.save({"params_ema": {"body.0.weight": torch.zeros(1)}}, path)
    else:
        write_lora(path)
    configure(project, path.name)
    done = project.run("models/")
    assert done.returncode == 1 and not Path(project.folder, f"{FETCHED}.safetensors").exists()
    if kind == "pickle":
        assert "E-PICKLE upscaler" in done.stdout and "4x.pth 4x.safetensors" in done.stdout
    else:
        assert "E-UPSCALER upscaler 'lines.safetensors': is a LoRA" in done.stdout
