"""A study's measures and its table: what is compared with what, what makes no visible change, and what is measured again."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from darkroom.base.files import write_bytes
from darkroom.cli.command import main
from darkroom.errors import ImageError
from darkroom.pictures.measures import load_measures, measures_path
from darkroom.pictures.study_csv import name_columns
from tests.fixtures.measured_study import Study, scene

NUMBERS = ("difference", "ssim", "hash", "hash_distance", "clipped", "contrast")


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Study]:
    monkeypatch.chdir(tmp_path)
    return lambda **axes: Study(axes)


def rows() -> list[dict[str, str]]:
    with Path("results/s/study.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_each_cell_is_compared_with_the_base_cell_of_its_seed(study: Callable[..., Study]) -> None:
    made = study(age=["young", "old"])
    made.add(scene(1), seed=1, age="young")
    made.add(scene(1) + np.uint8(3), seed=1, age="old")
    made.add(scene(2), seed=2, age="young")
    made.add(scene(2), seed=2, age="old")
    made.measure()
    measures = made.measures()
    base = measures["cat.age-young-1"]
    assert (base.difference, base.ssim, base.hash_distance, base.unchanged) == (None, None, None, ())
    assert measures["cat.age-old-1"].difference == 3
    assert 0.98 < (measures["cat.age-old-1"].ssim or 0) < 1
    equal = measures["cat.age-old-2"]
    assert (equal.difference, equal.ssim, equal.hash_distance, equal.unchanged) == (0, 1, 0, ("age",))
    assert len({each.hash for each in measures.values()}) == 2
    assert made.unchanged() == {}, "one of its two cells is changed"


def test_clipping_and_contrast_are_those_of_the_picture(study: Callable[..., Study]) -> None:
    half = np.zeros((64, 64, 3), dtype=np.uint8)
    half[:, 32:] = 200
    made = study(age=["young"])
    made.add(half, age="young")
    made.measure()
    (only,) = made.measures().values()
    assert (only.clipped, only.contrast) == (0.5, 100)


def test_an_axis_value_that_does_nothing_is_found_whatever_the_other_axes_say(study: Callable[..., Study]) -> None:
    """As with a VAE that is ignored without a word: `other` is `~`, but `light` does something and `dusk` too."""
    made = study(vae=["~", "other", "light"], time=["noon", "dusk"])
    for number, time in enumerate(("noon", "dusk")):
        made.add(scene(number), vae="~", time=time)
        made.add(scene(number), vae="other", time=time)
        made.add(np.minimum(scene(number), 235) + np.uint8(4 * (number + 1)), vae="light", time=time)
    made.measure()
    assert made.unchanged() == {"vae": {"other"}}
    assert made.measures()["cat.time-dusk.vae-other-1"].unchanged == ("vae",)
    assert made.measures()["cat.time-dusk.vae-other-1"].difference not in (None, 0)
    assert {row["unchanged"] for row in rows() if row["vae"] == "other"} == {"vae"}


def test_a_value_without_a_cell_to_compare_it_with_is_not_called_unchanged(study: Callable[..., Study]) -> None:
    made = study(age=["young", "old"], cfg=["3", "8"])
    made.add(scene(1), age="young", cfg="3")
    made.add(scene(1), age="old", cfg="8")
    made.measure()
    assert made.unchanged() == {} and made.measures()["cat.age-old.cfg-8-1"].difference == 0


def test_a_prompt_that_does_not_have_an_axis_is_compared_without_it(study: Callable[..., Study]) -> None:
    made = study(age=["young", "old"], cfg=["3", "8"])
    for age in ("young", "old"):
        for cfg in ("3", "8"):
            made.add(scene(len(made.pictures)), age=age, cfg=cfg)
    made.add(scene(9), prompt="dog", cfg="3")
    made.add(scene(9), prompt="dog", cfg="8")
    made.measure()
    assert made.measures()["dog.cfg-3-1"].difference is None
    assert made.measures()["dog.cfg-8-1"].difference == 0
    assert made.measures()["dog.cfg-8-1"].unchanged == ("cfg",)
    assert {row["age"] for row in rows() if row["prompt"] == "dog"} == {"~"}
    assert made.unchanged() == {}
    made.add(scene(0), cfg="3")  # a combination that leaves `age` out: it looks as the young one
    made.measure()
    assert made.unchanged() == {"age": {"~"}}


def test_pictures_of_different_sizes_have_a_hash_distance_only(study: Callable[..., Study]) -> None:
    made = study(size=["small", "large"])
    made.add(scene(1), size="small")
    made.add(scene(1, size=96), size="large")
    made.measure()
    large = made.measures()["cat.size-large-1"]
    assert (large.difference, large.ssim, large.unchanged) == (None, None, ())
    assert large.hash_distance is not None and large.hash_distance < 10


def test_what_is_known_is_not_measured_again(study: Callable[..., Study]) -> None:
    made = study(age=["young", "old"], cfg=["3", "8", "9"])
    for age in ("young", "old"):
        for cfg in ("3", "8", "9"):
            made.add(scene(len(made.pictures)), age=age, cfg=cfg)
    assert made.measure() == "6 pictures, 6 of them measured"
    before = made.measures()
    assert made.measure() == "6 pictures, 0 of them measured"
    old, made.pictures = made.pictures, []
    for number, each in enumerate(old):  # the same cells again, one of them with other pixels
        labels = (each.study or {})["axes"]
        made.add(scene(77 if labels == {"age": "old", "cfg": "8"} else number), **labels)
    assert made.measure() == "6 pictures, 1 of them measured"
    after = made.measures()
    assert {name for name in before if before[name] != after[name]} == {"cat.age-old.cfg-8-1"}
    made.pictures.pop()
    assert made.measure() == "5 pictures, 0 of them measured"
    assert len(made.measures()) == len(rows()) == 5
    made.pictures = []
    for number, each in enumerate(old):  # and now the base of all
        made.add(scene(number or 99), **(each.study or {})["axes"])
    assert made.measure() == "6 pictures, 6 of them measured"


def test_what_was_measured_before_a_failure_is_kept(
    study: Callable[..., Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    from darkroom.pictures import measuring

    made = study(age=["young", "old", "dead"])
    for age in ("young", "old", "dead"):
        made.add(scene(len(made.pictures)), age=age)
    real = measuring.read_picture

    def fail(path: Path) -> bytes:
        if "dead" in path.name:
            raise ImageError("picture", path, "can't be read (I/O error)")
        return real(path)

    monkeypatch.setattr(measuring, "read_picture", fail)
    with pytest.raises(AssertionError):
        made.measure()
    monkeypatch.setattr(measuring, "read_picture", real)
    assert made.measure() == "3 pictures, 1 of them measured"


def test_the_table_has_a_row_a_picture_with_its_numbers(study: Callable[..., Study]) -> None:
    made = study(age=["young", "old", "lost"], seed=["~"])
    for prompt in ("a", "b"):
        for age in ("young", "old", "lost"):
            made.add(None if age == "lost" else scene(len(made.pictures)), age=age, prompt=prompt)
    error = "E-LORA LoRA 'lines': doesn't fit. Hint: take another."
    write_bytes(Path("logs/render/s/tiny/b.age-lost-1.log"), f"{error}\n".encode())
    made.measure()
    data = Path("results/s/study.csv").read_bytes()
    assert data.startswith(b"sheet,prompt,checkpoint,seed,draw,age,axis_seed,file,base,sha256,difference,")
    assert data.count(b"\r\n") == data.count(b"\n") == 7
    table = rows()
    assert {(row["sheet"], row["checkpoint"], row["seed"], row["draw"], row["axis_seed"]) for row in table} == {
        ("s", "tiny", "1", "1", "~")
    }
    assert [row["file"] for row in table] == [picture.path for picture in made.pictures]
    assert [row["prompt"] for row in table] == ["a"] * 3 + ["b"] * 3
    missing = [row for row in table if row["age"] == "lost"]
    assert [row["error"] for row in missing] == ["not rendered yet", error]
    assert all(not row[key] for row in missing for key in (*NUMBERS, "sha256"))
    for row, picture in zip(table, made.pictures, strict=True):
        if not row["error"]:
            each = load_measures(Path("results"), "s")[picture.name]
            expected = ["" if getattr(each, key) is None else str(getattr(each, key)) for key in NUMBERS]
            assert [row[key].removesuffix(".0") for key in NUMBERS] == [each.removesuffix(".0") for each in expected]
    assert table[1]["base"] == table[0]["file"] and table[0]["base"] == ""


@pytest.mark.parametrize(
    ("label", "cell"),
    [
        ("-1.5", "-1.5"),
        ("+2", "+2"),
        ("-1e3", "-1e3"),
        ('=HYPERLINK("x")', '\'=HYPERLINK("x")'),
        ("@artist", "'@artist"),
        ("-bright", "'-bright"),
        ("'=x", "''=x"),
        ("'80s", "'80s"),
        ('a "b", c\nd', 'a "b", c\nd'),
        ("naïve 猫", "naïve 猫"),
    ],
)
def test_a_label_is_no_formula_for_a_spreadsheet(label: str, cell: str, study: Callable[..., Study]) -> None:
    made = study(look=["~", label])
    made.add(scene(1), look="~")
    made.add(scene(2), look=label)
    made.measure()
    assert [row["look"] for row in rows()] == ["~", cell]


def test_an_axis_or_a_score_named_as_another_column_gets_a_prefix() -> None:
    names = ["age", "seed", "axis_seed", "hash", "clip"]
    columns = ["age", "axis_seed", "axis_axis_seed", "axis_hash", "clip"]
    named = [*(("axis", name) for name in names), ("score", "clip"), ("score", "taste"), ("score", "error")]
    assert name_columns(named) == [*columns, "score_clip", "taste", "score_error"]


def test_a_damaged_file_of_measures_is_none(study: Callable[..., Study]) -> None:
    made = study(age=["young"])
    made.add(scene(1), age="young")
    made.measure()
    path = Path("results", measures_path("s"))
    for text in ("", "[]", '{"cells": {"x": {}}}', path.read_text().replace('"hash"', '"other"')):
        path.write_text(text)
        assert load_measures(Path("results"), "s") == {}
    assert made.measure() == "1 picture, 1 of them measured"


def test_a_sheet_that_is_no_study_is_refused(study: Callable[..., Study], capsys: pytest.CaptureFixture[str]) -> None:
    study(age=["young"]).measure()
    assert main(["measure", "t", "--plan", "plan.json", "--output", "t.csv"]) == 2
    assert "E-INPUT sheet 't': is no study of the planned run" in capsys.readouterr().err
