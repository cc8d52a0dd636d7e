"""Stages with a real Snakemake: what is rendered after each kind of edit, and that all else keeps its bytes and times."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from darkroom.pictures.formats import PNG
from darkroom.pictures.latents import holds
from tests.fixtures.checkpoints import write_random_checkpoint
from tests.workflow.project import Project
from tests.workflow.test_damage import flip

SHEET = """\
defaults:
  then:
    - hires: {denoising_strength: 0.4}
    - upscale: {scale: 1.5}
    - inpaint: {mask: mask.png, denoising_strength: 0.5}
prompts:
  - {id: cat, prompt: a cat, seeds: [1]}
  - {id: dog, prompt: a dog, seeds: [1], then: []}
"""
FROM = """\
from: photos/*.png
defaults: {prompt_2: ~, then: [{img2img: {denoising_strength: 0.3}}]}
prompts: [{prompt: a photograph}]
"""
CONTINUED = """\
prompts:
  - {from: {sheet: first, ids: cat, stage: hires}, then: [{upscale: {scale: 2}}]}
"""
FIRST, HIRES, UPSCALE, INPAINT = (
    f"first/tiny/cat-1{stage}.png" for stage in ("", ".1-hires", ".2-upscale", ".3-inpaint")
)
DOG, PHOTO, CONTINUED_HIRES = (
    "first/tiny/dog-1.png",
    "photos/tiny/sea-0.1-img2img.png",
    "again/tiny/cat-1.1-hires.1-upscale.png",
)
STAGES = ("", ".1-hires", ".2-upscale", ".3-img2img")
CHAIN = {FIRST, HIRES, UPSCALE, INPAINT}
LATENT = "results/first/tiny/cat-1.latent.safetensors"


def paint(path: Path, colour: str) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (72, 64), colour).save(path)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A finished project with three sheets. Not to be changed: take `project`."""
    with Project(tmp_path_factory.mktemp("stages")) as project:
        paint(project.folder / "mask.png", "white")
        paint(project.folder / "photos/sea.png", "blue")
        project.write("prompts/photos.yaml", FROM)
        project.write("prompts/again.yaml", CONTINUED)
        project.set_up(SHEET, sheets=["prompts/again.yaml", "prompts/first.yaml", "prompts/photos.yaml"])
        yield project


@pytest.fixture
def project(made: Project, tmp_path: Path) -> Iterator[Project]:
    with made.copy(tmp_path / "project") as project:
        yield project


def rendered(project: Project) -> set[str]:
    """What a run renders; everything else keeps its bytes, and a further run has nothing to do."""
    before = project.pictures()
    found = project.rendered_by(project.run)
    after = project.pictures()
    assert {name: after[name] for name in before if name not in found} == {
        name: data for name, data in before.items() if name not in found
    }
    done = project.run()
    assert "Nothing to be done" in done.stdout, done.stdout
    return found


def edited(project: Project, *changes: tuple[str, str], sheet: str = "first") -> set[str]:
    path = project.folder / f"prompts/{sheet}.yaml"
    text = path.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    return rendered(project)


def test_each_stage_is_a_file_and_a_second_run_does_nothing(project: Project) -> None:
    assert set(project.pictures()) == CHAIN | {DOG, PHOTO, CONTINUED_HIRES}
    assert rendered(project) == set()
    sizes = {name: PNG.decode(project.pictures()[name], name).size for name in sorted(CHAIN)}
    assert sizes == {FIRST: (64, 64), HIRES: (128, 128), UPSCALE: (192, 192), INPAINT: (192, 192)}
    assert (project.folder / LATENT).is_file()
    assert [path.name for path in project.results.rglob("*.safetensors")] == [Path(LATENT).name]
    texts = PNG.read_text((project.results / UPSCALE).read_bytes(), UPSCALE)
    assert [next(iter(each)) for each in json.loads(texts["darkroom"])["request"]["stages"]] == ["hires", "upscale"]
    lines = [json.loads(line) for line in (project.results / "manifest.jsonl").read_text().splitlines()]
    assert {line["file"]: line.get("stage") for line in lines} == {
        FIRST: None,
        HIRES: "1-hires",
        UPSCALE: "2-upscale",
        INPAINT: "3-inpaint",
        DOG: None,
        PHOTO: "1-img2img",
        CONTINUED_HIRES: "1-upscale",
    }


def test_a_stage_that_changes_is_rendered_with_those_after_it(project: Project) -> None:
    assert edited(project, ("scale: 1.5", "scale: 1.25")) == {UPSCALE, INPAINT}
    assert edited(project, ("denoising_strength: 0.4", "denoising_strength: 0.6")) == CHAIN - {FIRST} | {
        CONTINUED_HIRES
    }


def test_a_first_pass_that_changes_is_rendered_with_all_that_is_made_of_it_in_one_run(project: Project) -> None:
    assert edited(project, ("id: cat, prompt: a cat", "id: cat, prompt: a tabby cat")) == CHAIN | {CONTINUED_HIRES}


def test_another_upscaler_renders_from_there_on_and_the_first_pass_stays(project: Project) -> None:
    """Without its latents the first pass is made by another rule, which is no reason to render it."""
    assert edited(project, ("{denoising_strength: 0.4}", "{denoising_strength: 0.4, upscaler: Lanczos}")) == (
        CHAIN - {FIRST} | {CONTINUED_HIRES}
    )


@pytest.mark.full
def test_a_further_stage_renders_itself(project: Project) -> None:
    further = ("denoising_strength: 0.5}\n", "denoising_strength: 0.5}\n    - upscale: {scale: 1}\n")
    assert edited(project, further) == {"first/tiny/cat-1.4-upscale.png"}


def test_given_pictures_count_by_their_bytes(project: Project) -> None:
    for path in ("mask.png", "photos/sea.png"):
        os.utime(project.folder / path)
    assert rendered(project) == set()
    (project.folder / "masks").mkdir()
    (project.folder / "mask.png").rename(project.folder / "masks/face.png")
    assert edited(project, ("mask: mask.png", "mask: masks/face.png")) == set()
    paint(project.folder / "masks/face.png", "grey")
    assert rendered(project) == {INPAINT}
    paint(project.folder / "photos/sea.png", "green")
    assert rendered(project) == {PHOTO}
    paint(project.folder / "photos/hill.png", "green")
    assert rendered(project) == {"photos/tiny/hill-0.1-img2img.png"}


@pytest.mark.parametrize("lost", [HIRES, *(pytest.param(each, marks=pytest.mark.full) for each in (FIRST, INPAINT))])
def test_a_picture_that_is_deleted_is_made_again_alone(project: Project, lost: str) -> None:
    before = project.pictures()
    (project.results / lost).unlink()
    listed = project.run("results/", "--dry-run").stdout
    assert [name for name in before if f"render {name.removesuffix('.png')}\n" in listed] == [lost]
    assert rendered(project) == {lost}
    assert project.pictures() == before


def test_damaged_pictures_in_the_middle_are_mended_alone(project: Project) -> None:
    before = project.pictures()
    flip(project.results / HIRES)
    flip(project.results / FIRST)
    flip(project.results / PHOTO)
    assert rendered(project) == {HIRES, FIRST, PHOTO}
    assert project.pictures() == before


def test_latents_are_made_again_only_where_a_stage_needs_them(project: Project) -> None:
    before = project.pictures()
    (project.folder / LATENT).unlink()
    assert rendered(project) == set()
    assert edited(project, ("denoising_strength: 0.4", "denoising_strength: 0.6")) == CHAIN | {CONTINUED_HIRES}
    assert project.pictures()[FIRST] == before[FIRST]
    (project.folder / LATENT).write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    (project.results / HIRES).unlink()
    done = project.run()
    assert done.returncode == 0 and "E-IMAGE latents" in done.stdout, done.stdout
    assert project.pictures()[FIRST] == before[FIRST]


def test_a_failed_stage_leaves_those_before_it(project: Project) -> None:
    text = (project.folder / "prompts/first.yaml").read_text()
    project.write("prompts/first.yaml", text.replace("denoising_strength: 0.5", "prompt: impossible"))
    failed = project.run("results/", "--keep-going")
    assert failed.returncode == 1 and "E-REQUEST" in failed.stdout
    assert set(project.pictures()) == CHAIN - {INPAINT} | {DOG, PHOTO, CONTINUED_HIRES}
    project.write("prompts/first.yaml", text)
    assert rendered(project) == {INPAINT}


AXES = "axes:\n  then.hires.denoising_strength: [~, 0.6]\n  then.upscale.scale: [~, 1.25]\n"


def test_an_axis_over_a_stage_shares_what_is_before_it(project: Project) -> None:
    """A further value renders the new second passes, and what is made of them."""
    whole = PNG.decode((project.results / DOG).read_bytes(), DOG).tobytes()
    project.write("prompts/first.yaml", SHEET.replace(", then: []", "") + AXES)
    found = {name.removeprefix("first/tiny/") for name in rendered(project)}
    cat = {name for name in found if name.startswith("cat")}
    labels = ("denoising_strength-0.6.1-hires", "scale-1.25.2-upscale")
    assert cat == {
        f"cat-1.{labels[1]}.png",
        f"cat-1.{labels[1]}.3-inpaint.png",
        f"cat-1.{labels[0]}.png",
        f"cat-1.{labels[0]}.2-upscale.png",
        f"cat-1.{labels[0]}.3-inpaint.png",
        f"cat-1.{labels[0]}.{labels[1]}.png",
        f"cat-1.{labels[0]}.{labels[1]}.3-inpaint.png",
    }
    # The dog's first pass is rendered for its latents, which nothing needed before.
    assert {name for name in found if name.count(".") == 1} == {"dog-1.png"}
    assert PNG.decode((project.results / DOG).read_bytes(), DOG).tobytes() == whole
    more = edited(project, ("[~, 0.6]", "[~, 0.8, 0.6]"))
    assert len(more) == 2 * 5 + 1 and all("strength-0.8" in name for name in more)


def test_a_single_stage_can_be_asked_for_and_prune_knows_the_others(project: Project) -> None:
    for name in (*CHAIN, CONTINUED_HIRES):
        (project.results / name).unlink()
    asked = f"results/{CONTINUED_HIRES}"
    assert project.rendered_by(lambda: project.run(asked)) == {FIRST, HIRES, CONTINUED_HIRES}
    assert project.rendered_by(project.run) == {UPSCALE, INPAINT}
    project.write("prompts/first.yaml", SHEET.replace("hires: {", "hires: {upscaler: Lanczos, "))
    project.configure(sheets=["prompts/first.yaml", "prompts/photos.yaml"])
    command = [sys.executable, "-m", "darkroom.cli", "prune"]
    listed = subprocess.run(command, cwd=project.folder, capture_output=True, text=True, check=True).stdout
    assert {line for line in listed.splitlines() if line.startswith("results/")} == {asked, LATENT}


@pytest.mark.full
def test_another_model_renders_every_stage_after_its_first_pass(project: Project) -> None:
    project.configure(
        checkpoints={"tiny": {"source": "checkpoint.safetensors", "dtype": "fp32"}},
        sheets=["prompts/again.yaml", "prompts/first.yaml", "prompts/photos.yaml"],
    )
    assert rendered(project) == CHAIN | {DOG, PHOTO, CONTINUED_HIRES}
    times = project.times()
    assert times[FIRST] < times[HIRES] < times[UPSCALE] < times[INPAINT]


def test_a_missing_picture_is_made_before_its_stage_where_both_have_to_be(project: Project) -> None:
    """A model that is verified anew is a reason for all of them; a stage must not run before what it is made of."""
    (project.results / HIRES).unlink()
    made = project.rendered_by(lambda: project.run("results/first/", "--forcerun", "verify_model", cores=4))
    assert made == CHAIN | {DOG}


OTHERS = """\
checkpoints: tiny
defaults:
  then:
    - hires: {denoising_strength: 0.4, checkpoint: other}
    - upscale: {scale: 1.5}
    - img2img: {denoising_strength: 0.4, checkpoint: ~}
prompts:
  - {id: cat, prompt: a cat, seeds: [1, 2]}
"""


def test_stages_on_another_checkpoint(tmp_path: Path) -> None:
    """Each model is loaded once a turn; what a model made, and what was made of that, follows its bytes and no others."""
    with Project(tmp_path / "project") as project:
        write_random_checkpoint(project.folder / "other.safetensors", seed=1)
        both = {name: {"source": f"{file}.safetensors"} for name, file in (("tiny", "checkpoint"), ("other", "other"))}
        project.set_up(OTHERS, checkpoints=both)
        names = [f"first/tiny/cat-{seed}{stage}" for stage in STAGES for seed in (1, 2)]
        times = project.times()
        in_turns = [name.partition("-")[2][1:] for name in sorted(times, key=lambda name: times[name])]
        assert in_turns == [f"{name.partition('-')[2][1:]}.png" for name in names]
        texts = {name: PNG.read_text((project.results / f"{name}.png").read_bytes(), name) for name in names}
        made = {name: json.loads(text["darkroom"]) for name, text in texts.items()}
        assert {each["model"] for each in made.values()} == {"tiny"}
        (hashed,) = {each["short"] for name in names[2:] for each in made[name]["assets"]}
        assert all(f"Hires checkpoint: other [{hashed}]" in texts[name]["parameters"] for name in names[2:6])
        assert rendered(project) == set()

        other = {f"{name}.png" for name in names[2:]}
        project.configure(checkpoints=both | {"other": {"source": "other.safetensors", "dtype": "fp32"}})
        assert rendered(project) == other
        project.configure(checkpoints=both | {"tiny": {"source": "checkpoint.safetensors", "dtype": "fp32"}})
        assert rendered(project) == {f"{name}.png" for name in names}
        (project.results / "first/tiny/cat-1.1-hires.png").unlink()
        assert rendered(project) == {"first/tiny/cat-1.1-hires.png"}


REFINED = """\
prompts:
  - {id: cat, prompt: a cat, seeds: [1], then: [{refine: {checkpoint: fine}}]}
"""


def test_a_refiner_goes_on_with_the_latents_at_its_switch(tmp_path: Path) -> None:
    """The first pass stays the picture it was; its latents at each switch lie beside it, and another switch renders what needs it."""
    first, refined, other = (f"first/tiny/cat-1{name}.png" for name in ("", ".1-refine", ".switch_at-0.6.1-refine"))
    with Project(tmp_path / "project") as project:
        write_random_checkpoint(project.folder / "fine.safetensors", seed=1)
        both = {"fine": {"source": "fine.safetensors", "refiner": True}, "tiny": {"source": "checkpoint.safetensors"}}
        project.set_up("prompts: [{id: cat, prompt: a cat, seeds: [1]}]\n", checkpoints=both)
        whole = (project.results / first).read_bytes()
        project.write("prompts/first.yaml", REFINED)
        assert rendered(project) == {first, refined}
        assert PNG.decode((project.results / first).read_bytes(), first).tobytes() == PNG.decode(whole, first).tobytes()
        assert holds(Path(project.folder / LATENT), [0.8])
        texts = PNG.read_text((project.results / refined).read_bytes(), refined)
        assert "Refiner: fine [" in texts["parameters"] and "Refiner switch at: 0.8" in texts["parameters"]
        assert json.loads(texts["darkroom"])["model"] == "tiny"

        project.write("prompts/first.yaml", REFINED + "axes:\n  then.refine.switch_at: [~, 0.6]\n")
        assert rendered(project) == {first, other}
        assert holds(Path(project.folder / LATENT), [0.6, 0.8])
        assert edited(project, ("checkpoint: fine", "checkpoint: fine, cfg_scale: 3")) == {refined, other}
        project.configure(checkpoints=both | {"fine": {**both["fine"], "dtype": "fp32"}})
        assert rendered(project) == {refined, other}
