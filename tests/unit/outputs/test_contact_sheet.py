from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from darkroom.errors import ImageError
from darkroom.outputs import contact_sheet
from darkroom.outputs.contact_sheet import make_contact_sheet
from darkroom.outputs.picture import shorten_middle
from darkroom.outputs.png import check_png
from tests.fixtures.pictures import make_picture, make_pictures


def make(results: Path, pictures, columns: int = 3, thumbnail_px: int = 160) -> Image.Image:
    out = results / "shapes" / "contact-sheet.png"
    make_contact_sheet(results, pictures, out, columns=columns, thumbnail_px=thumbnail_px)
    check_png(out)
    return Image.open(out).convert("RGB")


def test_every_picture_is_on_the_page(tmp_path: Path) -> None:
    pictures = make_pictures(tmp_path, 5)
    page = make(tmp_path, pictures)
    on_page = set(page.get_flattened_data())
    for picture in pictures:
        corner = Image.open(tmp_path / picture.path).convert("RGB").getpixel((0, 0))
        assert corner in on_page, picture.request["prompt"]


def test_columns_decide_the_width_and_groups_stand_apart(tmp_path: Path) -> None:
    pictures = make_pictures(tmp_path, 4)
    assert make(tmp_path, pictures, columns=2).width < make(tmp_path, pictures, columns=4).width
    others = make_pictures(tmp_path, 4, checkpoint="beta")
    one, two = make(tmp_path, pictures, columns=4), make(tmp_path, pictures + others, columns=4)
    assert two.width == one.width
    assert two.height > one.height * 1.8


def test_the_same_pictures_give_the_same_page(tmp_path: Path) -> None:
    pictures = make_pictures(tmp_path, 2)
    assert make(tmp_path, pictures).tobytes() == make(tmp_path, pictures).tobytes()


def test_captions_tell_prompts_apart_by_their_end(tmp_path: Path) -> None:
    start = "a very long prompt that goes on and on, " * 40
    one = make_picture(tmp_path, 1, prompt=start + "at dawn")
    first = make(tmp_path, [one])
    two = make_picture(tmp_path, 1, prompt=start + "at noon")
    assert first.tobytes() != make(tmp_path, [two]).tobytes()


def test_accents_are_drawn_as_letters_not_as_boxes(tmp_path: Path) -> None:
    font = contact_sheet._font(20)
    box = bytes(font.getmask("\U000fffff"))
    assert not [letter for letter in "äöüßéèñçøŁžőαЖ…→·" if bytes(font.getmask(letter)) == box]


def test_damaged_picture_is_named(tmp_path: Path) -> None:
    pictures = make_pictures(tmp_path, 2)
    path = tmp_path / pictures[1].path
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ImageError, match=pictures[1].path) as failure:
        make(tmp_path, pictures)
    assert "delete the file and run the same command again" in str(failure.value)
    assert not (tmp_path / "shapes" / "contact-sheet.png").exists()


def test_a_page_of_very_many_pictures_stays_viewable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contact_sheet, "MAX_PIXELS", 300_000)
    page = make(tmp_path, make_pictures(tmp_path, 12), columns=4, thumbnail_px=256)
    assert page.width * page.height <= 300_000


def test_no_pictures_make_an_empty_page(tmp_path: Path) -> None:
    assert make(tmp_path, []).width > 0


@pytest.mark.parametrize("limit", [1, 3, 5, 20, 60])
def test_shortening_keeps_both_ends_and_the_limit(limit: int) -> None:
    text = "the beginning of it all, " + "middle " * 30 + "the end"
    short = shorten_middle(text, limit)
    assert len(short) <= limit
    assert "…" in short
    if limit >= 20:
        assert short.startswith("the")
        assert short.endswith("end")
    assert shorten_middle("short  and\nsweet", 60) == "short and sweet"
