"""Controls with a real Snakemake and a real engine: what is rendered after each kind of edit, and nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from darkroom.pictures.formats import PNG
from tests.fixtures.controlnets import write_control
from tests.workflow.project import Project

SHEET = """\
defaults:
  control: [{model: lines, image: run.png, weight: 0.8}]
  then: [{hires: {upscaler: Lanczos, scale: 1.5, denoising_strength: 0.5}}]
prompts:
  - {id: cat, prompt: a cat, seeds: [1]}
  - {id: dog, prompt: a dog, seeds: [1], control: [], then: []}
"""
CAT, HIRES, DOG = (f"first/tiny/{name}.png" for name in ("cat-1", "cat-1.1-hires", "dog-1"))


def paint(path: Path, colour: str) -> None:
    image = Image.new("RGB", (64, 64), "white")
    image.paste(colour, (16, 16, 48, 48))
    image.save(path)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    with Project(tmp_path / "project", is_real=True) as project:
        project.folder.mkdir(exist_ok=True)
        paint(project.folder / "run.png", "red")
        write_control(project.folder / "lines.safetensors")
        project.set_up(SHEET, controlnets={"lines": {"source": "lines.safetensors"}})
        yield project


@pytest.mark.full
def test_what_each_edit_renders(project: Project) -> None:
    assert set(project.pictures()) == {CAT, HIRES, DOG}
    texts = PNG.read_text((project.results / CAT).read_bytes(), CAT)
    made = json.loads(texts["darkroom"])
    assert [asset["kind"] for asset in made["assets"]] == ["controlnets"] and made["request"]["control"]
    assert "ControlNet 0" in texts["parameters"]
    dog = json.loads(PNG.read_text((project.results / DOG).read_bytes(), DOG)["darkroom"])
    assert "control" not in dog["request"]
    sheet = project.folder / "prompts/first.yaml"

    def edit(old: str, new: str) -> None:
        assert old in sheet.read_text()
        sheet.write_text(sheet.read_text().replace(old, new))

    def move() -> None:
        os.utime(project.folder / "run.png")
        (project.folder / "run.png").rename(project.folder / "moved.png")
        edit("run.png", "moved.png")

    edits: list[tuple[Callable[[], object], set[str]]] = [
        (move, set()),
        (lambda: edit("{upscaler", "{control: [{model: lines, preprocessor: canny}], upscaler"), {HIRES}),
        (lambda: paint(project.folder / "moved.png", "blue"), {CAT, HIRES}),
    ]
    for change, expected in edits:
        change()
        assert project.rendered_by(project.run) == expected
    sheet.write_text("axes: {control.weight: [~, 0.4]}\n" + sheet.read_text().rpartition("  - ")[0])
    further = {f"first/tiny/cat.weight-0.4-1{stage}.png" for stage in ("", ".1-hires")}
    assert project.rendered_by(project.run) == further
    write_control(project.folder / "lines.safetensors", seed=9)
    assert project.rendered_by(project.run) == {CAT, HIRES, *further}
    assert "Nothing to be done" in project.run().stdout
