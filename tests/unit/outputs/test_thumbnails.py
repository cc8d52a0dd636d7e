from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from PIL import Image

from darkroom.errors import ImageError, NameError
from darkroom.outputs import thumbnails
from darkroom.outputs.thumbnails import INDEX, thumbnail_path, update_thumbnails
from tests.fixtures.pictures import make_picture, make_pictures


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the pictures that were read and decoded."""
    names: list[str] = []
    original = thumbnails.decode_png

    def spy(data: bytes, path: Path) -> Image.Image:
        names.append(path.name)
        return original(data, path)

    monkeypatch.setattr(thumbnails, "decode_png", spy)
    return names


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def test_thumbnails_are_small_and_records_true(tmp_path: Path) -> None:
    pictures = make_pictures(tmp_path, 3, size=128)
    for picture, record in zip(pictures, update_thumbnails(tmp_path, pictures, 48), strict=True):
        assert size_of(tmp_path / thumbnail_path(picture)) == (48, 48)
        assert (record.thumbnail_width, record.thumbnail_height) == (48, 48)
        assert (record.width, record.height) == (128, 128)
        assert record.sha256 == hashlib.sha256((tmp_path / picture.path).read_bytes()).hexdigest()
        assert record.infotext.startswith(picture.request["prompt"])


def test_small_pictures_are_not_enlarged(tmp_path: Path) -> None:
    (record,) = update_thumbnails(tmp_path, make_pictures(tmp_path, 1), 256)
    assert (record.thumbnail_width, record.thumbnail_height) == (64, 64)


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
    thumbnail = tmp_path / thumbnail_path(picture)
    for edge in (48, 32):
        update_thumbnails(tmp_path, [picture], edge)
        assert size_of(thumbnail) == (edge, edge)
    thumbnail.unlink()
    update_thumbnails(tmp_path, [picture], 32)
    assert thumbnail.exists()


def test_thumbnails_without_a_picture_go_and_so_do_their_folders(tmp_path: Path) -> None:
    pictures = make_pictures(tmp_path, 2)
    other = make_picture(tmp_path, 0, checkpoint="beta")
    update_thumbnails(tmp_path, [*pictures, other], 48)
    update_thumbnails(tmp_path, pictures[:1], 48)
    left = [path.relative_to(tmp_path).as_posix() for path in (tmp_path / "thumbnails").rglob("*") if path.is_file()]
    assert sorted(left) == [INDEX, thumbnail_path(pictures[0])]
    assert not (tmp_path / "thumbnails/shapes/beta").exists()


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"shapes/alpha/scene-00-100": {"size": 1}}', b'{"x": 3}'])
def test_a_damaged_cache_costs_time_only(tmp_path: Path, damage: bytes, decoded: list[str]) -> None:
    pictures = make_pictures(tmp_path, 2)
    first = update_thumbnails(tmp_path, pictures, 48)
    (tmp_path / INDEX).write_bytes(damage)
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
    with pytest.raises(NameError, match="E-NAME sheet 'thumbnails'"):
        update_thumbnails(tmp_path, [picture], 48)
