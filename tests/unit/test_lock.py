"""The lock files: what pip installs is what uv resolved for every Python and platform."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tools.check_lock import BUILT, PLATFORMS, PYTHONS, needed, without_wheel
from tools.export_lock import CUDA_ONLY

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def lines() -> list[str]:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if not line.startswith("#")]


@pytest.fixture(scope="module")
def locked() -> dict[str, str]:
    packages = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))["package"]
    return {package["name"]: package["version"] for package in packages if package["name"] != "darkroom"}


def test_both_lock_files_have_the_same_versions(lines: list[str], locked: dict[str, str]) -> None:
    pinned = {(one := Requirement(line)).name: str(one.specifier) for line in lines}
    assert pinned == {name: f"=={version}" for name, version in locked.items() if not CUDA_ONLY.fullmatch(name)}


def test_no_torchvision_of_another_build_comes_along(locked: dict[str, str]) -> None:
    """spandrel requires it; beside a torch of another build transformers can't be imported."""
    assert "spandrel" in locked and "torchvision" not in locked


def test_a_line_is_a_name_a_version_and_perhaps_a_marker(lines: list[str]) -> None:
    """No hashes, addresses or local versions: each machine has its own build of torch."""
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*( ; .+)?", line) for line in lines)


def test_the_makefile_finds_one_torch(lines: list[str]) -> None:
    (torch,) = [line for line in lines if line.startswith("torch==")]
    assert ";" not in torch


def test_pythons_are_those_that_the_package_allows() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["requires-python"] == f">={PYTHONS[0]},<3.{int(PYTHONS[-1].partition('.')[2]) + 1}"
    assert f"python {project['requires-python']}\n" in (ROOT / "envs/darkroom.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("platform", PLATFORMS)
def test_each_machine_installs_what_its_python_can(python: str, platform: tuple[str, str]) -> None:
    installed = {line.name for line in needed(python, *platform)}
    assert ("backports-zstd" in installed) == (python != "3.14")
    assert {"torch", "diffusers", "snakemake", "pytest", "uvloop"} <= installed
    assert not {"httpx2-jsfetch", "pyreadline3", "brotlicffi"} & installed


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("platform", PLATFORMS)
def test_only_known_packages_are_built_from_source(python: str, platform: tuple[str, str]) -> None:
    assert without_wheel(python, *platform) == [name for name, pythons in BUILT.items() if python in pythons]
