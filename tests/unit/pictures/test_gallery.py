from __future__ import annotations

import hashlib
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from darkroom.errors import ImageError
from darkroom.pictures import gallery, gallery_data
from darkroom.pictures.gallery import build_gallery
from darkroom.pictures.picture import GalleryPicture
from darkroom.pictures.run_progress import Progress
from tests.fixtures.gallery_page import FOLDER, read_head, read_pictures, read_rows
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
    found = read_pictures(tmp_path)
    names = [f"{each['sheet']}/{each['checkpoint']}/{each['id']}-{each['seed']}" for each in found]
    assert names == [picture.name for picture in pictures]
    assert all((tmp_path / f"thumbnails/{name}.webp").is_file() for name in names)
    assert [each["entry"]["file"] for each in found] == [picture.path for picture in pictures]
    assert read_head(tmp_path)["groups"] == [["shapes", "alpha", 3], ["Ünïcode % sheet", "be ta", 2]]
    # Without JavaScript the page leads to what shows the same pictures.
    links = [unquote(attrs.get("href") or "") for tag, attrs in page.elements if tag == "a"]
    assert {"shapes/contact-sheet.png", "Ünïcode % sheet/contact-sheet.png", "manifest.jsonl"} <= set(links)


def test_what_cards_and_facets_need_stands_in_columns(tmp_path: Path) -> None:
    settings = {"sampler": "Euler a", "clip_skip": 2, "loras": ["outline:0.5"], "negative_prompt": "blurry"}
    tagged = make_picture(tmp_path, 2, prompt="a cat <lora:outline:0.8:0.2>", freeu=True, seed=2**63 - 1)
    build(tmp_path, [make_picture(tmp_path, 1, **settings), tagged])
    first, second = read_pictures(tmp_path)
    assert (first["negative"], first["sampler"], first["clip_skip"]) == ("blurry", "Euler a", 2)
    assert (first["loras"], second["loras"]) == ([["outline", 0.5]], [["outline", 0.8, 0.2]])
    assert (first.get("freeu"), second["freeu"]) == (None, "b1 1.3, b2 1.4, s1 0.9, s2 0.2")
    assert (second["seed"], second["width"], second["height"]) == (str(2**63 - 1), 64, 64)
    assert first["infotext"].endswith("Version: darkroom 0.1.0")
    assert f"Model hash: {MODEL_HASH}" in first["infotext"]


def test_a_hostile_prompt_stays_text(tmp_path: Path) -> None:
    harmless = build(tmp_path, make_pictures(tmp_path, 1))
    hostile = make_picture(tmp_path, 0, prompt=HOSTILE, negative_prompt=HOSTILE)
    page = build(tmp_path, [hostile], title=HOSTILE)
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in harmless.elements]
    assert not [attrs for _, attrs in page.elements if "onerror" in attrs]
    assert "<" not in page.scripts[0]
    (picture,) = read_pictures(tmp_path)
    assert (picture["prompt"], picture["negative"], picture["entry"]["request"]["prompt"]) == (HOSTILE,) * 3
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
    build(tmp_path, [first[0], second[0], first[1], second[1]])
    order = [(entry["checkpoint"], entry["id"]) for entry in read_pictures(tmp_path)]
    assert order == [("alpha", "scene-00"), ("alpha", "scene-01"), ("beta", "scene-00"), ("beta", "scene-01")]
    assert read_head(tmp_path)["groups"] == [["shapes", "alpha", 2], ["shapes", "beta", 2]]


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
        chunks = [path for path in sorted((tmp_path / place / FOLDER).iterdir()) if path.name != "times.js"]
        files = [*chunks, tmp_path / place / "index.html", tmp_path / place / "manifest.jsonl"]
        outputs.append([(path.name, path.read_bytes()) for path in files])
    assert outputs[0] == outputs[1]


def test_a_build_writes_only_the_chunks_that_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery_data, "DETAILS", 2)
    monkeypatch.setattr(gallery_data, "TEXTS", 2)
    monkeypatch.setattr(gallery_data, "BLOCK", 4)
    monkeypatch.setattr(gallery, "BLOCK", 4)
    pictures = make_pictures(tmp_path, 10)
    build(tmp_path, pictures)
    before = {path.name: path.stat().st_ino for path in (tmp_path / FOLDER).iterdir()}
    assert [len(names) for names in read_head(tmp_path)["chunks"].values()] == [3, 5, 5]
    assert [each["id"] for each in read_pictures(tmp_path)] == [picture.id for picture in pictures]
    pictures[9] = make_picture(tmp_path, 9, steps=9, prompt="another one")
    build(tmp_path, pictures)
    after = {path.name: path.stat().st_ino for path in (tmp_path / FOLDER).iterdir()}
    kept = {name for name, number in after.items() if before.get(name) == number}
    named = {name for names in read_head(tmp_path)["chunks"].values() for name in names}
    assert set(after) == {*named, "times.js"}, "the others are removed"
    assert len(named - kept) == 3, "a block, a text and the details around the picture"
    assert [each["steps"] for each in read_pictures(tmp_path)] == [20] * 9 + [9]


def test_the_times_are_those_of_the_pictures_files(tmp_path: Path) -> None:
    pictures = make_pictures(tmp_path, 2)
    os.utime(tmp_path / pictures[0].path, (1_700_000_000, 1_700_000_000))
    build(tmp_path, pictures)
    text = (tmp_path / FOLDER / "times.js").read_text()
    digest, first, second = json.loads(text.removeprefix('Gallery.receive("times",0,').removesuffix(");\n"))
    assert (digest, first) == (read_head(tmp_path)["pictures"], 1_700_000_000)
    assert second > first


def test_prompts_that_pictures_share_are_kept_once(tmp_path: Path) -> None:
    build(tmp_path, [make_picture(tmp_path, number, prompt="fog " * 2500) for number in range(3)])
    assert read_rows(tmp_path, "texts") == [["fog " * 2500, ""]]
    assert [each["prompt"] for each in read_pictures(tmp_path)] == ["fog " * 2500] * 3


@pytest.mark.parametrize(("is_running", "said"), [(True, "Reload for more"), (False, "the run ended")])
def test_a_run_that_goes_on_says_how_far_it_is(tmp_path: Path, is_running: bool, said: str) -> None:
    pictures = make_pictures(tmp_path, 2)
    progress = Progress(612, 2000, written=1_700_000_000, is_running=is_running)
    build_gallery(tmp_path, pictures, {}, title="x", thumbnail_px=48, progress=progress)
    words = Page((tmp_path / "index.html").read_text("utf-8")).words
    assert "612 of 2,000" in words and said in words
    assert len(read_pictures(tmp_path)) == 2
    assert not (tmp_path / "manifest.jsonl").exists()


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
    assert sorted(path.name for path in (tmp_path / "thumbnails").iterdir()) == ["_gallery", "shapes"]


def test_no_pictures_make_a_page_that_says_so(tmp_path: Path) -> None:
    assert "No pictures yet" in build(tmp_path, []).words


def test_a_picture_that_deserves_a_look_says_so_on_its_card_and_in_the_manifest(tmp_path: Path) -> None:
    fine, odd = make_picture(tmp_path, 0), make_picture(tmp_path, 1, warnings=["the picture shows one colour"])
    for _ in range(2):  # remembered too: the second time no picture is read
        build(tmp_path, [fine, odd])
        assert [each.get("warnings") for each in read_pictures(tmp_path)] == [None, ["the picture shows one colour"]]
        lines = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
        assert [line["warnings"] for line in lines] == [[], ["the picture shows one colour"]]
