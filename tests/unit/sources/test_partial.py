"""Partial downloads: what was written is there for the next owner, and nothing that was not."""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path

import pytest

from darkroom.sources.partial import Partial, Version
from darkroom.sources.transfer import FollowingHash

VERSION = Version(10, '"v1"')


def reopened(folder: Path) -> Partial:
    partial = Partial(folder)
    partial.close()
    return partial


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "key.part"


def test_what_was_written_is_there_for_the_next_owner(folder: Path) -> None:
    partial = Partial(folder)
    partial.restart(VERSION)
    partial.write(6, b"gh")
    partial.write(0, b"abc")
    partial.close()
    after = reopened(folder)
    assert list(after.ranges) == [(0, 3), (6, 8)]
    assert after.version == VERSION
    assert after.resumed == 5
    assert after.data.read_bytes() == b"abc\0\0\0gh"


def test_state_is_saved_while_the_download_goes_on(folder: Path) -> None:
    partial = Partial(folder)
    partial.restart(VERSION)
    partial.write(0, b"abc")
    partial.save()
    assert json.loads((folder / "state.json").read_text())["ranges"] == [[0, 3]]
    partial.close()


@pytest.mark.parametrize(
    "state",
    [
        "",
        "[]",
        "{}",
        "[" * 100_000,
        '{"size": 10, "etag": null, "last_modified": null, "is_date_strong": false, "ranges": [[0, 4]]}',
        '{"size": 10, "etag": null, "last_modified": null, "is_date_strong": false, "ranges": [[2, 1]]}',
        '{"size": 10, "etag": null, "last_modified": null, "is_date_strong": false, "ranges": [["x", 1]]}',
    ],
)
def test_state_that_the_data_does_not_bear_out_counts_as_none(folder: Path, state: str) -> None:
    folder.mkdir()
    (folder / "data").write_bytes(b"abc")
    (folder / "state.json").write_text(state)
    after = reopened(folder)
    assert (after.ranges.count, after.version) == (0, Version())


def test_nothing_is_written_once_it_is_closed(folder: Path) -> None:
    partial = Partial(folder)
    partial.write(0, b"first")
    partial.close()
    partial.write(0, b"late")
    assert (folder / "data").read_bytes() == b"first"


def test_what_holds_nothing_is_not_kept(folder: Path) -> None:
    Partial(folder).close()
    assert not folder.exists()


def test_owner_elsewhere_who_wakes_up_writes_into_a_file_of_its_own(folder: Path) -> None:
    sleeper = Partial(folder)
    sleeper.restart(VERSION)
    sleeper.write(0, b"abc")
    sleeper.save()
    now = Partial(folder, is_shared=True)
    now.write(3, b"def")
    sleeper.write(3, b"XYZ")
    now.close()
    assert (folder / "data").read_bytes() == b"abcdef"
    sleeper.close()


def test_hashes_follow_the_front_out_of_order_and_across_a_restart(folder: Path) -> None:
    body = (4).to_bytes(8, "little") + b"{}  " + b"data"
    partial = Partial(folder)
    given_up = FollowingHash(partial)
    partial.write(0, b"other")
    partial.restart(Version(len(body)))
    hashes = [FollowingHash(partial), FollowingHash(partial, data_only=True)]
    for start in (8, 0, 12, 4):
        partial.write(start, body[start : start + 4])
    partial.finish()
    assert [each.hexdigest() for each in hashes] == [hashlib.sha256(each).hexdigest() for each in (body, b"data")]
    given_up.join()
    partial.discard()
    assert not folder.exists()


def test_closing_ends_whoever_waits_for_more(folder: Path) -> None:
    partial = Partial(folder)
    FollowingHash(partial)
    partial.close()
    assert not any(isinstance(thread, FollowingHash) for thread in threading.enumerate())


@pytest.mark.parametrize(
    ("version", "if_range"),
    [
        (Version(etag='"v"'), '"v"'),
        (Version(etag='W/"v"'), None),
        (Version(last_modified="yesterday", is_date_strong=True), "yesterday"),
        (Version(last_modified="just now"), None),
        (Version(etag='W/"v"', last_modified="yesterday", is_date_strong=True), None),
        (Version(), None),
    ],
)
def test_only_what_tells_two_versions_apart_asks_for_one(version: Version, if_range: str | None) -> None:
    assert version.if_range == if_range


@pytest.mark.parametrize(
    ("other", "differs"),
    [
        (Version(10, '"v1"'), False),
        (Version(None, '"v1"'), False),
        (Version(10, '"v2"'), True),
        (Version(11, '"v1"'), True),
        (Version(10, None, "a day"), False),
        (Version(), False),
    ],
)
def test_versions_differ_where_both_say_something_else(other: Version, differs: bool) -> None:
    assert VERSION.differs_from(other) == differs
