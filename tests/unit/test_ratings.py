"""Files of ratings, the strengths of pictures that were compared, and sheets that choose pictures by either."""

from __future__ import annotations

import random
from collections.abc import Callable
from math import exp
from pathlib import Path
from typing import Any

import pytest

from darkroom.base.validation import lines_of
from darkroom.cli.command import main
from darkroom.config import parse_config
from darkroom.errors import DarkroomError
from darkroom.sheets.pair_strengths import groups_of, strengths_of
from darkroom.sheets.planned import PlannedSheet
from darkroom.sheets.ratings import Comparison
from darkroom.sheets.read import load_pictures

Read = Callable[..., dict[str, PlannedSheet]]
CONFIG: dict[str, Any] = {
    "checkpoints": {"base": {"source": "a.safetensors"}, "fine": {"source": "b.safetensors"}},
    "render": {"width": 64, "height": 64, "steps": 4},
}
SHEET = "prompts: [{id: cat, prompt: a cat, seeds: [1, 2, 3]}, {id: dog, prompt: a dog, seeds: [1, 2, 3]}]\n"
HEAD = "picture,rating,against,note\n"
RATED = f"""{HEAD}base/cat-1,5,,good
base/cat-2.png,3,,"a ""quoted"" note, with a comma"
fine/cat-2,4,,
base/dog-1,reject,,'-1 for the paws
fine/dog-3,,,only a note
base/cat-9,5,,of a seed that went
base/cat-1,better,base/cat-2,
base/cat-3,worse,base/cat-2,
base/dog-1,tie,base/dog-2,
base/dog-2,better,fine/dog-3,
base/dog-1,better,fine/dog-3,
"""


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Read:
    """Reads the sheet `s`, rated as the file says, and the sheet `z` that begins with pictures chosen from it."""
    monkeypatch.chdir(tmp_path)
    Path("prompts").mkdir()

    def read(ratings: str | bytes | None, chosen: str = "") -> dict[str, PlannedSheet]:
        Path("prompts/s.yaml").write_text(SHEET)
        if ratings is not None:
            data = ratings if isinstance(ratings, bytes) else ratings.encode()
            Path("prompts/s.ratings.csv").write_bytes(data)
        Path("prompts/z.yaml").write_text(
            f"checkpoints: [base, fine]\nprompts:\n  - {{from: {{sheet: s, {chosen}}}, then: [upscale]}}\n"
        )
        sheets = ["prompts/s.yaml", *(["prompts/z.yaml"] if chosen else [])]
        return load_pictures(parse_config({**CONFIG, "sheets": sheets}))

    return read


def chosen(sheets: dict[str, PlannedSheet]) -> list[str]:
    return sorted(f"{p.checkpoint}/{p.id}-{p.seed}" for p in sheets["z"])


def refusals(read: Read, *given: Any) -> list[str]:
    with pytest.raises(DarkroomError) as caught:
        read(*given)
    assert caught.value.code == "E-SHEET"
    return lines_of([caught.value])


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ('rating: ">=4"', ["base/cat-1", "fine/cat-2"]),
        ('rating: ">4"', ["base/cat-1"]),
        ('rating: "<= 4"', ["base/cat-2", "fine/cat-2"]),
        ("rating: 5", ["base/cat-1"]),
        ('rating: "5"', ["base/cat-1"]),
        ("rating: reject", ["base/dog-1"]),
        ("rating: [3, reject]", ["base/cat-2", "base/dog-1"]),
        ('rating: ">=3", ids: [cat]', ["base/cat-1", "base/cat-2", "fine/cat-2"]),
        ("best: 1", ["base/cat-1", "base/dog-1", "base/dog-2"]),  # the two dogs are equal
        ("best: 2, ids: cat", ["base/cat-1", "base/cat-2"]),
        ('best: 1, rating: "<=4"', ["base/cat-2"]),
    ],
)
def test_a_sheet_begins_with_the_pictures_that_are_rated_so(how: str, expected: list[str], read: Read) -> None:
    assert chosen(read(RATED, how)) == expected


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";"])
def test_files_that_spreadsheets_saved_say_the_same(ends: str, encoding: str, delimiter: str, read: Read) -> None:
    plain = read(RATED)["s"].ratings
    text = "\n".join(line.replace(",", delimiter) if '"' not in line else line for line in RATED.splitlines())
    text = text.replace(
        'base/cat-2.png,3,,"a ""quoted"" note, with',
        f'base/cat-2.png{delimiter}3{delimiter}{delimiter}"a ""quoted"" note, with',
    )
    saved = read((text.replace("\n", ends) + ends).encode(encoding))["s"].ratings
    assert plain is not None and saved is not None and saved.as_dict() == plain.as_dict()
    assert plain.pictures["base/cat-2"].note == 'a "quoted" note, with a comma'
    assert plain.pictures["base/dog-1"].note == "-1 for the paws"
    assert plain.pictures["fine/dog-3"].rating == ""


MISTAKES = {
    "base/cat-1,6,,": "rating '6': is neither 1 to 5 nor reject",
    "base/cat-1,rejct,,": "did you mean 'reject'",
    "base/cat-1,4.5,,": "rating '4.5'",
    "base/cat-1,,,": "rating '': is neither",
    "cat-1,4,,": "picture 'cat-1': is no picture's place",
    "results/s/base/cat-1.png,4,,": "write base/cat-1",
    "base\\cat-1,4,,": "write base/cat-1",
    ",4,,": "picture '': is no picture's place",
    "base/cat-1,beter,base/cat-2,": "did you mean 'better'",
    "base/cat-1,4,base/cat-2,": "a rating stands on a line without 'against'",
    "base/cat-1,tie,base/cat-1.png,": "is the picture itself",
    "base/cat-1,better,,": "name it in the column 'against'",
    "base/cat-1,4,,note,with comma": "has 5 cells; the first row names 4",
    "base/dog-1,4,,again": "is rated on line 2 too",
}


def test_all_mistakes_are_told_at_once_with_their_lines(read: Read) -> None:
    text = f"{HEAD}base/dog-1,4,,\n" + "".join(f"{row}\n" for row in MISTAKES)
    lines = refusals(read, text, "rating: 5")
    assert len(lines) == len(MISTAKES), lines  # and none says that no picture is rated 5
    for number, words in enumerate(MISTAKES.values(), 3):
        assert any(words in line and f"prompts/s.ratings.csv:{number}" in line for line in lines), words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "picture,ratng\n",
            "column 'ratng': is unknown in ratings (prompts/s.ratings.csv:1). Hint: did you mean 'rating'",
        ),
        ("picture,note\n", "ratings 'prompts/s.ratings.csv:1': have no column 'rating'"),
        ("", "have no column 'picture'"),
        ("picture,rating,rating\n", "column 'rating': stands there twice"),
        (f'{HEAD}base/cat-1,4,,"open\n', "ratings 'prompts/s.ratings.csv:2': can't be read"),
        (HEAD.encode() + b"base/cat-1,4,,\xff\n", "is not UTF-8 text"),
    ],
)
def test_a_file_that_is_no_table_of_ratings_is_refused(text: str | bytes, words: str, read: Read) -> None:
    assert words in refusals(read, text)[0]


@pytest.mark.parametrize(
    ("ratings", "how", "words"),
    [
        (
            None,
            "rating: 5",
            "sheet 's': has no ratings to choose by: prompts/s.ratings.csv does not exist (prompts/z.yaml:3)",
        ),
        (
            RATED,
            "rating: 1",
            "from 'rating: 1': chooses no picture: of 12 pictures, 4 are rated and 6 compared in prompts/s.",
        ),
        (HEAD, "best: 1", "of 12 pictures, 0 are rated and 0 compared"),
        (
            RATED,
            "rating: 6",
            "from: rating '6': is no rating (prompts/z.yaml:3). Hint: write rating: \">=4\", 5 or reject",
        ),
        (RATED, "rating: good", "from: rating 'good'"),
        (RATED, "rating: true", "from: rating 'True'"),
        (RATED, "best: 0", "from: best '0': is no number from 1 on"),
        (RATED, "rateing: 5", "did you mean 'rating'"),
        (
            f"{HEAD}base/cat-1,better,base/cat-2,\nfine/cat-1,better,fine/cat-2,\n",
            "best: 1",
            "prompt 'cat': has pictures that no chain of comparisons connects: base/cat-1 and fine/cat-1",
        ),
    ],
)
def test_what_chooses_nothing_is_refused(ratings: str | None, how: str, words: str, read: Read) -> None:
    lines = refusals(read, ratings, how)
    assert len(lines) == 1 and words in lines[0], lines


def test_a_pattern_for_sheets_means_no_ratings(read: Read) -> None:
    read(RATED)
    Path("prompts/t.csv").write_text("prompt\na dog\n")
    Path("prompts/z.yaml").unlink()
    assert list(load_pictures(parse_config({**CONFIG, "sheets": ["prompts/*.csv", "prompts/*.yaml"]}))) == ["t", "s"]
    with pytest.raises(DarkroomError, match=r"has the name of a file of ratings"):
        load_pictures(parse_config({**CONFIG, "sheets": ["prompts/s.ratings.csv"]}))


def test_ratings_of_pictures_that_went_are_kept_and_said(read: Read, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = read(RATED)["s"]
    assert sheet.ratings is not None and sheet.ratings.pictures["base/cat-9"].rating == "5"
    line = "prompts/s.ratings.csv: 1 picture that no sheet asks for now; their ratings are kept: base/cat-9"
    assert sheet.notes() == [line]
    for name in ("a", "b"):
        Path(f"{name}.safetensors").write_bytes(b"")
    Path("config.yaml").write_text(
        "checkpoints: {base: {source: a.safetensors}, fine: {source: b.safetensors}}\nsheets: [prompts/s.yaml]\n"
    )
    for verb in ("check", "plan"):
        assert main([verb, "--config", "config.yaml"]) == 0
        assert line in capsys.readouterr().out


def compared(*pairs: str) -> list[Comparison]:
    outcomes = {">": "better", "<": "worse", "=": "tie"}
    return [Comparison(one, outcomes[sign], other) for one, sign, other in pairs]


def test_strengths_are_those_of_bradley_and_terry() -> None:
    """Two pictures, of which one won 7 of 8: half a win for each against 1 moves the ratio of 7 a little towards 1."""
    strengths = strengths_of(compared(*["a>b"] * 7, "b>a"))
    a, b = exp(strengths["a"]), exp(strengths["b"])
    assert pytest.approx(8 * a / (a + b) + a / (a + 1), abs=1e-6) == 7.5
    assert pytest.approx(8 * b / (a + b) + b / (b + 1), abs=1e-6) == 1.5
    assert 4 < a / b < 7


def test_strengths_depend_on_no_order_and_know_ties() -> None:
    pairs = compared("a>b", "b>c", "c>d", "d<b", "a=e", "e>b")
    strengths = strengths_of(pairs)
    shuffled = random.Random(1).sample(pairs, len(pairs))
    assert strengths_of(shuffled) == strengths
    assert strengths["a"] == pytest.approx(strengths["e"], abs=1e-6)
    assert sorted(strengths, key=strengths.__getitem__)[:3] == ["d", "c", "b"]
    assert strengths_of([]) == {}


def test_pictures_that_nothing_connects_are_in_groups_of_their_own() -> None:
    assert groups_of(compared("b>a", "c=b", "z>y")) == {"a": "a", "b": "a", "c": "a", "y": "y", "z": "y"}
