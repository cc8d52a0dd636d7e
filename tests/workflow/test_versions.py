"""Versions of libraries that differ from the installed ones: nothing is rendered for them, unless the user says so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from darkroom.pictures.png import encode_texts, read_png_text
from tests.workflow.project import Project

SHEET = """\
prompts:
  - {id: cat, prompt: a cat, seeds: [1, 2], then: [{hires: {denoising_strength: 0.4}}]}
  - {id: dog, prompt: a dog, seeds: [1, 2]}
"""
ANEW = ("--config", "rerender=versions", "--", "results/")
CAT, CAT_HIRES, DOG = (f"first/tiny/{name}.png" for name in ("cat-1", "cat-1.1-hires", "dog-2"))


def make_older(path: Path, torch: str = "2.0.0") -> None:
    """The same picture as another version of torch would have written it."""
    texts = read_png_text(path)
    made = json.loads(texts["darkroom"])
    made["versions"]["torch"] = torch
    with Image.open(path) as image:
        path.write_bytes(encode_texts(image.convert("RGB"), texts | {"darkroom": json.dumps(made)}))


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    with Project(tmp_path / "project") as project:
        project.folder.mkdir()
        project.set_up(SHEET)
        yield project


def test_pictures_of_other_versions_are_made_anew_only_on_request(project: Project) -> None:
    installed = json.loads(read_png_text(project.results / CAT)["darkroom"])["versions"]["torch"]
    for name in (CAT, DOG):
        make_older(project.results / name)
    before = project.times()
    said = project.run()
    assert said.returncode == 0 and project.times() == before, "a newer torch renders nothing by itself"
    last = said.stdout.splitlines()[-1]
    assert last.startswith("first mixes versions: 4 pictures by torch ") and "; 2 pictures by torch 2.0.0, " in last
    assert "--config rerender=versions" in last
    entries = [json.loads(line) for line in (project.results / "manifest.jsonl").read_text().splitlines()]
    assert sorted(e["file"] for e in entries if e["versions"]["torch"] == "2.0.0") == [CAT, DOG]
    assert {e["versions"]["torch"] for e in entries} == {"2.0.0", installed}
    assert {json.dumps(e["made_on"]) for e in entries} == {json.dumps({"device": "cpu", "dtype": "fp32"})}

    dry = project.run("--dry-run", *ANEW)
    assert dry.returncode == 0 and "render_picture" in dry.stdout and project.times() == before
    made = project.rendered_by(lambda: project.run(*ANEW))
    assert made == {CAT, CAT_HIRES, DOG}, "what a stage made of an older picture is as old as that"
    for arguments in (ANEW, ("results/",)):
        again = project.run(*arguments)
        assert "Nothing to be done" in again.stdout and "mixes versions" not in again.stdout


def test_another_word_is_a_mistake(project: Project) -> None:
    done = project.run("--config", "rerender=all", "--", "results/")
    assert done.returncode == 2 and "E-CONFIG" in done.stdout and "versions" in done.stdout
