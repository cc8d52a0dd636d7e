"""Studies with a real Snakemake: which cells are rendered after an edit, and that all others keep their names and bytes."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from darkroom.pictures.formats import PNG
from tests.fixtures.assets import write_lora
from tests.workflow.project import Project

SHEET = """\
defaults: {seeds: [1]}
wildcards: {place: places.txt}
prompts:
  - {id: sailor, prompt: "a ${age} sailor at ${place}"}
axes:
  age: [young, old]
  cfg_scale: [4, 8]
draw: {count: 2, seed: 5}
"""
PLACES = [f"place {number}" for number in range(6)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A finished study of eight cells. Not to be changed: take `study`."""
    with Project(tmp_path_factory.mktemp("study")) as project:
        project.write("places.txt", "\n".join(PLACES))
        project.set_up(SHEET)
        yield project


@pytest.fixture
def study(made: Project, tmp_path: Path) -> Iterator[Project]:
    with made.copy(tmp_path / "project") as project:
        yield project


def edited(project: Project, *changes: tuple[str, str]) -> set[str]:
    """The pictures that are rendered after these replacements in the sheet; all others keep their bytes."""
    text = project.folder.joinpath("prompts/first.yaml").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    project.write("prompts/first.yaml", text)
    before = project.pictures()
    rendered = project.rendered_by(project.run)
    after = project.pictures()
    assert {name: after[name] for name in before.keys() - rendered} == {
        name: data for name, data in before.items() if name not in rendered
    }
    return {name.removeprefix("first/tiny/").removesuffix(".png") for name in rendered}


def test_a_study_is_named_by_its_labels_and_a_second_run_does_nothing(study: Project) -> None:
    cells = {
        f"sailor.age-{age}.cfg_scale-{cfg}{draw}-1"
        for age in ("young", "old")
        for cfg in (4, 8)
        for draw in ("", ".draw-2")
    }
    assert {Path(name).stem for name in study.pictures()} == cells
    assert edited(study) == set()
    texts = PNG.read_text(
        (study.results / "first/tiny/sailor.age-old.cfg_scale-8.draw-2-1.png").read_bytes(), Path("x")
    )
    assert json.loads(texts["study"])["axes"] == {"age": "old", "cfg_scale": "8"}
    entries = [json.loads(line) for line in (study.results / "manifest.jsonl").read_text().splitlines()]
    assert {entry["study"]["draw"] for entry in entries} == {1, 2}


def test_only_new_cells_are_rendered(study: Project) -> None:
    """A value in the middle, an axis that begins with `~`, another order of everything, and a further seed."""
    assert edited(study, ("[4, 8]", "[4, 6, 8]"), ("[young, old]", "[old, young]")) == {
        f"sailor.age-{age}.cfg_scale-6{draw}-1" for age in ("young", "old") for draw in ("", ".draw-2")
    }
    assert edited(study, ("axes:\n", "axes:\n  steps: [~, 3]\n"), ("[4, 6, 8]", "[4]"), ("count: 2", "count: 1")) == {
        f"sailor.age-{age}.cfg_scale-4.steps-3-1" for age in ("young", "old")
    }
    assert edited(study, ("seeds: [1]", "seeds: [2, 1]"), ("  steps: [~, 3]\n", "")) == {
        f"sailor.age-{age}.cfg_scale-4-2" for age in ("young", "old")
    }


@pytest.mark.full
def test_a_renamed_label_renders_its_cells_and_prune_names_the_old_ones(study: Project) -> None:
    rendered = edited(study, ("[young, old]", "{young: young, aged: old}"))
    assert rendered == {f"sailor.age-aged.cfg_scale-{cfg}{draw}-1" for cfg in (4, 8) for draw in ("", ".draw-2")}
    command = [sys.executable, "-m", "darkroom.cli", "prune"]
    listed = subprocess.run(command, cwd=study.folder, capture_output=True, text=True, check=True).stdout
    assert listed.count("age-old") >= 4 and "age-aged" not in listed


@pytest.mark.full
def test_a_wildcards_line_renders_the_draws_that_it_wins(study: Project) -> None:
    study.write("places.txt", "\n".join([*reversed(PLACES), "10000:: somewhere else"]))
    assert len(edited(study)) == 8
    study.write("places.txt", "\n".join([*PLACES, "10000:: somewhere else", "0.00001:: nowhere"]))
    assert edited(study) == set()


@pytest.mark.full
def test_a_further_prompt_renders_its_cells(study: Project) -> None:
    added = ("axes:\n", "  - {id: cat, prompt: a cat}\naxes:\n")
    assert edited(study, added) == {"cat.cfg_scale-4-1", "cat.cfg_scale-8-1"}


@pytest.mark.full
def test_checkpoints_are_loaded_and_loras_swapped_as_seldom_as_possible(study: Project) -> None:
    """The engines' logs name each picture in the order in which it was rendered."""
    for name in ("line", "soft"):
        write_lora(study.folder / f"{name}.safetensors")
    study.configure(
        checkpoints={name: {"source": "checkpoint.safetensors"} for name in ("tiny", "other")},
        loras={name: {"source": f"{name}.safetensors"} for name in ("line", "soft")},
    )
    axes = "axes:\n  steps: [2, 3]\n  w: {loras: {line: [~, 0.5, 1]}}\n  cfg_scale: [3, 5]\n"
    study.write("prompts/first.yaml", f"prompts: [{{id: a, prompt: a cat}}]\n{axes}")
    rendered = study.rendered_by(study.run)
    order = sorted(rendered, key=study.times().__getitem__)
    outfits = [(name.split("/")[1], "w-0.5" in name, "w-1" in name) for name in order]
    assert len(rendered) == 24
    changes = sum(before != after for before, after in itertools.pairwise(outfits))
    assert changes == 5
