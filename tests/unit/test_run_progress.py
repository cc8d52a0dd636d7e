"""The gallery of a run under way: it says how far the run is, counts as one to be built again, and never replaces a finished one."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import pytest

from darkroom.base import job_notes
from darkroom.pictures.damage import ResultsCheck
from darkroom.pictures.findings import check_results
from darkroom.pictures.gallery import build_gallery
from darkroom.pictures.picture import GalleryPicture
from darkroom.pictures.run_progress import Progress
from darkroom.run import progress_page
from darkroom.run.page_lock import (
    EXPECTED,
    end_progress,
    has_pictures_to_come,
    page_lock,
    pause_after,
    write_expected,
)
from tests.fixtures.pictures import make_pictures

PLAN = Path(".snakemake/darkroom/plan.json")
SIZES = {"title": "Night shift", "thumbnail_px": 64}


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[GalleryPicture]:
    """Three pictures of a project, with its plan, in a run that was to make the last two and has made one of them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    made = make_pictures(Path("results"), 3)
    fields = ("sheet", "checkpoint", "id", "seed", "path", "request")
    sheets = {"shapes": [{name: getattr(picture, name) for name in fields} for picture in made]}
    config = {"models_dir": "models", "checkpoints": {"alpha": {}}, "gallery": SIZES}
    PLAN.parent.mkdir(parents=True)
    PLAN.write_text(json.dumps({"config": config, "sheets": sheets, "studies": {}}))
    monkeypatch.setenv(job_notes.VARIABLE, "run")
    run().mkdir(parents=True)
    write_expected(run(), [f"results/{picture.path}" for picture in made[1:]])
    os.utime(f"results/{made[1].path}")
    return made


def run() -> Path:
    return job_notes.FOLDER / "run"


def page() -> str:
    return Path("results/index.html").read_text(encoding="utf-8")


def hashes(pictures: list[GalleryPicture]) -> list[str]:
    return [hashlib.sha256(Path("results", picture.path).read_bytes()).hexdigest() for picture in pictures]


def test_a_page_shows_what_is_there_and_is_built_again(pictures: list[GalleryPicture]) -> None:
    build_gallery(Path("results"), pictures, {}, **SIZES)
    finished, manifest = page(), Path("results/manifest.jsonl").read_bytes()
    assert progress_page.main([str(run()), str(PLAN)]) == 0
    assert "2 of 3 pictures" in page() and '"count":2' in page() and "Reload for more" in page()
    assert Path("results/manifest.jsonl").read_bytes() == manifest
    for shown in (pictures, pictures[:2]):
        assert not ResultsCheck(Path("results"), Path("memory.json")).is_gallery_current(hashes(shown))
    build_gallery(Path("results"), pictures, {}, **SIZES)
    assert page() == finished
    assert ResultsCheck(Path("results"), Path("memory.json")).is_gallery_current(hashes(pictures))


def test_a_run_that_has_ended_says_how_far_it_came(
    pictures: list[GalleryPicture], capsys: pytest.CaptureFixture[str]
) -> None:
    assert progress_page.main([str(run()), str(PLAN), "--ended", "--failed", "1"]) == 0
    assert "2 of 3 pictures: the run ended before all were made; 1 failed" in page() and "Reload" not in page()
    assert 0 < float(capsys.readouterr().out) <= time.process_time()


def test_no_page_follows_the_finished_one_and_none_is_written_beside_it(pictures: list[GalleryPicture]) -> None:
    with page_lock(is_shared=True) as is_held, page_lock(waits=False) as is_other:
        assert is_held and not is_other
        assert progress_page.main([str(run()), str(PLAN)]) == 0
        assert not Path("results/index.html").exists()
    end_progress()
    assert not (run() / EXPECTED).exists()
    assert progress_page.main([str(run()), str(PLAN)]) == 0
    assert progress_page.main([str(run()), str(PLAN), "--ended"]) == 0
    assert not Path("results/index.html").exists()


def test_no_page_is_started_once_the_last_picture_is_there(pictures: list[GalleryPicture]) -> None:
    assert has_pictures_to_come(run())
    last = Path(f"results/{pictures[2].path}")
    made = last.read_bytes()
    last.unlink()
    assert has_pictures_to_come(run())
    last.write_bytes(made)
    assert not has_pictures_to_come(run())
    last.unlink()
    end_progress()
    assert not has_pictures_to_come(run())


def test_what_it_shows_is_not_called_damaged(pictures: list[GalleryPicture]) -> None:
    build_gallery(Path("results"), pictures, {}, **SIZES)
    progress_page.main([str(run()), str(PLAN)])
    _, findings = check_results(Path("results"))
    assert not [finding for finding in findings if finding.path.name in ("index.html", "manifest.jsonl")]


def test_pages_take_a_small_share_of_one_processor() -> None:
    assert pause_after(0.1) == 15
    assert pause_after(3) == pytest.approx(100)
    text = Progress(1, 1, 0, is_running=True, next_by=9).as_dict()["text"]
    assert text == "1 of 1 picture"
