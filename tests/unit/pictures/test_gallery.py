from __future__ import annotations

import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from darkroom.errors import ImageError
from darkroom.pictures.gallery import build_gallery
from darkroom.pictures.picture import GalleryPicture
from tests.fixtures.pictures import AUDIT, MODEL_HASH, make_picture, make_pictures

HOSTILE = "<!--<script </script ><b></script><img src=x onerror=\"document.title='owned'\"><!-- ]]> {{ 7*7 }} & \u2028"


class Page(HTMLParser):
    """Elements with their attributes, and the text inside script elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words = ""
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open == "script":
            self.scripts[-1] += data
        else:
            self.words += data


def build(results: Path, pictures: list[GalleryPicture], title: str = "Darkroom") -> Page:
    build_gallery(results, pictures, {"alpha": AUDIT.facts()}, title=title, thumbnail_px=48)
    return Page((results / "index.html").read_text("utf-8"))


def test_every_picture_has_a_card_with_a_thumbnail_that_exists(tmp_path: Path) -> None:
    pictures = make_pictures(tmp_path, 3) + make_pictures(tmp_path, 2, sheet="Ünïcode % sheet", checkpoint="be ta")
    page = build(tmp_path, pictures)
    images = [attrs for tag, attrs in page.elements if tag == "img" and "src" in attrs]
    assert len(images) == 5
    for image in images:
        assert image["loading"] == "lazy"
        assert image["alt"]
        assert (tmp_path / unquote(image["src"] or "")).is_file()
    for entry in json.loads(page.scripts[0]):
        assert (tmp_path / unquote(entry["url"])).is_file()


def test_settings_of_the_full_view_are_those_in_the_picture(tmp_path: Path) -> None:
    page = build(tmp_path, [make_picture(tmp_path, 1, negative_prompt="blurry", sampler="Euler a", clip_skip=2)])
    (entry,) = json.loads(page.scripts[0])
    settings = dict(entry["settings"])
    assert entry["negative"] == "blurry"
    assert (settings["Sampler"], settings["Clip skip"], settings["Model hash"]) == ("Euler a", "2", MODEL_HASH)
    assert entry["parameters"].endswith("Version: darkroom 0.1.0")


def test_a_hostile_prompt_stays_text(tmp_path: Path) -> None:
    harmless = build(tmp_path, make_pictures(tmp_path, 1))
    hostile = make_picture(tmp_path, 0, prompt=HOSTILE, negative_prompt=HOSTILE)
    page = build(tmp_path, [hostile], title=HOSTILE)
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in harmless.elements]
    assert not [attrs for _, attrs in page.elements if "onerror" in attrs]
    assert "<" not in page.scripts[0]
    (entry,) = json.loads(page.scripts[0])
    assert (entry["prompt"], entry["negative"]) == (HOSTILE, HOSTILE)
    assert "7*7" in page.words


def test_the_page_can_fetch_nothing_and_runs_only_its_own_script(tmp_path: Path) -> None:
    page = build(tmp_path, make_pictures(tmp_path, 1))
    (policy,) = [a["content"] or "" for t, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    for tag, attrs in page.elements:
        assert not {"style", "onclick", "onload"} & set(attrs), tag
        assert not re.match("[a-z]+:", attrs.get("src") or attrs.get("href") or ""), tag


def test_pictures_stand_grouped_by_sheet_and_checkpoint(tmp_path: Path) -> None:
    first, second = make_pictures(tmp_path, 2), make_pictures(tmp_path, 2, checkpoint="beta")
    page = build(tmp_path, [first[0], second[0], first[1], second[1]])
    order = [(entry["checkpoint"], entry["id"]) for entry in json.loads(page.scripts[0])]
    assert order == [("alpha", "scene-00"), ("alpha", "scene-01"), ("beta", "scene-00"), ("beta", "scene-01")]
    assert len([tag for tag, attrs in page.elements if attrs.get("class") == "group"]) == 2


def test_the_footer_states_the_checkpoint(tmp_path: Path) -> None:
    words = build(tmp_path, make_pictures(tmp_path, 1)).words
    for label, fact in [("", "alpha"), *AUDIT.facts()]:
        assert label in words
        assert fact in words


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    outputs = []
    for place in ("one", "two"):
        pictures = make_pictures(tmp_path / place, 3)
        build(tmp_path / place, pictures)
        outputs.append([(tmp_path / place / name).read_bytes() for name in ("index.html", "manifest.jsonl")])
    assert outputs[0] == outputs[1]


def test_manifest_lists_what_made_each_picture(tmp_path: Path) -> None:
    pictures = make_pictures(tmp_path, 3)
    build(tmp_path, pictures)
    lines = (tmp_path / "manifest.jsonl").read_text("utf-8").splitlines()
    assert len(lines) == 3
    for line, picture in zip(lines, pictures, strict=True):
        entry = json.loads(line)
        assert (entry["sheet"], entry["checkpoint"], entry["id"]) == ("shapes", "alpha", picture.id)
        assert entry["sha256"] == hashlib.sha256((tmp_path / entry["file"]).read_bytes()).hexdigest()
        assert entry["request"] == picture.request
        assert (entry["seed"], entry["model_hash"]) == (picture.seed, MODEL_HASH)


def test_a_damaged_picture_is_named_and_the_old_page_stays(tmp_path: Path) -> None:
    pictures = make_pictures(tmp_path, 3)
    build(tmp_path, pictures)
    before = (tmp_path / "index.html").read_bytes()
    path = tmp_path / pictures[1].path
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ImageError, match=pictures[1].path) as failure:
        build(tmp_path, pictures, title="Another")
    assert "delete the file and run the same command again" in str(failure.value)
    assert (tmp_path / "index.html").read_bytes() == before


def test_what_lies_among_the_thumbnails_without_a_picture_goes(tmp_path: Path) -> None:
    pictures = make_pictures(tmp_path, 2)
    build(tmp_path, pictures + make_pictures(tmp_path, 2, sheet="signs"))
    (tmp_path / "thumbnails/index.json").write_text("{}")
    build(tmp_path, pictures)
    assert sorted(path.name for path in (tmp_path / "thumbnails").iterdir()) == ["shapes"]


def test_no_pictures_make_a_page_that_says_so(tmp_path: Path) -> None:
    assert "No pictures yet" in build(tmp_path, []).words


def test_a_picture_that_deserves_a_look_says_so_on_its_card_and_in_the_manifest(tmp_path: Path) -> None:
    fine, odd = make_picture(tmp_path, 0), make_picture(tmp_path, 1, warnings=["the picture shows one colour"])
    page = build(tmp_path, [fine, odd])
    assert page.words.count("the picture shows one colour") == 1
    lines = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    assert [line["warnings"] for line in lines] == [[], ["the picture shows one colour"]]
    # Remembered too: the second time no picture is read.
    assert build(tmp_path, [fine, odd]).words.count("the picture shows one colour") == 1
