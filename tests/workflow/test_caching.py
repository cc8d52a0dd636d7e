"""What a second run does after each kind of edit: exactly what is needed, and nothing else."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.fixtures.checkpoints import write_random_checkpoint
from tests.workflow.project import DEMO_SHEET, SETTINGS, Project

ALL = {"first/tiny/circle-1.png", "first/tiny/circle-2.png", "first/tiny/star-0.png"}


def nothing_to_do(project: Project) -> bool:
    done = project.run()
    assert done.returncode == 0, done.stdout
    return "Nothing to be done" in done.stdout


def test_first_run_makes_pictures_pages_and_audit(finished: Project) -> None:
    assert set(finished.pictures()) == ALL
    for path in ("results/index.html", "results/manifest.jsonl", "results/first/contact-sheet.png",
                 "models/diffusers/tiny.audit.json", "models/verified/tiny.json",
                 "models/checkpoints/tiny.receipt.json"):  # fmt: skip
        assert (finished.folder / path).stat().st_size > 0


def test_a_real_engine_renders_what_the_stand_in_stands_for(project: Project, finished: Project) -> None:
    project.is_real = True
    for picture in project.pictures():
        (project.results / picture).unlink()
    assert project.rendered_by(project.run) == ALL
    assert [each.engine_log().count("fp32: stand-in") for each in (finished, project)] == [1, 0]
    pictures = project.pictures()
    assert len({*pictures.values(), *finished.pictures().values()}) == 2 * len(ALL)
    assert nothing_to_do(project)
    (project.results / "first/tiny/circle-2.png").unlink()
    assert project.rendered_by(project.run) == {"first/tiny/circle-2.png"}
    assert project.pictures() == pictures


def test_second_run_does_nothing(project: Project) -> None:
    assert nothing_to_do(project)
    for target in ("results", "results/first/"):
        assert "Nothing to be done" in project.run(target).stdout


def test_bare_snakemake_makes_the_results(project: Project) -> None:
    (project.results / "first/tiny/star-0.png").unlink()
    process = project.start()
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert set(project.pictures()) == ALL


def test_editing_one_prompt_renders_one_picture(project: Project) -> None:
    project.write("prompts/first.yaml", DEMO_SHEET.replace("a green star", "a green star, soft light"))
    assert project.rendered_by(project.run) == {"first/tiny/star-0.png"}
    assert nothing_to_do(project)


def test_adding_a_seed_renders_one_picture(project: Project) -> None:
    project.write("prompts/first.yaml", DEMO_SHEET.replace("[1, 2]", "[1, 2, 7]"))
    assert project.rendered_by(project.run) == {"first/tiny/circle-7.png"}


def test_a_removed_picture_is_rendered_alone_and_the_same(project: Project) -> None:
    before = project.pictures()
    (project.results / "first/tiny/circle-2.png").unlink()
    assert project.rendered_by(project.run) == {"first/tiny/circle-2.png"}
    assert project.pictures() == before


def test_order_and_comments_render_nothing(project: Project) -> None:
    head, circle, star = DEMO_SHEET.partition("  - id: circle")
    circle, star = (circle + star).split("  - id: star")
    project.write("prompts/first.yaml", f"# a comment\n{head}  - id: star{star}{circle}")
    assert project.rendered_by(project.run) == set()


def test_identical_bytes_elsewhere_another_device_and_compiling_rebuild_nothing(project: Project) -> None:
    shutil.copyfile(project.checkpoint, project.folder / "elsewhere.safetensors")  # which is also newer
    project.checkpoint.unlink()
    engine = {"device": "cpu", "idle_timeout_s": 60, "compile": "regional"}
    project.configure(checkpoints={"tiny": {"source": "elsewhere.safetensors"}}, engine=engine)
    assert nothing_to_do(project)


@pytest.mark.full
def test_touching_the_checkpoint_rebuilds_nothing(project: Project) -> None:
    os.utime(project.checkpoint)
    assert nothing_to_do(project)


@pytest.mark.full
def test_copying_identical_bytes_over_the_checkpoint_rebuilds_nothing(project: Project) -> None:
    copy = project.folder / "copy.safetensors"
    shutil.copyfile(project.checkpoint, copy)
    os.replace(copy, project.checkpoint)
    assert nothing_to_do(project)


def test_other_bytes_rebuild_everything_after_them(project: Project) -> None:
    before = project.pictures()
    project.checkpoint.unlink()
    write_random_checkpoint(project.checkpoint, seed=1)
    assert project.rendered_by(project.run) == ALL
    after = project.pictures()
    assert all(after[name] != before[name] for name in ALL)
    assert nothing_to_do(project)


@pytest.mark.parametrize(
    "option", [{"dtype": "fp32"}, pytest.param({"prediction": "v_prediction"}, marks=pytest.mark.full)]
)
def test_another_conversion_renders_everything_in_the_same_run(project: Project, option: dict[str, str]) -> None:
    project.configure(checkpoints={"tiny": {"source": "checkpoint.safetensors", **option}})
    assert project.rendered_by(project.run) == ALL
    assert nothing_to_do(project)


def test_a_default_that_a_prompt_overrides_renders_the_others_only(project: Project) -> None:
    project.configure(render=SETTINGS | {"steps": 1})
    assert project.rendered_by(project.run) == ALL - {"first/tiny/star-0.png"}


def test_a_missing_model_folder_is_made_again_and_renders_nothing_again(project: Project) -> None:
    shutil.rmtree(project.folder / "models/diffusers/tiny")
    project.write("prompts/first.yaml", DEMO_SHEET.replace("[1, 2]", "[1, 2, 7]"))
    assert project.rendered_by(project.run) == {"first/tiny/circle-7.png"}


def test_one_bad_prompt_costs_no_other_with_keep_going(project: Project) -> None:
    for picture in project.pictures():
        (project.results / picture).unlink()
    project.write("prompts/first.yaml", DEMO_SHEET.replace("steps: 3", "clip_skip: 9"))  # deeper than the encoders are
    done = project.run("results/", "--keep-going")
    assert done.returncode == 1
    assert "E-REQUEST" in done.stdout
    assert set(project.pictures()) == ALL - {"first/tiny/star-0.png"}


@pytest.mark.full
def test_four_cores_give_the_same_bytes_as_one(project: Project, finished: Project) -> None:
    for picture in project.pictures():
        (project.results / picture).unlink()
    assert project.rendered_by(lambda: project.run(cores=4)) == ALL
    assert project.pictures() == finished.pictures()


@pytest.mark.full
def test_a_text_sheet_renders_a_prompt_a_line(project: Project) -> None:
    project.write("prompts/second.txt", "# heading\na blue ring\n\na pink heart, (large:1.2)\n")
    project.configure(sheets=["prompts/first.yaml", "prompts/second.txt"])
    made = project.rendered_by(project.run)
    assert len(made) == 2
    assert all(Path(name).parts[:2] == ("second", "tiny") for name in made)


def test_one_sheet_alone(project: Project) -> None:
    project.write("prompts/second.txt", "a blue ring\n")
    project.write("prompts/first.yaml", DEMO_SHEET.replace("[1, 2]", "[1, 2, 7]"))
    project.configure(sheets=["prompts/first.yaml", "prompts/second.txt"])
    made = project.rendered_by(lambda: project.run("results/second/"))
    assert {Path(name).parts[0] for name in made} == {"second"}
