"""The ways to start the workflow: its own Snakefiles, a project of its own, and another workflow that takes it as a module."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from darkroom.base.strict_yaml import load_yaml
from darkroom.config import parse_config
from tests.fixtures.tiers import full_except
from tests.workflow.fork_server import run_snakemake
from tests.workflow.project import ROOT, Project

MODULE = """\
import darkroom as package


configfile: "config/config.yaml"


module darkroom:
    snakefile:
        package.snakefile()
    config:
        config


use rule * from darkroom
"""
OWN_THREADS = """

use rule render_picture from darkroom with:
    threads: 1
"""
OWN_ONSTART = """

onstart:
    darkroom.start()
    shell("touch started")
"""
NOTHING = "Nothing to be done"
DOCUMENTED = re.search(r"```python\n(.*?)```", (ROOT / "docs/how-to/project.md").read_text(), re.DOTALL)


def snakemake(project: Project, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`snakemake --cores 1 ARGUMENTS` in the project's folder, with whatever Snakefile Snakemake finds there."""
    return run_snakemake(["--cores", "1", *arguments], project.folder, project.environment())


def init(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "darkroom.cli", "init", folder], capture_output=True, text=True)


def test_each_entrance_finds_done_what_another_made(project: Project) -> None:
    for snakefile in ("Snakefile", "workflow/Snakefile"):
        done = snakemake(project, "--snakefile", str(ROOT / snakefile), "results/")
        assert done.returncode == 0 and NOTHING in done.stdout, done.stdout


def test_a_module_without_a_configuration_reads_the_default_or_the_given_one(project: Project) -> None:
    """Snakemake reads a module's files again for each `use rule`."""
    without = MODULE.replace('configfile: "config/config.yaml"', "").replace("    config:\n        config\n", "")
    project.write("Snakefile", without + OWN_THREADS)
    done = snakemake(project)
    assert done.returncode == 0 and NOTHING in done.stdout, done.stdout
    (project.folder / "config/config.yaml").rename(project.folder / "mine.yaml")
    done = snakemake(project, "--configfile", "mine.yaml")
    assert done.returncode == 0 and NOTHING in done.stdout, done.stdout


@pytest.mark.parametrize("changes", full_except([OWN_THREADS], ["", OWN_THREADS]))
def test_another_workflow_takes_it_as_a_module(changes: str, project: Project) -> None:
    project.write("Snakefile", MODULE + changes)
    done = snakemake(project)
    assert done.returncode == 0 and NOTHING in done.stdout, done.stdout
    (project.folder / "models/verified/tiny.json").unlink()
    picture = "first/tiny/circle-1.png"
    (project.results / picture).unlink()
    assert picture in project.rendered_by(lambda: snakemake(project, "results/"))


def test_the_documented_module_has_names_and_a_configuration_of_its_own(project: Project) -> None:
    """Without config/config.yaml, and with all rules renamed."""
    assert DOCUMENTED is not None
    project.write("Snakefile", DOCUMENTED[1])
    config = project.folder / "config/config.yaml"
    project.write("study.yaml", yaml.safe_dump({"pictures": yaml.safe_load(config.read_text())}))
    config.unlink()
    (project.results / "first/contact-sheet.png").unlink()
    done = snakemake(project, "darkroom_results/")
    assert done.returncode == 0, done.stdout
    assert "localrules" not in done.stdout
    assert (project.results / "first/contact-sheet.png").exists()


@pytest.mark.parametrize("key", ['prefix: "study"', 'replace_prefix: {"models/": "elsewhere/"}'])
def test_a_modules_prefix_is_refused_while_planning(key: str, project: Project) -> None:
    project.write("Snakefile", MODULE.replace("    config:\n", f"    {key}\n    config:\n"))
    done = snakemake(project, "--dry-run")
    assert done.returncode == 2
    assert done.stdout.splitlines()[-1].startswith("E-CONFIG path '")
    assert "leave prefix and replace_prefix out" in done.stdout


def test_a_configuration_that_is_given_is_the_whole_configuration(project: Project) -> None:
    """As for `darkroom serve --config`: nothing of config/config.yaml is mixed in."""
    config = project.folder / "config/config.yaml"
    mine = yaml.safe_load(config.read_text())
    project.write("mine.yaml", yaml.safe_dump(mine))
    other = {"other": {"source": "checkpoint.safetensors"}}
    config.write_text(yaml.safe_dump(mine | {"checkpoints": mine["checkpoints"] | other, "render": {"steps": 9}}))
    done = project.run("--configfile", "mine.yaml", "--", "results/")
    assert done.returncode == 0 and NOTHING in done.stdout, done.stdout


@pytest.mark.parametrize("onstart", full_except([OWN_ONSTART], ["", OWN_ONSTART]))
def test_a_module_too_says_what_it_makes_in_a_shared_models_folder(onstart: str, empty: Project) -> None:
    empty.write("Snakefile", MODULE + onstart)
    done = snakemake(empty, "models/")
    assert done.returncode == 0, done.stdout
    assert (empty.folder / "started").exists() == bool(onstart)
    makers = json.loads((empty.folder / "models/.runs/makers.json").read_text())
    assert {maker["project"] for maker in makers.values()} == {str(empty.folder)}


def test_a_new_project_renders_the_demo_once(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    done = init(folder)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["study"]
    sheet = folder / "prompts/demo.yaml"
    text = "checkpoints: [demo]\nprompts: [{id: circle, prompt: 'a red circle <lora:outline:1>', steps: 2}]\n"
    sheet.write_text(text, encoding="utf-8")
    config = folder / "config/config.yaml"
    config.write_text(config.read_text(encoding="utf-8").replace("  - prompts/study.yaml\n", ""), encoding="utf-8")
    shutil.move(folder, tmp_path / "moved")
    project = Project(tmp_path / "moved")
    try:
        done = snakemake(project)
        assert done.returncode == 0, done.stdout
        assert "profiles/default" in done.stdout
        assert list(project.pictures()) == ["demo/demo/circle-0.png"]
        assert "results/: 1 picture and all pages" in done.stdout
        assert "circle-0.png" not in done.stdout  # at its end a run would list every picture on one line
        done = snakemake(project, "results/")
        assert done.returncode == 0 and NOTHING in done.stdout, done.stdout
    finally:
        project.close()


def test_a_new_projects_configuration_is_the_repositorys(tmp_path: Path) -> None:
    assert init(tmp_path / "study").returncode == 0
    given, ours = (load_yaml(root / "config/config.yaml") for root in (tmp_path / "study", ROOT))
    for section in ("checkpoints", "loras"):
        for made, own in zip(given[section].values(), ours[section].values(), strict=True):
            copy, original = tmp_path / "study" / made.pop("source"), ROOT / own.pop("source")
            assert copy.read_bytes() == original.read_bytes() and not copy.is_symlink()
    assert given == ours
    assert "of Darkroom's repository." in (tmp_path / "study/config/config.yaml").read_text()
    parse_config(load_yaml(tmp_path / "study/config/config.yaml"), "config.yaml")
    for profile in ("default", "slurm"):
        assert yaml.safe_load((tmp_path / f"study/profiles/{profile}/config.yaml").read_text())


@pytest.mark.parametrize("kind", ["folder", "empty folder", "file", "dangling link"])
def test_init_touches_nothing_that_exists(kind: str, tmp_path: Path) -> None:
    target = tmp_path / "study"
    if kind == "file":
        target.write_text("mine")
    elif kind == "dangling link":
        target.symlink_to("nowhere")
    else:
        target.mkdir()
        if kind == "folder":
            (target / "config.yaml").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    done = init(target)
    assert done.returncode == 2
    assert done.stderr == f"E-PROJECT folder '{target}': exists already. Hint: name a folder that doesn't exist yet.\n"
    assert sorted(tmp_path.rglob("*")) == before


def test_init_leaves_nothing_half_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from darkroom.base import files
    from darkroom.cli import init

    write, written = files.write_bytes, []

    def fail_at_the_third(path: Path, data: bytes) -> None:
        written.append(path)
        if len(written) == 3:
            raise OSError("no more")
        write(path, data)

    monkeypatch.setattr(files, "write_bytes", fail_at_the_third)
    with pytest.raises(OSError, match="no more"):
        init.create(tmp_path / "study")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_appears_meanwhile_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from darkroom.base import files
    from darkroom.cli import init
    from darkroom.errors import ProjectError

    write = files.write_bytes

    def write_and_interfere(path: Path, data: bytes) -> None:
        write(path, data)
        (tmp_path / "study").mkdir(exist_ok=True)
        (tmp_path / "study/theirs").write_text("theirs")

    monkeypatch.setattr(files, "write_bytes", write_and_interfere)
    with pytest.raises(ProjectError):
        init.create(tmp_path / "study")
    assert [path.name for path in tmp_path.rglob("*")] == ["study", "theirs"]
