"""The data of a study's page, and what of it stands in the file."""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from darkroom.cli.command import main
from darkroom.errors import ImageError, InputError
from darkroom.pictures.records import read_study_seal, seal_study_page
from darkroom.pictures.study_page import make_study_page
from tests.fixtures.study_pages import Study, make_measures, make_study
from tests.unit.pictures.test_gallery import Page

HOSTILE = "<!--<script </script ><b></script><img src=x onerror=\"document.title='owned'\"><!-- ]]> {{ 7*7 }} & \u2028"
AXES = {"age": ("~", "old"), "cfg_scale": ("4", "8")}


def read(study: Study) -> tuple[Page, dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    """The page's elements, its head, its cells and the texts of all pictures."""
    page = Page(study.page.read_text("utf-8"))
    head, cells, *texts = page.scripts[:-1]
    return page, json.loads(head), unpack(cells), [each for chunk in texts for each in unpack(chunk)]


def unpack(text: str) -> Any:
    return json.loads(gzip.decompress(base64.b64decode(text)))


def places(cells: dict[str, Any]) -> list[int]:
    return [sum(cells["at"][: n + 1]) for n in range(len(cells["at"]))]


def test_every_picture_is_a_cell_at_its_place(tmp_path: Path) -> None:
    study = make_study(tmp_path, AXES, seeds=(1, 2), plain={"age": "~"})
    study.make_page()
    _, head, cells, texts = read(study)
    assert [(each["name"], each["labels"], each["isAxis"]) for each in head["dimensions"]] == [
        ("age", ["~", "old"], True),
        ("cfg_scale", ["4", "8"], True),
        ("prompts", ["scene"], False),
        ("seeds", ["1", "2"], False),
    ]
    assert places(cells) == list(range(8))
    assert [f"study/{file}" for file in cells["file"]] == [picture.path for picture in study.pictures]
    for file, text, picture in zip(cells["file"], texts, study.pictures, strict=True):
        assert (study.page.parent / file).is_file()
        assert (tmp_path / f"thumbnails/{picture.name}.webp").is_file()
        assert text["prompt"] == picture.request["prompt"]
        assert text["parameters"].endswith("Version: darkroom 0.1.0")
    assert (cells["missing"], cells["numbers"]) == ({}, {})


def test_an_excluded_place_has_no_cell_and_texts_stay_with_their_pictures(tmp_path: Path) -> None:
    study = make_study(
        tmp_path, AXES, seeds=range(50), is_excluded=lambda labels: labels == {"age": "~", "cfg_scale": "8"}
    )
    study.make_page()
    _, head, cells, texts = read(study)
    assert (head["cells"], len(places(cells)), head["chunk"]) == (150, 150, 128)
    assert not set(places(cells)) & set(range(50, 100))
    assert [dict(text["settings"])["Seed"] for text in texts] == [str(picture.seed) for picture in study.pictures]


def test_measures_are_columns_and_pictures_without_them_have_none(tmp_path: Path) -> None:
    study = make_study(tmp_path, AXES)
    same = {p.name for p in study.pictures if p.study and p.study["axes"]["cfg_scale"] == "8"}
    measured = {
        p.name: make_measures(n, unchanged=["cfg_scale"] if p.name in same else [], beauty=n / 3)
        for n, p in enumerate(study.pictures[:3])
    }
    study.write_measures(measured)
    study.make_page()
    _, head, cells, _ = read(study)
    assert cells["numbers"]["difference"] == [0.0, 1.0, 2.0, None]
    assert cells["numbers"]["score beauty"] == [0.0, 0.3333, 0.6667, None]
    assert cells["unchanged"] == [0, 2, 0, 0]
    assert head["unchanged"] == [[], [1], []]


def test_a_missing_picture_has_a_cell_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study = make_study(tmp_path / "results", AXES)
    lost, unmade = study.pictures[1], study.pictures[2]
    for picture in (lost, unmade):
        (study.results / picture.path).unlink()
    log = tmp_path / f"logs/render/{lost.name}.log"
    log.parent.mkdir(parents=True)
    log.write_text("starting\nE-OOM picture 'x': it did not fit. Hint: smaller.\n")
    study.make_page()
    _, _, cells, texts = read(study)
    assert cells["missing"] == {"1": "E-OOM picture 'x': it did not fit. Hint: smaller.", "2": "not rendered yet"}
    assert texts[1]["prompt"] == lost.request["prompt"]


def test_a_damaged_picture_is_named_and_the_old_page_stays(tmp_path: Path) -> None:
    study = make_study(tmp_path, AXES)
    before = study.make_page().read_bytes()
    path = tmp_path / study.pictures[1].path
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ImageError, match=re.escape(study.pictures[1].path)):
        study.make_page()
    assert study.page.read_bytes() == before


def test_hostile_texts_stay_text(tmp_path: Path) -> None:
    harmless = make_study(tmp_path / "harmless", {"look": ("a", "b")})
    harmless.make_page()
    hostile = make_study(tmp_path / "hostile", {HOSTILE: ("a", HOSTILE)}, prompt=HOSTILE)
    hostile.make_page()
    page, head, _, texts = read(hostile)
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in read(harmless)[0].elements]
    assert "<" not in page.scripts[0]
    assert head["dimensions"][0]["name"] == HOSTILE
    assert {text["prompt"] for text in texts} == {HOSTILE}


def test_the_page_can_fetch_nothing_and_runs_only_its_own_script(tmp_path: Path) -> None:
    study = make_study(tmp_path, AXES)
    study.make_page()
    page = read(study)[0]
    (policy,) = [a["content"] or "" for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    for tag, attributes in page.elements:
        assert not {"style", "onclick", "onload"} & set(attributes), tag
        assert not re.match("[a-z]+:", attributes.get("src") or attributes.get("href") or ""), tag


def test_the_same_study_gives_the_same_bytes_and_a_seal_that_fits(tmp_path: Path) -> None:
    pages = [make_study(tmp_path / place, AXES).make_page().read_bytes() for place in ("one", "two")]
    assert pages[0] == pages[1]
    seal = read_study_seal(pages[0])
    assert seal is not None and seal[0]
    flipped = bytearray(pages[0])
    flipped[len(flipped) // 2] ^= 1
    assert read_study_seal(bytes(flipped)) == (False, seal[1])
    assert read_study_seal(pages[0][:-5]) is None
    assert read_study_seal(seal_study_page(b"x", ["b", "a"])) == read_study_seal(seal_study_page(b"x", ["a", "b"]))


def test_a_cell_takes_few_bytes(tmp_path: Path) -> None:
    small, large = (
        make_study(tmp_path / str(count), {"steps": tuple(map(str, range(count)))}).make_page().stat().st_size
        for count in (100, 400)
    )
    assert (large - small) / 300 < 250


def test_a_sheet_that_is_no_study_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"config": {}, "sheets": {"plain": []}, "studies": {"planes": {}}}))
    with pytest.raises(InputError, match="plain"):
        make_study_page(plan, "plain", tmp_path / "study.html")
    arguments = ["study-page", "plain", "--plan", str(plan), "--output", str(tmp_path / "study.html")]
    assert main(arguments) == 2
    assert "planes" in capsys.readouterr().err
