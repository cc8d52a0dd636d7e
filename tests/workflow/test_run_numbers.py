"""The numbers of a run through a real Snakemake: results/run.json, the line at its end, its page, its report and `benchmark:`."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.workflow.project import SETTINGS, Project, wait_until

SHEET = """\
prompts:
  - {id: circle, prompt: a red circle, seeds: [1, 2]}
  - {id: star, prompt: a green star, then: [{hires: {denoising_strength: 0.5}}]}
"""
DEEP = "  - {id: deep, prompt: a picture that fails, clip_skip: 9}\n"
SLOW = "  - {id: slow, prompt: a picture that takes its time, steps: 900}\n"
STUDY = "prompts: [{id: cat, prompt: a cat}]\naxes: {cfg_scale: [3, 5]}\n"


def numbers(project: Project) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((project.results / "run.json").read_text())
    return found


def counts(project: Project) -> tuple[int, ...]:
    pictures = numbers(project)["pictures"]
    return tuple(pictures[name] for name in ("asked", "made", "reused", "failed", "left", "measured"))


def progress(project: Project) -> str:
    """What the gallery says of the run; empty for a finished one."""
    index = project.results / "index.html"
    found = re.search(r'id="progress".*?<strong>(.*?)</strong>', index.read_text() if index.exists() else "")
    return "" if found is None else found[1]


def dry(project: Project) -> str:
    return project.run("--dry-run", "results/").stdout


def test_a_run_tells_its_numbers_and_what_is_reused(empty: Project) -> None:
    """A failed run, one that makes the rest with Snakemake's benchmarks on, and those that make nothing."""
    empty.write("prompts/first.yaml", SHEET + DEEP)
    empty.configure(costs={"per_hour": 3600, "currency": "EUR"})
    done = empty.run("--keep-going", "results/")
    assert done.returncode == 1
    assert "4 pictures made, 0 reused, 1 failed in " in done.stdout and "1 model load " in done.stdout
    assert counts(empty) == (5, 4, 0, 1, 0, 4)
    first = numbers(empty)
    assert first["outcome"] == "failed" and first["stages"]["hires"]["pictures"] == 1
    steps = first["seconds_by_step"]
    assert all(steps[name] > 0 for name in ("fetch", "convert", "verify", "load", "denoise", "png"))
    assert first["model_loads"]["tiny"]["count"] == 1 and first["memory"]["engine_bytes"] > 10**7
    assert first["tokens"] == {"prompt": 4 * 8, "negative": 4 * 2} and first["devices"] == ["cpu"]
    assert first["cost"]["total"] == pytest.approx(first["seconds"], rel=0.01) and first["cost"]["currency"] == "EUR"
    assert first["energy"]["joules"] is not None or first["energy"]["absent"]["processors"]
    assert progress(empty) == "4 of 5 pictures: the run ended before all were made; 1 failed"

    times = empty.times()
    empty.write("prompts/first.yaml", SHEET + DEEP.replace("9", "2"))
    empty.configure(benchmark=True)
    done = empty.run()
    assert done.returncode == 0, done.stdout
    assert counts(empty) == (5, 1, 4, 0, 0, 1) and numbers(empty)["outcome"] == "done"
    assert numbers(empty)["cost"] is None and not progress(empty)
    assert {name: when for name, when in empty.times().items() if "deep" not in name} == times
    measured = [path.relative_to(empty.folder).as_posix() for path in empty.folder.rglob("*.tsv")]
    assert measured == ["logs/render/first/tiny/deep-0.tsv"]
    assert (empty.folder / measured[0]).read_text().startswith("s\th:m:s\tmax_rss")

    second = (empty.results / "run.json").read_bytes()
    assert "Nothing to be done" in empty.run().stdout
    empty.configure()
    assert "Nothing to be done" in dry(empty)
    (empty.results / "first/contact-sheet.png").unlink()
    done = empty.run()
    assert done.returncode == 0 and " made, " not in done.stdout
    assert (empty.results / "run.json").read_bytes() == second
    assert not list((empty.folder / ".snakemake/darkroom/runs").iterdir())


def start_slow(project: Project, **options: Any) -> subprocess.Popen[str]:
    """Start a run with a picture that isn't finished until it is released, and wait until its page says how far the run is."""
    project.write("prompts/first.yaml", SHEET.replace("red", "blue") + SLOW)
    process = project.start("results/", **options)
    wait_until(lambda: " of 5 pictures" in progress(project), "the gallery says how far the run is")
    return process


def test_a_runs_gallery_says_how_far_it_is_and_the_next_run_finishes_it(empty: Project) -> None:
    """One run is ended, one is killed, and one makes the rest."""
    done = empty.run()
    assert done.returncode == 0
    finished = (empty.results / "manifest.jsonl").read_bytes()
    process = start_slow(empty)
    assert "Reload for more." in (empty.results / "index.html").read_text()
    process.send_signal(signal.SIGTERM)
    empty.release()
    output, _ = process.communicate()
    assert process.returncode == 1 and "0 failed" in output
    # Pictures that are in flight are finished, here all of them.
    assert progress(empty) == "5 of 5 pictures: the run ended before its pages were made"
    assert numbers(empty)["outcome"] == "interrupted"
    assert (empty.results / "manifest.jsonl").read_bytes() == finished

    (empty.runtime / "release").unlink()
    (empty.results / "first/tiny/slow-0.png").unlink(missing_ok=True)
    process = start_slow(empty, start_new_session=True)
    process.kill()
    process.communicate()
    assert " of 5 pictures" in progress(empty)
    empty.release()
    done = empty.run()
    assert done.returncode == 0, done.stdout
    assert not progress(empty) and len((empty.results / "manifest.jsonl").read_text().splitlines()) == 5
    assert "Nothing to be done" in empty.run().stdout


def test_the_report_holds_pages_with_captions_and_no_pictures(empty: Project) -> None:
    empty.write("prompts/second.yaml", STUDY)
    empty.configure(sheets=["prompts/first.yaml", "prompts/second.yaml"])
    assert empty.run().returncode == 0
    done = empty.run("--report", "report.zip", "results/")
    assert done.returncode == 0, done.stdout
    added = sorted(re.findall(r"Adding (\S+) ", done.stdout))
    assert added == ["contact-sheet.png", "contact-sheet.png", "grid.png", "study.csv"]
    page = Path(empty.folder, "page.html")
    assert empty.run("--report", page.name, "results/").returncode == 0
    text = page.read_text()
    assert "pictures of the study" in text and "side by side" in text and "Each category is one sheet" in text
    assert "Nothing to be done" in empty.run().stdout


@pytest.mark.full
def test_a_real_engines_work_adds_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the user's number of threads, whether a job runs in Snakemake's process or in a shell, for which Snakemake sets another."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with Project(tmp_path / "real", is_real=True) as project:
        project.folder.mkdir()
        project.set_up(SHEET, render={**SETTINGS, "steps": 4})
        found = numbers(project)
        steps = found["seconds_by_step"]
        assert counts(project) == (4, 4, 0, 0, 0, 4)
        assert steps["encode"] > 0 and steps["decode"] > 0 and steps["denoise"] > 0
        each = sum(steps[name] for name in ("apply", "encode", "denoise", "decode", "png", "rest")) / 4
        assert found["seconds_per_picture"] == pytest.approx(each, rel=0.05)
        assert found["memory"]["engine_bytes"] > 10**8 and found["tokens"]["prompt"] > 0
        assert found["threads"] == [2]
        project.configure(benchmark=True)
        project.make()
        assert counts(project)[1] == 4 and numbers(project)["threads"] == [2]
