"""Things that break while a run is under way. The numbers in the names are those of the list of faults."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.workflow.project import DEMO_SHEET, Project, wait_until

MANY_PICTURES = 14
MANY = "defaults: {steps: 12}\nprompts:\n" + "".join(
    f"  - {{id: p{i}, prompt: picture {i}}}\n" for i in range(MANY_PICTURES)
)
SLOW = "defaults: {steps: 900}\nprompts:\n  - {id: slow, prompt: a picture that takes its time}\n"


def kill(process: subprocess.Popen[str], *, group: bool = False) -> None:
    """`kill -9` of Snakemake alone, or of its jobs too."""
    if group:
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_fault_31_engine_killed_in_the_middle_of_a_picture(project: Project) -> None:
    project.write("prompts/first.yaml", SLOW)
    process = project.start("results/")
    log = project.folder / "logs/render/first/tiny/slow-0.log"
    wait_until(lambda: "ready" in project.engine_log(), "the engine is ready")
    os.kill(project.engines()[0], signal.SIGKILL)
    output, _ = process.communicate()
    assert process.returncode == 1
    assert "E-SERVER-DIED" in output + log.read_text()
    assert not (project.results / "first/tiny/slow-0.png").exists()
    assert [p.suffix for p in project.leftovers()] == [".sock"]  # nobody was left to remove it; it is replaced
    project.write("prompts/first.yaml", SLOW.replace("900", "2"))
    assert project.run().returncode == 0


def test_fault_32_snakemake_killed_takes_its_engine_along(project: Project) -> None:
    project.write("prompts/first.yaml", SLOW)
    process = project.start("results/", start_new_session=True)
    wait_until(project.engines, "an engine starts")
    kill(process)
    wait_until(lambda: not project.engines(), "the engine ends with the Snakemake that caused it")
    wait_until(lambda: not project.leftovers(), "its socket goes")
    project.write("prompts/first.yaml", SLOW.replace("900", "2"))
    assert project.run().returncode == 0


def test_fault_33_a_finished_run_leaves_no_engine_and_no_socket(project: Project) -> None:
    (project.results / "first/tiny/star-0.png").unlink()
    assert project.run().returncode == 0
    wait_until(lambda: not project.engines(), "the engine ends")
    wait_until(lambda: not project.leftovers(), "its socket goes")


@pytest.mark.full
def test_fault_33_a_failed_run_leaves_no_engine_either(project: Project) -> None:
    project.write("prompts/first.yaml", DEMO_SHEET.replace("steps: 3", "clip_skip: 9"))  # deeper than the encoders are
    assert project.run("results/", "--keep-going").returncode == 1
    wait_until(lambda: not project.engines(), "the engine ends")


def test_fault_30_a_folder_broken_since_it_was_verified_is_made_again(project: Project) -> None:
    weights = next((project.folder / "models/diffusers/tiny/unet").glob("*.safetensors"))
    data = weights.read_bytes()
    weights.unlink()  # it may be linked elsewhere
    weights.write_bytes(data[: len(data) // 2])
    (project.results / "first/tiny/star-0.png").unlink()
    assert project.rendered_by(project.run) == {"first/tiny/star-0.png"}
    assert weights.read_bytes() == data


def test_fault_44_a_picture_cut_short_from_outside_is_named_and_made_again(project: Project, finished: Project) -> None:
    picture = project.results / "first/tiny/star-0.png"
    whole = picture.read_bytes()
    picture.write_bytes(whole[: len(whole) // 2])
    named = subprocess.run(
        [sys.executable, "-m", "darkroom.cli", "verify", "results"], cwd=project.folder, capture_output=True, text=True
    )
    assert named.returncode == 1
    assert named.stderr.startswith("E-IMAGE")
    assert named.stdout.startswith("damaged: results/first/tiny/star-0.png (")
    assert project.rendered_by(project.run) == {"first/tiny/star-0.png"}
    assert project.pictures() == finished.pictures()


def test_fault_44_killed_while_pictures_are_written_leaves_none_half_made(project: Project) -> None:
    project.write("prompts/first.yaml", MANY)
    process = project.start("results/", start_new_session=True)
    wait_until(lambda: len(project.pictures()) > 6, "some pictures are there")
    kill(process, group=True)
    for data in project.pictures().values():
        assert data.endswith(b"IEND\xaeB`\x82")
    made = {n: t for n, t in project.times().items() if "/p" in n}
    wait_until(lambda: not project.engines(), "the engine ends")
    done = project.run()
    assert done.returncode == 0, done.stdout
    kept = [name for name, when in made.items() if project.times()[name] == when]
    assert len(kept) >= len(made) - 1  # the one in flight may have been there already, unknown to Snakemake
    lines = (project.results / "manifest.jsonl").read_text().splitlines()
    assert len([json.loads(line) for line in lines]) == MANY_PICTURES


def test_fault_45_a_failed_picture_is_never_trusted(project: Project) -> None:
    project.write("prompts/first.yaml", SLOW)
    process = project.start("results/", "--keep-incomplete")
    wait_until(lambda: "ready" in project.engine_log(), "the engine is ready")
    os.kill(project.engines()[0], signal.SIGKILL)
    process.communicate()
    assert process.returncode == 1
    assert not (project.results / "first/tiny/slow-0.png").exists()
    assert "Nothing to be done" not in project.run("--dry-run", "results/").stdout
