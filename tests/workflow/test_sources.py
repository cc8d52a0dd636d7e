"""Sources of every kind in real runs: a Diffusers folder, a checkpoint with a VAE of another file, one with a sidecar."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.assets import write_vae
from tests.fixtures.checkpoints import make_model_dir, random_tensors, write_random_checkpoint, write_tensors
from tests.fixtures.folders import as_snapshot
from tests.workflow.project import Project
from tests.workflow.test_bad_input import refused_in_planning

SHEET = "prompts:\n  - {id: star, prompt: a green star}\n"
VAE = "first_stage_model."
CHECKPOINTS = {
    "hub": {"source": "hub/models--someone--some-model/snapshots/0123abc"},
    "bare": {"source": "bare.safetensors", "vae": "fixed", "extract_ema": True},
    "velocity": {"source": "velocity.safetensors"},
}
VAES = {"fixed": {"source": "vae.safetensors"}}
ALL = {f"first/{name}/star-0.png" for name in CHECKPOINTS}


def write_bare_checkpoint(path: Path) -> None:
    """A checkpoint without a VAE, with EMA weights for its UNet."""
    tensors = {key: value for key, value in random_tensors(seed=1).items() if not key.startswith(VAE)}
    unet = {key: value for key, value in random_tensors(seed=6).items() if key.startswith("model.")}
    ema = {"model_ema." + key.removeprefix("model.").replace(".", ""): value for key, value in unet.items()}
    write_tensors(path, tensors | ema)


def write_sidecar(project: Project, parameterization: str, comment: str = "") -> None:
    text = f"{comment}\nmodel: {{params: {{parameterization: {parameterization}}}}}\n"
    project.write("velocity.yaml", text)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A project of three sources after its first run. Not to be changed: take `project`."""
    with Project(tmp_path_factory.mktemp("sources")) as project:
        as_snapshot(make_model_dir(tmp_path_factory.mktemp("downloaded"), seed=3), project.folder / "hub")
        write_bare_checkpoint(project.folder / "bare.safetensors")
        write_vae(project.folder / "vae.safetensors", seed=4)
        write_random_checkpoint(project.folder / "velocity.safetensors", seed=2)
        write_sidecar(project, "v")
        project.write("prompts/first.yaml", SHEET)
        project.configure(checkpoints=CHECKPOINTS, vaes=VAES)
        done = project.run()
        assert done.returncode == 0, done.stdout
        yield project


@pytest.fixture
def project(made: Project, tmp_path: Path) -> Iterator[Project]:
    """A copy of it, to edit and run again."""
    with made.copy(tmp_path / "project") as project:
        yield project


def read(project: Project, path: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((project.folder / path).read_text())
    return found


def test_every_kind_of_source_becomes_pictures(made: Project) -> None:
    assert set(made.pictures()) == ALL
    folder, bare, velocity = (read(made, f"models/diffusers/{name}.audit.json") for name in CHECKPOINTS)
    assert folder["source_kind"] == "folder"
    assert (bare["vae_source"], velocity["vae_source"]) == ("fixed.safetensors", None)
    assert (bare["ema"], velocity["ema"]) == ("used", "absent")
    assert bare["vae_sha256"] == read(made, "models/vaes/fixed.receipt.json")["sha256"]
    assert (velocity["prediction_type"], bare["prediction_type"]) == ("v_prediction", "epsilon")
    scheduler = read(made, "models/diffusers/velocity/scheduler/scheduler_config.json")
    assert scheduler["prediction_type"] == "v_prediction"


def test_a_folder_is_taken_over_as_it_is(made: Project) -> None:
    fetched, taken = made.folder / "models/checkpoints/hub", made.folder / "models/diffusers/hub"
    receipt = read(made, "models/checkpoints/hub.receipt.json")
    assert receipt["sha256"] == read(made, "models/diffusers/hub.audit.json")["source_sha256"]
    for relative in receipt["files"]:
        if relative.endswith(".safetensors"):
            assert (taken / relative).read_bytes() == (fetched / relative).read_bytes()


def test_touching_copying_moving_and_losing_sources_rebuilds_nothing(project: Project) -> None:
    """The folder that was copied with the project is no longer one of links, and is still the same model."""
    os.utime(project.folder / "bare.safetensors")
    (project.folder / "vae.safetensors").rename(project.folder / "elsewhere.safetensors")
    shutil.copyfile(project.folder / "elsewhere.safetensors", project.folder / "moved.safetensors")
    (project.folder / "velocity.safetensors").unlink()
    (project.folder / "velocity.yaml").unlink()
    project.configure(checkpoints=CHECKPOINTS, vaes={"fixed": {"source": "moved.safetensors"}})
    done = project.run()
    assert "Nothing to be done" in done.stdout, done.stdout
    shutil.rmtree(project.folder / "hub")
    (project.folder / "moved.safetensors").unlink()
    done = project.run()
    assert "Nothing to be done" in done.stdout, done.stdout


def test_another_vae_renders_the_pictures_made_with_it_and_a_comment_in_a_sidecar_none(project: Project) -> None:
    before = project.pictures()
    (project.folder / "vae.safetensors").unlink()
    write_vae(project.folder / "vae.safetensors", seed=5)
    write_sidecar(project, "v", "# as trained")
    assert project.rendered_by(project.run) == {"first/bare/star-0.png"}
    assert project.pictures()["first/bare/star-0.png"] != before["first/bare/star-0.png"]
    assert "Nothing to be done" in project.run().stdout


@pytest.mark.full
def test_an_edited_sidecar_renders_its_checkpoints_pictures(project: Project) -> None:
    write_sidecar(project, "eps")
    assert project.rendered_by(project.run) == {"first/velocity/star-0.png"}
    assert read(project, "models/diffusers/velocity.audit.json")["prediction_type"] == "epsilon"
    assert "Nothing to be done" in project.run().stdout


@pytest.mark.full
def test_an_edited_folder_renders_its_pictures(project: Project) -> None:
    config = project.folder / CHECKPOINTS["hub"]["source"] / "scheduler/scheduler_config.json"
    edited = json.loads(config.read_text()) | {"timestep_spacing": "trailing"}
    config.write_text(json.dumps(edited))
    assert project.rendered_by(project.run) == {"first/hub/star-0.png"}
    assert read(project, "models/diffusers/hub/scheduler/scheduler_config.json")["timestep_spacing"] == "trailing"


def test_a_checkpoint_without_a_vae_stops_and_says_what_to_do(project: Project) -> None:
    (project.results / "first/bare/star-0.png").unlink()
    shutil.rmtree(project.folder / "models/diffusers/bare")
    project.configure(checkpoints=CHECKPOINTS | {"bare": {"source": "bare.safetensors"}})
    done = project.run()
    assert done.returncode == 1
    assert "E-KEYS" in done.stdout
    assert "it has no VAE" in done.stdout
    assert "checkpoints.NAME.vae" in done.stdout
    assert "Traceback" not in done.stdout
    assert not (project.folder / "models/diffusers/bare").exists()
    assert project.leftovers() == []


def test_an_unknown_vae_is_refused_with_the_near_one(empty: Project) -> None:
    checkpoints = {"tiny": {"source": "checkpoint.safetensors", "vae": "fixd"}}
    empty.configure(checkpoints=checkpoints, vaes={"fixed": {"source": "checkpoint.safetensors"}})
    refused_in_planning(
        empty, "E-CONFIG", "checkpoints.tiny.vae", "'fixd'", "config/config.yaml:", "did you mean 'fixed'"
    )


def test_a_folder_that_is_no_model_is_refused(empty: Project) -> None:
    empty.configure(checkpoints={"tiny": {"source": "prompts"}})
    refused_in_planning(empty, "E-SOURCE", "'prompts'", "model_index.json")


def test_an_option_that_a_folder_would_pass_over_is_refused(empty: Project) -> None:
    make_model_dir(empty.folder / "downloads")
    empty.configure(checkpoints={"tiny": {"source": "downloads/tiny", "prediction": "v_prediction"}})
    refused_in_planning(empty, "E-CONFIG", "checkpoints.tiny.prediction", "Diffusers folder")
