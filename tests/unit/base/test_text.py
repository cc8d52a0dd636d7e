"""Names as people write them, and amounts as they read them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkroom.base.text import (
    did_you_mean,
    file_stem,
    format_bytes,
    format_count,
    format_duration,
    format_percent,
    format_progress,
    name_of_stem,
    near_names,
    read_text,
    shorten,
    unknown_name,
)
from darkroom.errors import SheetError


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"a\nb\n", "a\nb\n"),
        (b"a\r\nb\rc", "a\nb\nc"),
        (b"\xef\xbb\xbfa", "a"),
        (b"a\n\xef\xbb\xbfb", "a\nb"),  # two files that were joined
        ("a ä\r\nb".encode("utf-16"), "a ä\nb"),
        (b"\xfe\xff" + "a 猫\nb".encode("utf-16-be"), "a 猫\nb"),
        ("a\u2028b\x85c".encode(), "a\u2028b\x85c"),
        (b"", ""),
    ],
)
def test_a_text_is_read_whatever_editor_saved_it(tmp_path: Path, data: bytes, text: str) -> None:
    (tmp_path / "x.txt").write_bytes(data)
    assert read_text(tmp_path / "x.txt") == text


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"ok\ncaf\xe9\n", "is not UTF-8 text (line 2)"),
        ("a".encode("utf-16-le"), "zero bytes"),
        ("a".encode("utf-32"), "zero bytes"),
        (b"\xff\xfea", "is not UTF-8 text"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path: Path, data: bytes, why: str) -> None:
    (tmp_path / "x.txt").write_bytes(data)
    with pytest.raises(SheetError) as caught:
        read_text(tmp_path / "x.txt", what="prompt sheet", error=SheetError)
    assert why in caught.value.why
    assert (caught.value.what, caught.value.hint) == ("prompt sheet", "save it as UTF-8")


def test_a_folder_and_a_missing_file_are_told_apart(tmp_path: Path) -> None:
    for path, why in ((tmp_path, "is a folder"), (tmp_path / "gone", "does not exist")):
        with pytest.raises(SheetError, match=why):
            read_text(path, error=SheetError)


def test_near_names_come_first_and_are_few() -> None:
    assert near_names("stpes", ["width", "seed", "steps"], most=2)[0] == "steps"
    assert len(near_names("step", ["steps", "stepz", "stepx"], most=2)) == 2
    assert near_names("x", ["steps"]) == []
    assert near_names("a" * 10**6, ["steps"]) == []  # at once: names come from anybody


def test_a_hint_names_what_is_near_or_says_something_else() -> None:
    assert did_you_mean("linse", ["lines", "soft"], "list it") == "did you mean 'lines'?"
    assert did_you_mean("a1", ["a2", "a3"], "list it", most=1) in ("did you mean 'a2'?", "did you mean 'a3'?")
    assert did_you_mean(7, ["lines"], "list it") == "list it"


def test_an_unknown_name_is_compared_without_case_and_separators() -> None:
    assert str(unknown_name("sampler", "EULER-b", ["Euler a", "DDIM"])) == "unknown sampler; did you mean Euler a"
    assert str(unknown_name("sampler", "xyzzy", ["Euler", "DDIM"])) == "unknown sampler; known are Euler, DDIM"


def test_only_what_is_too_long_is_cut() -> None:
    assert shorten("x" * 80) == "x" * 80
    assert shorten("x" * 81) == "x" * 80 + "…"
    assert shorten(12345, 3) == "123…"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (99_400, "99.4 kB"),
        (99_600, "100 kB"),
        (999_600, "1.0 MB"),
        (6_938_040_682, "6.9 GB"),
        (5e12, "5000 GB"),
    ],
)
def test_sizes(count: float, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize(("seconds", "text"), [(4.4, "4 s"), (89, "89 s"), (95, "2 min"), (11_100, "3 h 05 min")])
def test_times(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_counts() -> None:
    assert [format_count(number, "sheet") for number in (0, 1, 1200)] == ["0 sheets", "1 sheet", "1,200 sheets"]


def test_how_far() -> None:
    assert format_progress(2_800_000_000, 6_900_000_000) == "2.8 of 6.9 GB"
    assert format_progress(500_000, 6_900_000_000) == "500 kB of 6.9 GB"
    assert format_percent(999, 1000) == "99 %"
    assert format_percent(0, 0) == "100 %"


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("outline_v1.2-b", "outline_v1.2-b"),
        ("Dark Style (v1.2)", "Dark%20Style%20%28v1.2%29"),
        ("[Pony] neon", "%5BPony%5D%20neon"),
        ("暗黒スタイル", "暗黒スタイル"),
        ("../../etc", "%2E.%2F..%2Fetc"),
        ("50%", "50%25"),
    ],
)
def test_a_name_gives_one_component_of_a_path(name: str, stem: str) -> None:
    assert file_stem(name) == stem


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30))
def test_different_names_give_different_files_and_files_their_names(name: str) -> None:
    stem = file_stem(name)
    assert name_of_stem(stem) == name
    assert not stem.startswith(".")
    assert not set(stem) & set('/\\:*?"<>|{}[]() \n\0')


@pytest.mark.parametrize("stem", ["Dark Style", "50%", "a%2", "%ff", "a%41"])
def test_a_file_that_no_name_gives_is_called_as_it_is(stem: str) -> None:
    assert name_of_stem(stem) == stem
