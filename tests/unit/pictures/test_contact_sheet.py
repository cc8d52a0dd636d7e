from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from PIL import Image, ImageChops, ImageStat

from darkroom.errors import ImageError
from darkroom.pictures import contact_sheet
from darkroom.pictures.contact_sheet import make_contact_sheet
from darkroom.pictures.formats import check_picture
from darkroom.pictures.gallery import build_gallery
from darkroom.pictures.picture import shorten_middle
from darkroom.pictures.records import FOLDER, load_index, save_index, thumbnail_path
from tests.fixtures.pictures import make_picture, make_pictures
from tests.unit.pictures.spoiling import spoil


def make(results: Path, pictures, columns: int = 3, thumbnail_px: int = 160) -> Image.Image:
    out = results / "shapes" / "contact-sheet.png"
    make_contact_sheet(results, pictures, out, columns=columns, thumbnail_px=thumbnail_px)
    check_picture(out)
    return Image.open(out).convert("RGB")


def test_every_picture_is_on_the_page(tmp_path: Path) -> None:
    pictures = make_pictures(tmp_path, 5)
    page = make(tmp_path, pictures)
    on_page = set(page.get_flattened_data())
    for picture in pictures:
        corner = Image.open(tmp_path / picture.path).convert("RGB").getpixel((0, 0))
        assert corner in on_page, picture.request["prompt"]


@pytest.mark.parametrize("size", [64, 160, 512])
def test_a_square_shows_the_picture_in_the_square_s_size(tmp_path: Path, size: int) -> None:
    page = make(tmp_path, [make_picture(tmp_path, 3, size=size)], thumbnail_px=160)
    whole = Image.open(tmp_path / "shapes/alpha/scene-03-103.png").convert("RGB")
    top = 32 + contact_sheet._Layout(1, 160).heading
    square = page.crop((32, top, 32 + 160, top + 160))
    fitted = whole.resize((160, 160), Image.Resampling.LANCZOS)
    assert max(ImageStat.Stat(ImageChops.difference(square, fitted)).mean) < 2


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


def test_a_difference_that_cannot_be_seen_makes_another_file(tmp_path: Path) -> None:
    out = tmp_path / "shapes" / "contact-sheet.png"
    make(tmp_path, [make_picture(tmp_path, 1)])
    first = out.read_bytes()
    make(tmp_path, [make_picture(tmp_path, 1, warnings=["the picture shows one colour"])])
    assert out.read_bytes() != first


def test_one_edited_picture_alone_is_read_again(tmp_path: Path) -> None:
    pictures = make_pictures(tmp_path, 5)
    make(tmp_path, pictures)
    pictures[2] = make_picture(tmp_path, 2, prompt="another prompt altogether")
    shutil.copytree(tmp_path / "shapes/alpha", tmp_path / "whole/shapes/alpha")
    spoil(tmp_path, pictures[:2] + pictures[3:])
    page = make(tmp_path, pictures)
    assert page.tobytes() == make(tmp_path / "whole", pictures).tobytes()


def test_the_gallery_reads_no_picture_that_is_on_a_contact_sheet(tmp_path: Path) -> None:
    shapes, signs = make_pictures(tmp_path, 3), make_pictures(tmp_path, 3, sheet="signs")
    make(tmp_path, shapes, thumbnail_px=48)
    make(tmp_path, signs, thumbnail_px=48)
    spoil(tmp_path, shapes + signs)
    build_gallery(tmp_path, shapes + signs, {}, title="Darkroom", thumbnail_px=48)
    assert len((tmp_path / "manifest.jsonl").read_text().splitlines()) == 6


def test_sheets_can_be_made_at_the_same_time(tmp_path: Path) -> None:
    sheets = {sheet: make_pictures(tmp_path / "results", 12, sheet=sheet) for sheet in ("shapes", "signs")}
    plan = {
        "sheets": {sheet: [asdict(picture) for picture in pictures] for sheet, pictures in sheets.items()},
        "config": {
            "gallery": {"columns": 4, "thumbnail_px": 48, "title": "T"},
            "models_dir": "models",
            "checkpoints": {},
        },
    }
    (tmp_path / "plan.json").write_text(json.dumps(plan))

    def start(*words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", "darkroom.cli", *words, "--plan", "plan.json"], cwd=tmp_path)

    jobs = [start("contact-sheet", sheet, "--output", f"results/{sheet}/contact-sheet.png") for sheet in sheets]
    assert [job.wait() for job in jobs] == [0, 0]
    for pictures in sheets.values():
        spoil(tmp_path / "results", pictures)
    assert start("gallery").wait() == 0


def test_without_the_thumbnails_folder_the_page_is_the_same(tmp_path: Path) -> None:
    pictures = make_pictures(tmp_path, 3, size=200)
    page = make(tmp_path, pictures)
    shutil.rmtree(tmp_path / FOLDER)
    assert make(tmp_path, pictures).tobytes() == page.tobytes()


def test_a_damaged_thumbnail_is_made_again(tmp_path: Path) -> None:
    pictures = make_pictures(tmp_path, 2)
    page = make(tmp_path, pictures)
    path = tmp_path / thumbnail_path(pictures[1].name)
    path.write_bytes(bytes(path.stat().st_size))
    assert make(tmp_path, pictures).tobytes() == page.tobytes()


def test_a_damaged_thumbnail_of_an_earlier_version_is_named_with_the_folder_to_delete(tmp_path: Path) -> None:
    pictures = make_pictures(tmp_path, 2)
    make(tmp_path, pictures)
    index = load_index(tmp_path, pictures[0].sheet)
    older = {name: replace(each, thumbnail_mtime_ns=0, thumbnail_sha256="") for name, each in index.items()}
    save_index(tmp_path, pictures[0].sheet, older)
    path = tmp_path / thumbnail_path(pictures[1].name)
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(ImageError, match=rf"E-IMAGE thumbnail '{path}': .*delete {tmp_path / FOLDER} and run"):
        make(tmp_path, pictures)


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


def test_a_page_that_would_be_too_high_for_viewers_has_longer_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = make_pictures(tmp_path, 12)
    before = make(tmp_path, pictures, columns=2)
    monkeypatch.setattr(contact_sheet, "MOST_EDGE", before.height - 1)
    page = make(tmp_path, pictures, columns=2)
    assert page.height < before.height
    assert page.width > before.width


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


@pytest.mark.parametrize("prompts", [("日本", "中国"), ("שלום", "עולם"), ("😀", "😎")])
def test_prompts_in_other_scripts_are_drawn_with_their_own_letters(tmp_path: Path, prompts: tuple[str, str]) -> None:
    one, other = (make(tmp_path, [make_picture(tmp_path, 1, prompt=prompt)], thumbnail_px=200) for prompt in prompts)
    assert ImageChops.difference(one, other).getbbox() is not None


def test_a_long_prompt_in_another_script_stays_within_its_lines(tmp_path: Path) -> None:
    page = make(tmp_path, [make_picture(tmp_path, 1, prompt="とても長い" * 5000)], thumbnail_px=200)
    short = make(tmp_path, [make_picture(tmp_path, 1, prompt="a")], thumbnail_px=200)
    assert page.size == short.size
    assert ImageChops.difference(page, Image.new("RGB", page.size, contact_sheet.PAPER)).getbbox()[3] < page.height - 20
