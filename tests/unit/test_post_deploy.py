"""The environment that Snakemake makes with conda gets the Darkroom that planned the run, wherever the user works."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from darkroom import __version__
from darkroom.cli.command import main
from darkroom.run.plan import prepare_environment

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "envs/darkroom.post-deploy.sh"
# Stands in for the new environment's interpreter: notes each call, and keeps the files that pip was to install from.
FAKE_PYTHON = """\
#!/bin/sh
echo "$@" >> "$KEPT/calls"
for last; do :; done
case "$last" in *.txt | *.lock) cp "$(dirname "$last")"/* "$KEPT" ;; esac
"""


def run_post_deploy(folder: Path, **environment: str) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Run the script from a user's folder; its outcome, and the folder with pip's `calls` and what it was given."""
    (folder / "bin").mkdir()
    (folder / "bin/python").write_text(FAKE_PYTHON)
    (folder / "bin/python").chmod(0o755)
    for name in ("kept", "user", "temporary"):
        (folder / name).mkdir()
    (folder / "user/pyproject.toml").write_text("not Darkroom's")
    (folder / "user/requirements.lock").write_text("torch==0.0.1\n")
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith("DARKROOM_") and name != "PYTHONPATH"
    }
    own = {
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "KEPT": str(folder / "kept"),
        "TMPDIR": str(folder / "temporary"),
    }
    done = subprocess.run(
        ["bash", SCRIPT], cwd=folder / "user", env=inherited | own | environment, capture_output=True, text=True
    )
    assert not list((folder / "temporary").iterdir())
    return done, folder / "kept"


def test_it_installs_the_locked_packages_and_then_the_checkout(tmp_path: Path) -> None:
    done, kept = run_post_deploy(tmp_path, DARKROOM_PYTHON=sys.executable)
    assert done.returncode == 0, done.stderr
    lock = (ROOT / "requirements.lock").read_text()
    assert (kept / "requirements.lock").read_text() == lock
    assert (kept / "darkroom.txt").read_text() == f"--editable {ROOT.as_uri()}\n"
    torch, packages, cuda, darkroom = (kept / "calls").read_text().splitlines()
    assert torch.split()[-1] in lock.splitlines() and torch.split()[-1].startswith("torch==")
    assert "--index-url" not in torch
    assert packages.startswith("-m pip install --no-deps --requirement") and packages.endswith("/requirements.lock")
    assert cuda == f"-m pip install {torch.split()[-1]}"
    assert darkroom.startswith("-m pip install --no-deps --requirement") and darkroom.endswith("/darkroom.txt")


def test_a_build_of_torch_can_be_chosen(tmp_path: Path) -> None:
    done, kept = run_post_deploy(tmp_path, DARKROOM_PYTHON=sys.executable, DARKROOM_TORCH="cpu")
    assert done.returncode == 0, done.stderr
    assert "--index-url https://download.pytorch.org/whl/cpu torch==" in (kept / "calls").read_text().splitlines()[0]


def test_it_says_what_is_missing_and_installs_nothing(tmp_path: Path) -> None:
    without = tmp_path / "without"
    without.mkdir()
    done, kept = run_post_deploy(without)
    assert done.returncode == 1 and "DARKROOM_PYTHON is not set" in done.stderr
    assert not list(kept.iterdir())
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done, kept = run_post_deploy(elsewhere, DARKROOM_PYTHON="/bin/false")
    assert done.returncode == 1 and "no Darkroom can be imported with '/bin/false'" in done.stderr
    assert not list(kept.iterdir())


def test_a_run_names_its_own_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.environ["PATH"])
    for name in ("DARKROOM_LEASE", "DARKROOM_PYTHON", "DARKROOM_VERSION", "DARKROOM_THREADS"):
        monkeypatch.setenv(name, "")
    prepare_environment(SimpleNamespace(is_main=True, is_remote=False))  # type: ignore[arg-type]
    assert os.environ["DARKROOM_PYTHON"] == sys.executable
    assert os.environ["DARKROOM_VERSION"] == __version__


@pytest.mark.parametrize(
    ("is_main", "is_remote", "given", "threads"),
    [
        (True, False, "3", "3"),  # the process that a user started
        (True, False, None, ""),
        (False, False, "1", "5"),  # that of a local job, whose own threads Snakemake has set
        (False, True, "3", ""),  # that of a cluster's job
    ],
)
def test_a_run_keeps_the_users_number_of_threads(
    monkeypatch: pytest.MonkeyPatch, is_main: bool, is_remote: bool, given: str | None, threads: str
) -> None:
    for name in ("PATH", "DARKROOM_LEASE", "DARKROOM_PYTHON", "DARKROOM_VERSION"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.setenv("DARKROOM_THREADS", "5")
    if given is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    prepare_environment(SimpleNamespace(is_main=is_main, is_remote=is_remote))  # type: ignore[arg-type]
    assert os.environ["DARKROOM_THREADS"] == threads


def test_a_job_in_an_environment_of_another_version_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("DARKROOM_VERSION", "0.0.9")
    assert main(["verify", str(tmp_path), "--log", str(tmp_path / "job.log")]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"E-VERSION version '{__version__}': ") and "planned with 0.0.9" in said
    assert (tmp_path / "job.log").read_text() == said
