"""A finished picture's second name: it outlives the first, and a damaged one is no picture."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from darkroom.cluster.earlier_attempts import keep_picture, restore_picture
from tests.fixtures.pngs import encode_png


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "results/a.png"
    path.parent.mkdir()
    path.write_bytes(encode_png(Image.new("RGB", (8, 8)), "", "{}"))
    return path


def test_it_comes_back_as_it_was(picture: Path, tmp_path: Path) -> None:
    data, name = picture.read_bytes(), tmp_path / "kept/1.png"
    keep_picture(picture, name)
    picture.unlink()
    assert restore_picture(name, picture)
    assert picture.read_bytes() == data
    assert restore_picture(name, picture)  # also where something is


def test_nothing_was_kept(picture: Path, tmp_path: Path) -> None:
    data = picture.read_bytes()
    assert not restore_picture(tmp_path / "kept/1.png", picture)
    assert picture.read_bytes() == data


def test_a_damaged_one_is_dropped(picture: Path, tmp_path: Path) -> None:
    name = tmp_path / "kept/1.png"
    keep_picture(picture, name)
    name.write_bytes(name.read_bytes()[:-4])
    assert not restore_picture(name, tmp_path / "results/b.png")
    assert not name.exists()


def test_where_there_are_no_hard_links_nothing_is_kept(
    picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("not here")

    monkeypatch.setattr("os.link", refuse)
    keep_picture(picture, tmp_path / "kept/1.png")
    assert not restore_picture(tmp_path / "kept/1.png", picture)
    assert picture.exists()
