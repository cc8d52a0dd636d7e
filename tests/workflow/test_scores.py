"""Scores with a real Snakemake and tiny random models: what is scored, again after which edit, and where the numbers stand."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.score_files import write_clip, write_head
from tests.workflow.project import Project

SHEET = """\
prompts: [{id: cat, prompt: a cat, seeds: [1]}]
axes: {cfg_scale: [3, 8]}
"""
SCORES = {"fit": {"source": "clip.safetensors"}, "taste": {"source": "head.safetensors", "clip": "fit"}}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A finished study of two cells with two scores. Not to be changed: take `scored`."""
    with Project(tmp_path_factory.mktemp("scored")) as project:
        write_clip(project.folder / "clip.safetensors")
        write_head(project.folder / "head.safetensors")
        project.set_up(SHEET, scores=SCORES)
        yield project


@pytest.fixture
def scored(made: Project, tmp_path: Path) -> Iterator[Project]:
    with made.copy(tmp_path / "project") as project:
        yield project


def in_manifest(project: Project) -> dict[str, dict[str, float] | None]:
    lines = (project.results / "manifest.jsonl").read_text().splitlines()
    return {entry["file"]: entry.get("scores") for entry in map(json.loads, lines)}


def in_table(project: Project) -> dict[str, dict[str, str]]:
    with (project.results / "first/study.csv").open(newline="", encoding="utf-8") as file:
        return {row["file"]: row for row in csv.DictReader(file)}


def files(project: Project) -> dict[str, Path]:
    """The files of scores by the pictures they belong to."""
    folder = project.results / "thumbnails/first/tiny"
    return {f"first/tiny/{path.stem}.png": path for path in folder.glob("*.json")}


def scored_by_run(project: Project, *targets: str) -> set[str]:
    """The pictures that a run scores; no picture is rendered for it."""
    before = {name: path.stat().st_mtime_ns for name, path in files(project).items()}
    assert project.rendered_by(lambda: project.run(*targets)) <= project.pictures().keys() - before.keys()
    return {name for name, path in files(project).items() if path.stat().st_mtime_ns != before.get(name)}


def test_scores_stand_in_the_manifest_and_in_the_studys_table(made: Project) -> None:
    scores = in_manifest(made)
    assert scores.keys() == made.pictures().keys() and len(scores) == 2
    for name, row in in_table(made).items():
        assert list(scores[name] or {}) == ["fit", "taste"]
        assert {key: float(row[key]) for key in ("fit", "taste")} == scores[name]
    assert (made.folder / "models/scores/fit.receipt.json").exists()


def test_what_is_scored_again(scored: Project) -> None:
    assert "Nothing to be done" in scored.run().stdout
    scored.write("prompts/first.yaml", SHEET.replace("[3, 8]", "[3, 8, 9]"))
    new = scored_by_run(scored)
    assert new == {"first/tiny/cat.cfg_scale-9-1.png"} and len(in_table(scored)) == 3
    damaged = "first/tiny/cat.cfg_scale-8-1.png"
    before = files(scored)[damaged].read_text()
    files(scored)[damaged].write_text(before[:-9])
    assert scored_by_run(scored) == {damaged} and files(scored)[damaged].read_text() == before
    files(scored)[damaged].unlink()
    assert scored_by_run(scored, "results/first/") == {damaged} and files(scored)[damaged].read_text() == before


def test_another_model_scores_all_pictures_again_and_none_takes_the_scores_away(scored: Project) -> None:
    before = in_manifest(scored)
    write_head(scored.folder / "head.safetensors", scale=2)
    assert scored_by_run(scored) == scored.pictures().keys()
    after = in_manifest(scored)
    assert all((after[name] or {})["fit"] == (before[name] or {})["fit"] for name in before)
    assert all((after[name] or {})["taste"] != (before[name] or {})["taste"] for name in before)
    scored.configure()
    assert scored_by_run(scored) == set()
    assert set(in_manifest(scored).values()) == {None} and "fit" not in next(iter(in_table(scored).values()))


@pytest.mark.full
def test_a_file_that_does_not_score_is_refused_by_name(scored: Project) -> None:
    scored.configure(scores=SCORES | {"other": {"source": "checkpoint.safetensors"}})
    done = scored.run()
    assert done.returncode == 1 and "E-SCORE score 'checkpoint.safetensors': is neither a CLIP" in done.stdout
    scored.configure(scores={"taste": {"source": "head.safetensors"}})
    done = scored.run()
    assert done.returncode == 1
    logs = [log.read_text() for log in (scored.folder / "logs/score").rglob("*.log")]  # the first run's are there too
    why = "E-SCORE score 'taste': is a head on the image embeddings of a CLIP, and none is named"
    assert any(why in log for log in logs), logs


@pytest.mark.full
def test_a_clip_that_is_none_is_refused_before_anything_runs(scored: Project) -> None:
    scored.configure(scores={**SCORES, "more": {"source": "head.safetensors", "clip": "taste"}})
    done = scored.run()
    assert done.returncode == 2 and "E-CONFIG scores.more.clip = 'taste': is no CLIP among scores" in done.stdout
