"""The wheel, installed where there is no checkout: it makes a project, converts, verifies, renders and serves."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import urllib.request
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.unit.test_post_deploy import run_post_deploy
from tests.workflow.project import ROOT, Project, wait_until

pytestmark = pytest.mark.full

SOURCES = (
    "LICENSE",
    "README.md",
    "config",
    "envs",
    "profiles",
    "prompts",
    "pyproject.toml",
    "requirements.lock",
    "setup.py",
    "workflow",
)
SHEET = "checkpoints: [demo]\nprompts: [{id: circle, prompt: 'a red circle <lora:outline:1>', steps: 2}]\n"


def pip(*arguments: str | Path, cwd: Path | None = None) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", "--quiet", *arguments], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def make_environment(folder: Path) -> Path:
    """A virtual environment without Darkroom that sees the packages that this one has; its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    here = folder / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
    packages = [path for path in sys.path if Path(path).name == "site-packages"]
    (here / "packages.pth").write_text("".join(f"{path}\n" for path in packages))
    return folder / "bin/python"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing of the build is left in the checkout."""
    folder = tmp_path_factory.mktemp("build")
    (folder / "darkroom").mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(ROOT / name, folder / "darkroom" / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, folder / "darkroom")
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, folder / "darkroom")
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that the wheel is installed in."""
    python = make_environment(tmp_path_factory.mktemp("installed") / "venv")
    pip("--python", python, "install", "--no-deps", "--no-index", wheel)
    return python


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/RECORD")}


def test_it_holds_the_packages_files_and_nothing_that_was_made_from_them(wheel: Path) -> None:
    names = {name for name in contents(wheel) if name.startswith("darkroom/")}
    tracked = subprocess.run(
        ["git", "ls-files", "workflow/darkroom"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert {name for name in names if "/bundle/" not in name} == {
        line.removeprefix("workflow/") for line in tracked.stdout.splitlines()
    }


def test_it_works_without_a_checkout(python: Path, tmp_path: Path) -> None:
    project = Project(tmp_path / "study")
    environment = {name: value for name, value in project.environment().items() if name != "PYTHONPATH"}

    def run(*command: str | Path, cwd: Path = project.folder) -> str:
        done = subprocess.run(
            command, cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    darkroom = python.with_name("darkroom")
    try:
        run(darkroom, "init", "study", cwd=tmp_path)
        place = run(python, "-c", "import darkroom; print(darkroom.snakefile())").strip()
        assert Path(place).is_relative_to(python.parents[1])
        project.write("prompts/demo.yaml", SHEET)
        config = yaml.safe_load((project.folder / "config/config.yaml").read_text())
        del config["checkpoints"]["demo-bf16"]
        project.write("config/config.yaml", yaml.safe_dump(config | {"sheets": ["prompts/demo.yaml"]}))
        run(python, "-m", "snakemake", "--cores", "1", "results/")
        assert list(project.pictures()) == ["demo/demo/circle-0.png"]
        assert "Nothing to be done" in run(python, "-m", "snakemake", "--cores", "1", "results/")
        assert "1 picture is whole" in run(darkroom, "verify", "results")
        run(darkroom, "verify", "models/diffusers/demo", "--deep")
        with (tmp_path / "serve.log").open("wb") as log:
            command = [darkroom, "serve", "--config", "config/config.yaml", "--port", "0"]
            server = subprocess.Popen(command, cwd=project.folder, env=environment, stdout=log, stderr=log)
        try:

            def address() -> str:
                text = (tmp_path / "serve.log").read_text()
                assert server.poll() is None, text
                found = re.search(r"serving .* on (http://\S+)", text)
                return found[1] if found else ""

            wait_until(address, "the server's address in its log")
            with urllib.request.urlopen(address()) as page:
                assert b"<html" in page.read()
            body = json.dumps({"request": {"prompt": "a star", "width": 64, "height": 64, "steps": 2}}).encode()
            request = urllib.request.Request(f"{address()}/render", body, {"content-type": "application/json"})
            with urllib.request.urlopen(request) as answer:
                assert answer.status == 200
        finally:
            server.send_signal(signal.SIGTERM)
            assert server.wait() == 0, (tmp_path / "serve.log").read_text()
    finally:
        project.close()


def test_another_environment_gets_the_same_from_it(wheel: Path, python: Path, tmp_path: Path) -> None:
    done, installed = run_post_deploy(tmp_path, DARKROOM_PYTHON=str(python))
    assert done.returncode == 0, done.stderr
    assert contents(installed / wheel.name) == contents(wheel)
    other = make_environment(tmp_path / "other")
    pip("--python", other, "install", "--no-deps", "--no-index", installed / wheel.name)
    command = [other.with_name("darkroom"), "init", "study"]
    subprocess.run(command, cwd=tmp_path, env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, check=True)
    assert (tmp_path / "study/Snakefile").is_file()
