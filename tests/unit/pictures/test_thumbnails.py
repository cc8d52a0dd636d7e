from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from PIL import Image

from darkroom.base.files import TEMPORARY_PREFIX, temporary_path
from darkroom.errors import BadNameError, ImageError
from darkroom.pictures.formats import PNG
from darkroom.pictures.records import FOLDER, index_path, thumbnail_path
from darkroom.pictures.thumbnails import remove_stale, update_thumbnails
from tests.fixtures.pictures import make_picture, make_pictures


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the pictures that were read and decoded."""
    names: list[str] = []
    original = PNG.decode

    def spy(data: bytes, path: Path) -> Image.Image:
        names.append(path.name)
        return original(data, path)

    monkeypatch.setattr(PNG, "decode", spy)
    return names


def files_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def test_thumbnails_are_small_and_records_true(tmp_path: Path) -> None:
    pictures = make_pictures(tmp_path, 3, size=128)
    for picture, record in zip(pictures, update_thumbnails(tmp_path, pictures, 48), strict=True):
        assert size_of(tmp_path / thumbnail_path(picture.name)) == (48, 48)
        assert (record.thumbnail_width, record.thumbnail_height) == (48, 48)
        assert (record.width, record.height) == (128, 128)
        assert record.sha256 == hashlib.sha256((tmp_path / picture.path).read_bytes()).hexdigest()
        assert record.infotext.startswith(picture.request["prompt"])


def test_small_pictures_are_not_enlarged(tmp_path: Path) -> None:
    (record,) = update_thumbnails(tmp_path, make_pictures(tmp_path, 1), 256)
    assert (record.thumbnail_width, record.thumbnail_height) == (64, 64)


@pytest.mark.parametrize(("edge", "is_exact"), [(65, True), (64, False), (48, False)])
def test_pictures_that_contact_sheets_enlarge_are_kept_to_the_pixel(tmp_path: Path, edge: int, is_exact: bool) -> None:
    (picture,) = make_pictures(tmp_path, 1, size=64)
    update_thumbnails(tmp_path, [picture], edge)
    with Image.open(tmp_path / picture.path) as whole, Image.open(tmp_path / thumbnail_path(picture.name)) as small:
        assert (whole.convert("RGB").tobytes() == small.convert("RGB").tobytes()) is is_exact


def test_an_update_reads_only_what_changed(tmp_path: Path, decoded: list[str]) -> None:
    pictures = make_pictures(tmp_path, 4)
    first = update_thumbnails(tmp_path, pictures, 48)
    assert len(decoded) == 4
    decoded.clear()
    assert update_thumbnails(tmp_path, pictures, 48) == first
    assert decoded == []

    changed = make_picture(tmp_path, 2, prompt="another prompt altogether")
    again = update_thumbnails(tmp_path, [*pictures[:2], changed, pictures[3]], 48)
    assert decoded == ["scene-02-102.png"]
    assert again[2].infotext.startswith("another prompt")
    assert [again[i] for i in (0, 1, 3)] == [first[i] for i in (0, 1, 3)]


def test_a_picture_of_the_same_size_but_newer_is_read_again(tmp_path: Path, decoded: list[str]) -> None:
    (picture,) = make_pictures(tmp_path, 1)
    update_thumbnails(tmp_path, [picture], 48)
    path = tmp_path / picture.path
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    update_thumbnails(tmp_path, [picture], 48)
    assert len(decoded) == 2


def test_another_thumbnail_size_or_a_lost_thumbnail_is_made_again(tmp_path: Path) -> None:
    (picture,) = make_pictures(tmp_path, 1)
    thumbnail = tmp_path / thumbnail_path(picture.name)
    for edge in (48, 32):
        update_thumbnails(tmp_path, [picture], edge)
        assert size_of(thumbnail) == (edge, edge)
    whole = thumbnail.read_bytes()
    thumbnail.unlink()
    update_thumbnails(tmp_path, [picture], 32)
    assert thumbnail.read_bytes() == whole
    thumbnail.write_bytes(whole[:-20])
    update_thumbnails(tmp_path, [picture], 32)
    assert thumbnail.read_bytes() == whole


def test_thumbnails_without_a_picture_go_and_so_do_their_folders(tmp_path: Path) -> None:
    pictures = make_pictures(tmp_path, 2)
    others = [make_picture(tmp_path, 0, checkpoint="beta"), make_picture(tmp_path, 0, sheet="signs")]
    update_thumbnails(tmp_path, [*pictures, *others], 48)
    (tmp_path / FOLDER / "index.json").write_text("{}")  # of no sheet
    remove_stale(tmp_path, pictures[:1])
    assert files_in(tmp_path / FOLDER) == ["shapes/_index.json", "shapes/alpha/scene-00-100.webp"]
    assert not (tmp_path / FOLDER / "shapes/beta").exists()
    assert not (tmp_path / FOLDER / "signs").exists()


def test_unfinished_files_of_dead_processes_go_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    """A study may be measured while the gallery is built."""
    pictures = make_pictures(tmp_path, 1)
    update_thumbnails(tmp_path, pictures, 48)
    living = temporary_path(tmp_path / FOLDER / "shapes/_measures.json")
    dead = living.with_name(f"{TEMPORARY_PREFIX}elsewhere-1-2-3.json")
    for path in (living, dead):
        path.write_text("{}")
    os.utime(dead, (0, 0))
    remove_stale(tmp_path, pictures)
    assert living.exists() and not dead.exists()


def test_an_update_of_one_sheet_leaves_the_others_alone(tmp_path: Path, decoded: list[str]) -> None:
    shapes, signs = make_pictures(tmp_path, 2), make_pictures(tmp_path, 2, sheet="signs")
    update_thumbnails(tmp_path, shapes + signs, 48)
    theirs = {
        name: (tmp_path / name).read_bytes()
        for name in [index_path("signs"), *(thumbnail_path(each.name) for each in signs)]
    }
    decoded.clear()
    update_thumbnails(tmp_path, shapes, 32)
    assert len(decoded) == 2
    assert {name: (tmp_path / name).read_bytes() for name in theirs} == theirs


def test_what_was_read_before_a_damaged_picture_is_remembered(tmp_path: Path, decoded: list[str]) -> None:
    pictures = make_pictures(tmp_path, 3)
    damaged = tmp_path / pictures[2].path
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-40])
    with pytest.raises(ImageError, match=pictures[2].path):
        update_thumbnails(tmp_path, pictures, 48)
    damaged.write_bytes(whole)
    decoded.clear()
    update_thumbnails(tmp_path, pictures, 48)
    assert decoded == [damaged.name]


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"shapes/alpha/scene-00-100": {"size": 1}}', b'{"x": 3}'])
def test_a_damaged_cache_costs_time_only(tmp_path: Path, damage: bytes, decoded: list[str]) -> None:
    pictures = make_pictures(tmp_path, 2)
    first = update_thumbnails(tmp_path, pictures, 48)
    (tmp_path / index_path("shapes")).write_bytes(damage)
    assert update_thumbnails(tmp_path, pictures, 48) == first
    assert len(decoded) == 4


def test_a_missing_picture_is_named(tmp_path: Path) -> None:
    pictures = make_pictures(tmp_path, 2)
    (tmp_path / pictures[1].path).unlink()
    with pytest.raises(ImageError, match=rf"E-IMAGE picture '.*{pictures[1].path}': is missing"):
        update_thumbnails(tmp_path, pictures, 48)


def test_a_picture_that_does_not_say_how_it_was_made_is_named(tmp_path: Path) -> None:
    (picture,) = make_pictures(tmp_path, 1)
    Image.new("RGB", (8, 8)).save(tmp_path / picture.path)
    with pytest.raises(ImageError, match=rf"{picture.path}': does not say how it was made"):
        update_thumbnails(tmp_path, [picture], 48)


def test_a_sheet_in_the_thumbnails_own_folder_is_refused(tmp_path: Path) -> None:
    picture = make_picture(tmp_path, 0, sheet="thumbnails")
    with pytest.raises(BadNameError, match="E-NAME sheet 'thumbnails'"):
        update_thumbnails(tmp_path, [picture], 48)
