"""What a deployment is built from: the Dockerfile, what goes into its context, and the files for RunPod's hub."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from darkroom.config import Config, ServeConfig
from darkroom.request.render_request import RenderRequest
from darkroom.serve.runpod_schema import read_input

ROOT = Path(__file__).resolve().parents[2]
INSTRUCTION = re.compile(r"^([A-Z]+)\s+(.*)$", re.MULTILINE)
SECRET = re.compile(r"key|token|secret|password|credential", re.IGNORECASE)


def read_json(path: str) -> Any:
    return json.loads((ROOT / path).read_text())


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions with their continued lines joined."""
    return INSTRUCTION.findall((ROOT / "Dockerfile").read_text().replace("\\\n", ""))


def test_hadolint_has_nothing_to_say_about_the_dockerfile() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_tokens_come_as_build_secrets_only() -> None:
    assert not [text for word, text in instructions() if word in ("ARG", "ENV", "LABEL") and SECRET.search(text)]
    (build,) = [text for word, text in instructions() if word == "RUN" and "snakemake" in text]
    assert re.findall(r"--mount=type=secret,id=\w+,env=(\w+)", build) == ["CIVITAI_API_KEY", "HF_TOKEN"]


def test_the_image_runs_as_another_user_than_root_and_without_the_network() -> None:
    last = len(instructions()) - [word for word, _ in reversed(instructions())].index("FROM") - 1
    final = instructions()[last:]
    (user,) = [text for word, text in final if word == "USER"]
    assert int(user) > 0
    assert final.index(("USER", user)) > max(number for number, (word, _) in enumerate(final) if word == "COPY")
    environment = " ".join(text for word, text in final if word == "ENV")
    assert "HF_HUB_OFFLINE=1" in environment
    assert final[-1] == ("CMD", '["darkroom", "runpod"]')
    assert not any("pip install" in text for word, text in final if word == "RUN")


def test_the_base_image_is_pinned_and_python_is_the_one_that_the_lock_file_was_made_with() -> None:
    (image,) = {text.removeprefix("PYTHON_IMAGE=") for word, text in instructions() if text.startswith("PYTHON_IMAGE=")}
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", image)


def test_all_that_is_copied_is_in_the_context() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [text.split()[:-1] for word, text in instructions() if word == "COPY" and "--from" not in text]
    wanted = {path for paths in copied for path in paths} - {".", "${CONFIG}"}
    needed = {"Snakefile", "config", "envs", "profiles", "prompts", "workflow"}
    assert wanted | needed <= allowed
    assert all((ROOT / path).exists() for path in allowed - {"sources"})


def test_the_hubs_description_is_complete() -> None:
    hub = read_json(".runpod/hub.json")
    assert hub["title"] and hub["description"]
    assert (hub["type"], hub["category"], hub["config"]["runsOn"]) == ("serverless", "image", "GPU")
    assert hub["config"]["containerDiskInGb"] > 0 and hub["config"]["gpuCount"] == 1 and hub["config"]["gpuIds"]
    for variable in hub["config"]["env"]:
        assert not SECRET.search(variable["key"])
        assert {"name", "type", "description", "default"} <= set(variable["input"])
    assert all((ROOT / name).is_file() for name in ("README.md", "Dockerfile", "handler.py"))


def test_the_hubs_tests_and_the_local_one_are_jobs_that_the_demo_can_do() -> None:
    tests = read_json(".runpod/tests.json")
    assert tests["config"]["gpuTypeId"] and tests["config"]["gpuCount"] == 1
    jobs = [test["input"] for test in tests["tests"]] + [read_json("test_input.json")["input"]]
    config = Config.model_validate(yaml.safe_load((ROOT / "config/config.yaml").read_text()))
    for job in jobs:
        for settings in read_input(job, ServeConfig()).settings:
            request = RenderRequest.from_settings(settings)
            assert request.width == request.height == 128
            assert {use.name for use in request.all_loras} <= set(config.loras)
    assert all(test["name"] and test["timeout"] > 0 for test in tests["tests"])
