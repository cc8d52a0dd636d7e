"""What planning finds damaged, missing or out of date among the results, and what it doesn't read for that."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from darkroom.pictures.contact_sheet import make_contact_sheet
from darkroom.pictures.damage import ResultsCheck
from darkroom.pictures.findings import DAMAGED, MISSING, check_results
from darkroom.pictures.gallery import build_gallery
from darkroom.pictures.picture import GalleryPicture
from darkroom.pictures.records import index_path, load_index, thumbnail_path
from darkroom.request.render_request import RenderRequest
from tests.fixtures.pictures import make_pictures
from tests.fixtures.study_pages import make_study
from tests.unit.pictures.spoiling import spoil

THUMBNAIL = thumbnail_path("shapes/alpha/scene-00-100")
PICTURE = "shapes/alpha/scene-00-100.png"


@dataclass(frozen=True)
class Wanted:
    name: str
    path: str
    request: RenderRequest


@dataclass(frozen=True)
class Made:
    """A results folder with three pictures and their pages."""

    folder: Path
    pictures: list[GalleryPicture]

    def build(self) -> None:
        contact_sheet = self.folder / "shapes/contact-sheet.png"
        make_contact_sheet(self.folder, self.pictures, contact_sheet, columns=3, thumbnail_px=32)
        build_gallery(self.folder, self.pictures, {}, title="x", thumbnail_px=32)

    def check(self) -> tuple[dict[str, str], bool, bool]:
        """The damaged pictures, and whether the sheet's pages and the gallery are current."""
        check = ResultsCheck(self.folder, self.folder / "memory.json")
        wanted = [Wanted(p.name, p.path, RenderRequest.model_validate(p.request)) for p in self.pictures]
        state = check.check_sheet("shapes", wanted)
        is_current = check.is_gallery_current(state.hashes)
        check.save()
        return dict(state.damaged), state.is_current, is_current


@pytest.fixture
def made(tmp_path: Path) -> Made:
    results = Made(tmp_path, make_pictures(tmp_path, 3))
    results.build()
    assert results.check() == ({}, True, True)
    return results


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def strip(path: Path) -> None:
    Image.open(path).convert("RGB").save(path)


def swap(path: Path) -> None:
    path.write_bytes(path.with_name("scene-01-101.png").read_bytes())


@pytest.mark.parametrize("damage", [flip, cut, strip, swap])
def test_a_picture_that_is_not_as_it_was_made(damage: Callable[[Path], None], made: Made) -> None:
    damage(made.folder / PICTURE)
    damaged, is_current, _ = made.check()
    assert list(damaged) == [PICTURE] and not is_current
    assert list(made.check()[0]) == [PICTURE], "found once, it is found again"


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
@pytest.mark.parametrize(
    ("path", "is_sheets"),
    [("shapes/contact-sheet.png", True), (THUMBNAIL, True), ("index.html", False), ("manifest.jsonl", False)],
)
def test_a_page_that_is_not_as_it_was_made(
    path: str, is_sheets: bool, damage: Callable[[Path], None], made: Made
) -> None:
    damage(made.folder / path)
    damaged, sheet, gallery = made.check()
    assert not damaged
    assert (sheet, gallery) == ((False, True) if is_sheets else (True, False))
    made.build()
    assert made.check() == ({}, True, True)


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
@pytest.mark.parametrize("kind", ["blocks", "texts", "details"])
def test_a_chunk_of_the_gallery_that_is_not_as_it_was_made(
    kind: str, damage: Callable[[Path], None], made: Made
) -> None:
    (chunk,) = (made.folder / "thumbnails/_gallery").glob(f"{kind}-*.js")
    damage(chunk)
    assert made.check() == ({}, True, False)
    (finding,) = (each for each in check_results(made.folder)[1] if each.path == chunk)
    assert finding.kind == (DAMAGED if chunk.exists() else MISSING)
    assert made.check() == ({}, True, False), "found once, it is found again"
    made.build()
    assert made.check() == ({}, True, True)
    assert check_results(made.folder) == (3, [])


@pytest.mark.parametrize("damage", [cut, Path.unlink])
def test_an_index_that_is_gone(damage: Callable[[Path], None], made: Made) -> None:
    damage(made.folder / index_path("shapes"))
    assert made.check() == ({}, False, True)


def test_pages_of_other_pictures_than_there_are_now(made: Made) -> None:
    """As after a run that failed before its pages: Snakemake may have put the old ones back, with a new time."""
    page = (made.folder / "shapes/contact-sheet.png").read_bytes()
    made.pictures[:1] = make_pictures(made.folder, 1, steps=9)
    assert not made.check()[1]
    made.build()
    (made.folder / "shapes/contact-sheet.png").write_bytes(page)
    assert not made.check()[1]


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
def test_a_studys_page_that_is_not_as_it_was_made(damage: Callable[[Path], None], tmp_path: Path) -> None:
    study = make_study(tmp_path / "results", {"look": ("a", "b")})
    before = study.make_page().read_bytes()
    hashes = [record.sha256 for record in load_index(study.results, "study").values()]

    def check(hashes: list[str] = hashes) -> bool:
        checked = ResultsCheck(study.results, tmp_path / "memory.json")
        found = checked.is_study_page_current("study", hashes)
        checked.save()
        return found

    assert check() and check() and not check([*hashes, "f" * 64])
    damage(study.page)
    assert not check() and not check()
    assert study.make_page().read_bytes() == before
    assert check()


def test_files_that_are_known_are_not_read(made: Made) -> None:
    spoil(made.folder, made.pictures)
    for path in ("shapes/contact-sheet.png", "index.html", "manifest.jsonl", THUMBNAIL):
        status = (made.folder / path).stat()
        (made.folder / path).write_bytes(bytes(status.st_size))
        os.utime(made.folder / path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert made.check() == ({}, True, True)


def test_files_that_were_copied_without_their_times_are_read_once(made: Made) -> None:
    for path in made.folder.rglob("*"):
        os.utime(path, ns=(0, 0))
    assert made.check() == ({}, True, True)
    spoil(made.folder, made.pictures)
    assert made.check() == ({}, True, True)


def test_pages_of_an_earlier_version_are_as_good(made: Made) -> None:
    page = made.folder / "index.html"
    page.write_text(page.read_text().rpartition("<!-- page ")[0])
    assert made.check() == ({}, True, True)
    cut(page)
    assert made.check() == ({}, True, False)
