"""What stands on a page already is copied: the page has the bytes that it would have if all of it were drawn."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL.PngImagePlugin import PngInfo

from darkroom.pictures import contact_sheet, drawn_cells, grid
from darkroom.pictures.contact_sheet import make_contact_sheet
from darkroom.pictures.drawn_cells import DrawnCells
from darkroom.pictures.grid import GridRequest, draw_grid
from darkroom.pictures.grid_parts import split_page
from darkroom.pictures.png_bands import encode_band
from tests.fixtures.pictures import make_pictures
from tests.fixtures.studies import make_study

Draw = Callable[[Path, int], list[str]]
"""Draws a page of so many pictures below a folder at `page.png`, and returns what was fitted to it anew."""


def draw_contact_sheet(results: Path, count: int) -> list[str]:
    pictures = make_pictures(results, count)
    make_contact_sheet(results, pictures, results / "page.png", columns=2, thumbnail_px=160)
    return FITTED.copy()


def draw_study(results: Path, count: int) -> list[str]:
    table, _, layout = make_study(results, {"age": [str(each) for each in range(count)]})
    request = GridRequest(results, table, split_page(table, next(table.all_pages()))[0], layout["axes"])
    draw_grid(request, results / "page.png", {})
    return FITTED.copy()


FITTED: list[str] = []


@pytest.fixture(autouse=True)
def fitted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Counts what is decoded for a page."""
    FITTED.clear()

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            FITTED.append(str(arguments))
            return function(*arguments)

        return call

    monkeypatch.setattr(contact_sheet, "read_thumbnail", counted(contact_sheet.read_thumbnail))
    monkeypatch.setattr(grid, "_fit_picture", counted(grid._fit_picture))
    yield
    FITTED.clear()


@pytest.fixture(params=[draw_contact_sheet, draw_study], ids=["contact sheet", "grid"])
def draw(request: pytest.FixtureRequest) -> Draw:
    chosen: Draw = request.param
    return chosen


def test_a_further_picture_alone_is_decoded(draw: Draw, tmp_path: Path) -> None:
    draw(tmp_path / "old", 4)
    FITTED.clear()
    assert len(draw(tmp_path / "old", 5)) == 1
    draw(tmp_path / "new", 5)
    assert (tmp_path / "old/page.png").read_bytes() == (tmp_path / "new/page.png").read_bytes()


def test_equal_pictures_give_the_same_page_whichever_is_drawn_first(tmp_path: Path) -> None:
    boxes = [(0, 9, 5, 5), (7, 0, 5, 5), (0, 0, 5, 5)]
    chunks = set()
    for order in (boxes, boxes[::-1], boxes[1:] + boxes[:1]):
        cells, info = DrawnCells(tmp_path / "page.png"), PngInfo()
        for box in order:
            cells.add("same", box)
        cells.write(info)
        chunks.add(info.chunks[0][1])
    assert len(chunks) == 1


@pytest.mark.parametrize("damage", ["cut off", "a byte", "not there"])
def test_a_damaged_page_is_drawn_anew(draw: Draw, tmp_path: Path, damage: str) -> None:
    draw(tmp_path, 3)
    page = tmp_path / "page.png"
    whole = page.read_bytes()
    middle = len(whole) // 2
    if damage == "not there":
        page.unlink()
    else:
        page.write_bytes(
            whole[:middle] + (bytes([whole[middle] ^ 1]) + whole[middle + 1 :] if damage == "a byte" else b"")
        )
    FITTED.clear()
    assert len(draw(tmp_path, 3)) == 3
    assert page.read_bytes() == whole


def test_what_another_pillow_drew_is_drawn_anew(draw: Draw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawn_cells, "__version__", "1.0")
    draw(tmp_path, 3)
    monkeypatch.undo()
    (tmp_path / "other").mkdir()
    shutil.copy(tmp_path / "page.png", tmp_path / "other/page.png")
    before = (tmp_path / "page.png").read_bytes()
    draw(tmp_path / "other", 3)
    assert (tmp_path / "other/page.png").read_bytes() != before


def test_an_edited_picture_alone_draws_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 20 pictures in rows of two: the page before is not decoded, and its other rows are kept as they are."""
    draw_contact_sheet(tmp_path / "old", 20)
    edited = make_pictures(tmp_path / "old", 21)[20]
    place = make_pictures(tmp_path / "old", 20)[7]
    (tmp_path / "old" / place.path).write_bytes((tmp_path / "old" / edited.path).read_bytes())
    pictures = make_pictures(tmp_path / "new", 20)
    (tmp_path / "new" / place.path).write_bytes((tmp_path / "old" / edited.path).read_bytes())
    encoded: list[int] = []
    monkeypatch.setattr(contact_sheet, "encode_band", lambda image: encoded.append(1) or encode_band(image))
    FITTED.clear()
    for name, rows in (("old", 1), ("new", 12)):
        encoded.clear()
        sizes: dict[str, Any] = {"columns": 2, "thumbnail_px": 160}
        make_contact_sheet(tmp_path / name, pictures, tmp_path / name / "page.png", **sizes)
        assert len(encoded) == rows
    assert len(FITTED) == 2 + 20
    assert (tmp_path / "old/page.png").read_bytes() == (tmp_path / "new/page.png").read_bytes()
