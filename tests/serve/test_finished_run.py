"""A server beside a finished run: the same checkpoints, the same pictures, bit by bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.fixtures.checkpoints import write_random_checkpoint
from tests.fixtures.serving import LIMIT_S, serve
from tests.workflow.project import DEMO_SHEET, Project

pytestmark = pytest.mark.full

CIRCLE = {"prompt": "a red circle on a blue background", "cfg_scale": 4, "seed": 1}
CONFIG = ("--config", "config/config.yaml")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A run with two checkpoints."""
    project = Project(tmp_path_factory.mktemp("run"), is_real=True)
    checkpoints = {}
    for seed, name in enumerate(("tiny", "other")):
        write_random_checkpoint(project.folder / f"{name}.safetensors", seed=seed)
        checkpoints[name] = {"source": f"{name}.safetensors"}
    project.configure(checkpoints=checkpoints)
    project.write("prompts/first.yaml", DEMO_SHEET)
    done = project.run()
    assert done.returncode == 0, done.stdout
    yield project
    project.close()


@pytest.fixture(scope="module")
def address(finished: Project) -> Iterator[str]:
    with serve(finished.folder, *CONFIG) as address:
        yield address


def render(address: str, model: str, headers: dict[str, str] | None = None, **changes: object) -> httpx.Response:
    body = {"request": {**CIRCLE, **changes}, "model": model}
    answer = httpx.post(f"{address}/render", json=body, headers=headers, timeout=LIMIT_S)
    assert answer.status_code == 200, answer.text
    return answer


def in_results(project: Project, model: str) -> bytes:
    return (project.results / f"first/{model}/circle-1.png").read_bytes()


def count(address: str, metric: str) -> float:
    lines = httpx.get(f"{address}/metrics", timeout=LIMIT_S).text.splitlines()
    return float(next((line.rpartition(" ")[2] for line in lines if line.startswith(f"{metric} ")), 0))


def test_a_finished_picture_is_given_out_and_marked(finished: Project, address: str) -> None:
    before = count(address, 'darkroom_cache_hits_total{cache="results"}')
    for model in ("tiny", "other"):
        answer = render(address, model)
        assert answer.headers["darkroom-cached"] == "true"
        assert answer.content == in_results(finished, model)
    assert count(address, 'darkroom_cache_hits_total{cache="results"}') == before + 2


def test_a_picture_made_anew_is_the_same_bit_by_bit(finished: Project, address: str) -> None:
    for model in ("other", "tiny"):
        answer = render(address, model, {"Cache-Control": "no-cache"})
        assert answer.headers["darkroom-cached"] == "false"
        assert answer.content == in_results(finished, model)
    assert count(address, 'darkroom_model_loads_total{model="other"}') == 1


def test_another_picture_is_rendered(finished: Project, address: str) -> None:
    answer = render(address, "tiny", seed=77)
    assert answer.headers["darkroom-cached"] == "false"
    assert answer.content != in_results(finished, "tiny")


@pytest.mark.full
def test_results_can_be_left_out_and_two_engines_make_the_same_pictures(finished: Project) -> None:
    with serve(finished.folder, *CONFIG, "--no-results", "--device", "cpu", "--device", "cpu") as address:
        for model in ("tiny", "other", "tiny"):
            answer = render(address, model)
            assert answer.headers["darkroom-cached"] == "false"
            assert answer.content == in_results(finished, model)


def test_a_checkpoint_that_is_not_there_ends_the_start(finished: Project, tmp_path: Path) -> None:
    project = finished.copy(tmp_path / "project")
    (project.folder / "models/diffusers/other/model_index.json").unlink()
    with (
        pytest.raises(AssertionError, match="Diffusers format missing - build process failed"),
        serve(project.folder, *CONFIG),
    ):
        pass
