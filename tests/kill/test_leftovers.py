"""What killed processes left half-written is gone after the next run; what the living write stays."""

from __future__ import annotations

import fcntl
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from darkroom.base.files import TEMPORARY_PREFIX, temporary_path
from darkroom.base.processes import new_owner
from tests.workflow.project import ROOT, Project

OF_SOMEBODY_DEAD = "from darkroom.base.processes import new_owner; print(new_owner())"


@pytest.fixture(scope="module")
def dead() -> str:
    """An owner whose process has ended."""
    return subprocess.run([sys.executable, "-c", OF_SOMEBODY_DEAD], capture_output=True, text=True, check=True).stdout[
        :-1
    ]


@pytest.mark.parametrize(
    "folder",
    [
        "results",
        "results/first/tiny",
        "results/thumbnails",
        "models/verified",
        "models/checkpoints",
        ".snakemake/darkroom",
    ],
)
def test_unfinished_files_go_if_nobody_writes_them_any_more(project: Project, dead: str, folder: str) -> None:
    theirs = project.folder / folder / f"{TEMPORARY_PREFIX}{dead}.png"
    living = temporary_path(project.folder / folder / "a.png")
    theirs.parent.mkdir(exist_ok=True)
    theirs.touch()
    living.touch()
    assert "Nothing to be done" in project.run().stdout
    assert not theirs.exists()
    assert living.exists()


def test_half_converted_models_go_and_one_that_was_being_exchanged_comes_back(project: Project, dead: str) -> None:
    models = project.folder / "models/diffusers"
    half, old = models / f".half{TEMPORARY_PREFIX}{dead}", models / f".old{TEMPORARY_PREFIX}{dead}"
    (half / "new/unet").mkdir(parents=True)
    (old / "old").mkdir(parents=True)
    assert "Nothing to be done" in project.run().stdout
    assert not half.exists()
    assert not old.exists()
    assert (models / "old").is_dir()


def test_sockets_go_if_their_engines_have(project: Project) -> None:
    folder = project.runtime / "darkroom"
    folder.mkdir(mode=0o700, exist_ok=True)
    for name in ("dead", "living"):
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(folder / f"{name}.sock"))
        (folder / f"{name}.lock").touch()
    with (folder / "living.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "Nothing to be done" in project.run().stdout
    assert {path.name for path in folder.glob("*.sock")} == {"living.sock"}


def test_a_folder_that_a_killed_run_locked_is_free_and_one_that_a_living_run_locked_is_not(
    project: Project, dead: str
) -> None:
    locks = project.folder / ".snakemake/locks"
    locks.mkdir(exist_ok=True)
    (locks / "0.output.lock").write_text("results/index.html\n")
    assert "LockException" in project.run().stdout  # whoever that may be: nothing says that it is dead
    (project.folder / f".snakemake/darkroom/run.claim.{new_owner()}").touch()
    (project.folder / f".snakemake/darkroom/run.claim.{dead}").touch()
    assert "LockException" in project.run().stdout
    assert (locks / "0.output.lock").exists()
    for claim in Path(project.folder / ".snakemake/darkroom").glob("run.claim.*"):
        claim.unlink()
    (project.folder / f".snakemake/darkroom/run.claim.{dead}").touch()
    assert "Nothing to be done" in project.run().stdout
    assert not list(locks.glob("*"))


def test_a_run_that_was_started_in_another_folder_takes_its_marks_away(project: Project, tmp_path: Path) -> None:
    (project.results / "index.html").unlink()
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", "1"]
    command += ["--directory", str(project.folder), "results/"]
    subprocess.run(command, cwd=tmp_path, env=project.environment(), check=True, capture_output=True)
    assert (project.results / "index.html").exists()
    assert not (tmp_path / ".snakemake/darkroom/whole.json").exists()
    assert list(project.folder.rglob("*.claim.*")) == []
