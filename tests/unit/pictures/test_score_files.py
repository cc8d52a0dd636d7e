"""Files of scores among the results: the manifest has them, damage is found, and they go where their pictures go."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from darkroom.cli.command import main
from darkroom.config import SECTIONS
from darkroom.pictures.contact_sheet import make_contact_sheet
from darkroom.pictures.damage import ResultsCheck
from darkroom.pictures.gallery import build_gallery
from darkroom.pictures.picture import GalleryPicture, read_manifest
from darkroom.pictures.records import load_index, load_scores, scores_path
from darkroom.request.render_request import RenderRequest
from darkroom.run.results import find_not_asked_for, prune_pictures
from darkroom.sources.civitai import _MODEL_TYPES
from tests.fixtures.pictures import make_pictures

RESULTS = Path("results")
SCORES = {"fit": 24.5, "taste": -1.25}


@dataclass(frozen=True)
class Wanted:
    name: str
    path: str
    request: RenderRequest


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[GalleryPicture]:
    """Two pictures with scores, and all their pages."""
    monkeypatch.chdir(tmp_path)
    made = make_pictures(RESULTS, 2)
    make_contact_sheet(RESULTS, made, RESULTS / "shapes/contact-sheet.png", columns=3, thumbnail_px=32)
    for name, record in load_index(RESULTS, "shapes").items():
        write(name, record.sha256)
    build(made)
    return made


def write(name: str, sha256: str) -> None:
    (RESULTS / scores_path(name)).write_text(json.dumps({"picture": sha256, "scores": SCORES}))


def build(pictures: list[GalleryPicture]) -> None:
    build_gallery(RESULTS, pictures, {}, title="x", thumbnail_px=32, has_scores=True)


def current(pictures: Sequence[GalleryPicture]) -> list[bool]:
    check = ResultsCheck(RESULTS, Path("memory.json"))
    wanted = [Wanted(p.name, p.path, RenderRequest.model_validate(p.request)) for p in pictures]
    check.check_sheet("shapes", wanted)
    found = [check.are_scores_current(each) for each in wanted]
    check.save()
    return found


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


def of_another_picture(path: Path) -> None:
    path.write_text(path.with_name("scene-01-101.json").read_text())


def no_numbers(path: Path) -> None:
    path.write_text(path.read_text().replace("24.5", '"a"'))


DAMAGES = [cut, of_another_picture, no_numbers, Path.unlink]


def test_the_manifest_has_the_scores_and_the_gallery_keeps_their_files(pictures: list[GalleryPicture]) -> None:
    assert [entry["scores"] for entry in read_manifest(RESULTS)] == [SCORES, SCORES]
    build_gallery(RESULTS, pictures[:1], {}, title="x", thumbnail_px=32)
    assert ["scores" in entry for entry in read_manifest(RESULTS)] == [False]
    assert [(RESULTS / scores_path(picture.name)).exists() for picture in pictures] == [True, False]


@pytest.mark.parametrize("damage", DAMAGES)
def test_planning_finds_damaged_scores(damage: Callable[[Path], None], pictures: list[GalleryPicture]) -> None:
    assert current(pictures) == [True, True]
    damage(RESULTS / scores_path(pictures[0].name))
    assert current(pictures) == [False, True]
    assert current(pictures) == [False, True], "found once, it is found again"


def test_known_scores_are_not_read(pictures: list[GalleryPicture]) -> None:
    assert current(pictures) == [True, True]
    name = scores_path(pictures[0].name)
    memory = json.loads(Path("memory.json").read_text())
    (RESULTS / name).write_text("{}")
    status = (RESULTS / name).stat()
    memory[name][:2] = [status.st_size, status.st_mtime_ns]
    Path("memory.json").write_text(json.dumps(memory))
    assert current(pictures) == [True, True]


def test_scores_of_a_picture_that_was_made_again_are_not_its_own(pictures: list[GalleryPicture]) -> None:
    again = make_pictures(RESULTS, 1, steps=9)
    assert current([*again, pictures[1]]) == [False, True]


@pytest.mark.parametrize("damage", DAMAGES)
def test_verify_says_so(
    damage: Callable[[Path], None], pictures: list[GalleryPicture], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", "results"]) == 0
    path = RESULTS / scores_path(pictures[0].name)
    damage(path)
    capsys.readouterr()
    assert main(["verify", "results"]) == 1
    kind = "damaged" if path.exists() else "missing"
    assert capsys.readouterr().out.splitlines() == [f"{kind}: {path}"]


def test_pruning_takes_them_along(pictures: list[GalleryPicture]) -> None:
    trash = prune_pictures(find_not_asked_for([]))
    names = [scores_path(picture.name) for picture in pictures]
    assert all((trash / name).exists() and not (RESULTS / name).exists() for name in names)


def test_scores_are_none_without_their_picture(pictures: list[GalleryPicture]) -> None:
    assert load_scores(RESULTS, pictures[0].name, "0" * 64) is None


def test_civitai_knows_every_kind_of_source() -> None:
    assert _MODEL_TYPES.keys() == set(SECTIONS.values())
