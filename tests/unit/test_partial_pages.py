"""What a run that failed leaves of a study's grids, and that nothing there makes the failure worse."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from PIL import Image

from darkroom.base.files import write_bytes
from darkroom.config import parse_config
from darkroom.pictures.damage import ResultsCheck
from darkroom.pictures.formats import check_picture
from darkroom.pictures.infotext import write_infotext
from darkroom.run import lifecycle
from darkroom.run.lifecycle import Lifecycle
from darkroom.run.partial_pages import make_partial_pages
from darkroom.run.plan import Plan
from darkroom.sheets.read import PlannedPicture, load_pictures
from tests.fixtures.pngs import encode_png

SHEET = """\
prompts: [{id: cat, prompt: a cat, seeds: [1]}]
axes: {steps: [1, 2], cfg_scale: [3, 4], clip_skip: [1, 2]}
"""
CONFIG: dict[str, Any] = {
    "checkpoints": {"base": {"source": "a.safetensors"}},
    "render": {"width": 64, "height": 64},
    "sheets": ["s.yaml"],
}


def write_picture(picture: PlannedPicture, **changes: Any) -> None:
    request = picture.request.model_copy(update=changes)
    infotext = write_infotext(request, model="base", model_hash="0123456789", version="0.1.0")
    image = Image.new("RGB", (64, 64), (9, 90, 200))
    write_bytes(Path("results", picture.path), encode_png(image, infotext, request.to_json()))


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """A study of two grids with four pictures each, all of which are there."""
    monkeypatch.chdir(tmp_path)
    Path("s.yaml").write_text(SHEET)
    config = parse_config(CONFIG)
    plan = Plan(config, cast("Any", None), load_pictures(config))
    plan.write()
    for picture in plan.sheets["s"]:
        write_picture(picture)
    return plan


def find(plan: Plan, name: str) -> PlannedPicture:
    return next(picture for picture in plan.sheets["s"] if picture.id == name)


def test_grids_of_which_pictures_are_missing_are_drawn_and_no_others(plan: Plan) -> None:
    assert list(make_partial_pages(plan)) == []
    gone = find(plan, "cat.cfg_scale-3.clip_skip-1.steps-1")
    Path("results", gone.path).unlink()
    lines = list(make_partial_pages(plan))
    assert lines == [
        "s: 7 pictures of 8 are there; pages of these:",
        "results/s/study.csv: 8 pictures, 7 of them measured, 1 missing",
        "results/s/study.html: 7 pictures, 1 missing",
        "results/s/grid.png: 1 of 4 pictures missing",
    ]
    check_picture("results/s/grid.png")
    assert not Path("results/s/grid.clip_skip-2.png").exists()


def test_nothing_is_drawn_without_any_picture(plan: Plan) -> None:
    for picture in plan.sheets["s"]:
        Path("results", picture.path).unlink()
    assert list(make_partial_pages(plan)) == []
    assert not list(Path("results/s").glob("grid*"))


def test_a_picture_made_with_other_settings_counts_as_missing(plan: Plan) -> None:
    write_picture(find(plan, "cat.cfg_scale-4.clip_skip-2.steps-2"), prompt="a dog")
    *_, page, grid = make_partial_pages(plan)
    assert page == "results/s/study.html: 7 pictures, 1 missing"
    assert grid == "results/s/grid.clip_skip-2.png: 1 of 4 pictures missing"


def test_a_damaged_picture_costs_its_grid_and_a_line(plan: Plan) -> None:
    damaged = Path("results", find(plan, "cat.cfg_scale-3.clip_skip-1.steps-1").path)
    data = damaged.read_bytes()
    damaged.write_bytes(data[:-20] + b"\0" + data[-19:])
    Path("results", find(plan, "cat.cfg_scale-4.clip_skip-1.steps-1").path).unlink()
    Path("results", find(plan, "cat.cfg_scale-3.clip_skip-2.steps-1").path).unlink()
    Path("results/s/grid.png").write_bytes(b"earlier")
    *pages, first, second = make_partial_pages(plan)
    assert all("E-IMAGE" in page for page in pages[1:])
    assert first.startswith("E-IMAGE") and damaged.name in first and "\n" not in first
    assert second == "results/s/grid.clip_skip-2.png: 1 of 4 pictures missing"
    assert Path("results/s/grid.png").read_bytes() == b"earlier"


def test_the_next_run_draws_such_a_grid_again_whatever_has_become_of_the_missing_picture(plan: Plan) -> None:
    gone = find(plan, "cat.cfg_scale-3.clip_skip-1.steps-1")
    Path("results", gone.path).unlink()
    list(make_partial_pages(plan))
    shown = plan.grids["s"].shown(plan.grids["s"].by_stem["grid"])
    there = [Path("results", each.path) for each in shown if each is not gone]
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in there]
    assert not ResultsCheck(Path("results"), Path("memory.json")).shows("s/grid.png", hashes)


def run_fail(monkeypatch: pytest.MonkeyPatch, pages: Any, **state: bool) -> None:
    monkeypatch.setattr(lifecycle, "make_partial_pages", pages)
    run = SimpleNamespace(**{"makes_files": True, "has_failed_jobs": True} | state)
    watch = SimpleNamespace(stop=lambda: None)
    Lifecycle.fail(cast("Lifecycle", SimpleNamespace(_snakemake=run, _plan=None, _watch=watch)))


def test_what_goes_wrong_after_a_failed_run_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(plan: Plan) -> list[str]:
        raise RuntimeError("a bug")

    run_fail(monkeypatch, fail)
    assert capsys.readouterr().err == "no pages of what is there: a bug\n"


def test_ctrl_c_ends_the_drawing_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(plan: Plan) -> list[str]:
        raise KeyboardInterrupt

    run_fail(monkeypatch, interrupt)
    assert capsys.readouterr().err == "interrupted: the other pages stay as they are\n"


@pytest.mark.parametrize("state", [{"makes_files": False}, {"has_failed_jobs": False}])
def test_nothing_is_drawn_in_a_dry_run_and_after_an_interrupted_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], state: dict[str, bool]
) -> None:
    run_fail(monkeypatch, lambda plan: ["drawn"], **state)
    assert capsys.readouterr().err == ""
    run_fail(monkeypatch, lambda plan: ["drawn"])
    assert capsys.readouterr().err == "drawn\n"
