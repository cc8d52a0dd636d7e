"""Rating in the gallery in a real browser, opened from disk: keys, pairs, and files that the workflow's reader reads."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from darkroom.base.validation import Mistakes
from darkroom.pictures.gallery import build_gallery
from darkroom.pictures.picture import GalleryPicture
from darkroom.sheets.pair_strengths import strengths_of
from darkroom.sheets.ratings import Ratings, read_ratings
from tests.browser.accessibility import LOOKS, find_violations, needs_axe, reset_look, set_look
from tests.browser.pages import CHROMEDRIVER, CHROMIUM, FLAGS, is_open, needs_chromium, ready, send_keys, text, wait
from tests.fixtures.pictures import make_picture

NOTE = '=1+1, a "note"; 漢字'
BUILT = {
    "shapes": {
        "pictures": {"alpha/scene-00-100": ["4", "fine"], "alpha/gone-1": ["5", "of a picture that went"]},
        "comparisons": [["alpha/gone-1", "better", "alpha/gone-2", ""]],
    }
}

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[GalleryPicture]]:
    """Two prompts: one with four seeds, one with one."""
    folder = tmp_path_factory.mktemp("project") / "results"
    made = [make_picture(folder, number) for number in range(5)]
    for number in range(1, 4):
        path = f"shapes/alpha/scene-00-{made[number].seed}.png"
        (folder / made[number].path).rename(folder / path)
        made[number] = replace(made[number], id="scene-00", path=path)
    return folder, made


@pytest.fixture
def page(browser: Any, pictures: tuple[Path, list[GalleryPicture]], tmp_path: Path) -> Iterator[Any]:
    build(pictures, BUILT)
    browser.execute_cdp_cmd("Page.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    browser.get((pictures[0] / "index.html").as_uri())
    browser.execute_script("localStorage.clear()")
    reload(browser)
    browser.get_log("browser")
    yield browser
    assert browser.get_log("browser") == []


def build(pictures: tuple[Path, list[GalleryPicture]], ratings: Mapping[str, Any]) -> None:
    build_gallery(*pictures, {}, title="Night shift", thumbnail_px=64, ratings=ratings)


def reload(page: Any) -> None:
    address = page.current_url.partition("#")[0]
    page.get("about:blank")
    page.get(address)
    ready(page)


def focus(page: Any, seed: int) -> None:
    code = "[...document.querySelectorAll('.card')].find((each) => each.textContent.includes(arguments[0])).focus()"
    page.execute_script(code, f"seed {seed}")


def badges(page: Any) -> dict[str, str]:
    """The badges on cards by seed."""
    found = {}
    for card in page.find_elements(By.CSS_SELECTOR, ".card"):
        seed = card.text.split("seed ")[1].split()[0]
        for badge in card.find_elements(By.CSS_SELECTOR, ".badge [aria-hidden]"):
            found[seed] = badge.text
    return found


def unsaved_warns(page: Any) -> bool:
    code = 'return !dispatchEvent(new Event("beforeunload", {cancelable: true}))'
    return bool(page.execute_script(code))


def download(page: Any, folder: Path) -> Path:
    """The file of ratings that the page's button saves."""
    page.find_element(By.ID, "ratings-open").click()
    button = next(each for each in page.find_elements(By.CSS_SELECTOR, "#ratings button") if "Download" in each.text)
    button.click()
    path = folder / "shapes.ratings.csv"
    wait(page, lambda _: path.exists())
    send_keys(page, Keys.ESCAPE)
    return path


def read(path: Path) -> Ratings:
    mistakes = Mistakes()
    found = read_ratings(path, "shapes", mistakes)
    assert mistakes.errors == []
    return found


def as_built(path: Path) -> dict[str, Any]:
    return {"shapes": read(path).as_dict()}


def test_keys_rate_and_the_workflow_reads_the_file(page: Any, tmp_path: Path) -> None:
    assert badges(page) == {"100": "★ 4"}
    assert not unsaved_warns(page)
    focus(page, 101)
    send_keys(page, "5")
    assert text(page, "said") == "" or "rated 5" in page.find_element(By.ID, "said").get_attribute("textContent")
    focus(page, 102)
    send_keys(page, "x")
    focus(page, 100)
    send_keys(page, "0")
    assert badges(page) == {"101": "★ 5", "102": "✕"}
    assert text(page, "ratings-open") == "Ratings (3 unsaved)"
    assert unsaved_warns(page)
    send_keys(page, Keys.ENTER)
    wait(page, lambda p: is_open(p, "viewer"))
    note = page.find_element(By.CSS_SELECTOR, "#viewer .note")
    assert note.get_attribute("value") == "fine"
    note.clear()
    note.send_keys(NOTE, Keys.TAB)
    note.send_keys("5")  # in a text a digit is no rating
    send_keys(page, Keys.TAB)
    send_keys(page, Keys.ARROW_RIGHT, "3")
    assert "rated 3" in page.find_element(By.CSS_SELECTOR, ".rating-status").text
    send_keys(page, Keys.ESCAPE)
    wait(page, lambda p: not is_open(p, "viewer"))
    path = download(page, tmp_path)
    assert path.read_bytes().startswith(b"picture,rating,against,note\r\n")
    rated = {name: (each.rating, each.note) for name, each in read(path).pictures.items()}
    assert rated == {
        "alpha/scene-00-100": ("", NOTE + "5"),
        "alpha/gone-1": ("5", "of a picture that went"),
        "alpha/scene-00-101": ("3", ""),
        "alpha/scene-00-102": ("reject", ""),
    }
    assert len(read(path).comparisons) == 1
    assert text(page, "ratings-open") == "Ratings" and not unsaved_warns(page)


def test_what_the_browser_keeps_wins_until_it_is_saved(
    page: Any, pictures: tuple[Path, list[GalleryPicture]], tmp_path: Path
) -> None:
    focus(page, 101)
    send_keys(page, "5")
    reload(page)
    assert badges(page) == {"100": "★ 4", "101": "★ 5"}
    assert text(page, "ratings-open") == "Ratings (1 unsaved)"
    saved = as_built(download(page, tmp_path))
    focus(page, 102)
    send_keys(page, "2")
    saved["shapes"]["pictures"]["alpha/scene-00-101"] = ["1", "edited by hand"]
    build(pictures, saved)
    reload(page)
    assert badges(page) == {"100": "★ 4", "101": "★ 1", "102": "★ 2"}
    assert text(page, "ratings-open") == "Ratings (1 unsaved)"
    focus(page, 101)
    send_keys(page, "5", "1")  # as the page was built: nothing to save
    assert text(page, "ratings-open") == "Ratings (1 unsaved)"


def test_pages_of_other_folders_have_ratings_of_their_own(
    page: Any, pictures: tuple[Path, list[GalleryPicture]], tmp_path: Path
) -> None:
    focus(page, 101)
    send_keys(page, "5")
    other = [make_picture(tmp_path / "results", 1)]
    build_gallery(tmp_path / "results", other, {}, title="Other", thumbnail_px=64)
    page.get((tmp_path / "results/index.html").as_uri())
    ready(page)
    assert badges(page) == {}
    assert text(page, "ratings-open") == "Ratings"


def test_a_file_is_loaded_back_and_one_with_mistakes_is_not(page: Any, tmp_path: Path) -> None:
    def load(data: str) -> str:
        path = tmp_path / "given.csv"
        path.write_text(data, "utf-8-sig")
        page.find_element(By.ID, "ratings-open").click()
        page.find_element(By.CSS_SELECTOR, "#ratings input[type=file]").send_keys(str(path))
        said = page.find_element(By.CSS_SELECTOR, ".ratings-said")
        wait(page, lambda _: said.text)
        found = str(said.text)
        send_keys(page, Keys.ESCAPE)
        return found

    good = 'picture;rating;against;note\r\nalpha/scene-00-101.png;2;;"a ""b""\r\nc"\r\nalpha/scene-00-101;tie;alpha/scene-00-102;\r\n'
    assert load(good) == "2 lines read for shapes."
    assert badges(page) == {"100": "★ 4", "101": "★ 2"}
    for bad, words in (
        ("picture,rating\nalpha/scene-00-102,5\nalpha/scene-00-103,9\n", "line 3: alpha/scene-00-103, 9"),
        ("prompt,steps\na,b\n", "its first row has to be picture,rating,against,note"),
        ('picture,rating\n"alpha/scene', "line 2: the quotes aren't closed"),
    ):
        assert words in load(bad)
    assert badges(page) == {"100": "★ 4", "101": "★ 2"}
    assert [each.outcome for each in read(download(page, tmp_path)).comparisons] == ["better", "tie"]


def test_pairs_are_rated_by_keys_and_sort_the_pictures(page: Any, tmp_path: Path) -> None:
    page.find_element(By.ID, "ratings-open").click()
    page.find_element(By.ID, "pairs-open").click()
    wait(page, lambda p: is_open(p, "comparer"))
    place = page.find_element(By.CSS_SELECTOR, ".pairs-place")
    assert place.text == "0 of 6 pairs"  # of the four seeds; the other prompt has one picture

    def seeds() -> list[int]:
        labels = page.find_elements(By.CSS_SELECTOR, ".compare-label")
        return [int(each.text.rpartition(" ")[2]) for each in labels]

    before = seeds()
    send_keys(page, "n")
    wait(page, lambda _: seeds() != before)
    send_keys(page, "u")
    wait(page, lambda _: seeds() == before)
    rated = 0
    while rated < 6:  # the larger seed is better, but 100 and 101 are a tie
        left, right = seeds()
        key = Keys.ARROW_DOWN if {left, right} == {100, 101} else Keys.ARROW_LEFT if left > right else Keys.ARROW_RIGHT
        send_keys(page, key)
        rated += 1
        wait(page, lambda p, rated=rated: not is_open(p, "comparer") or place.text.startswith(f"{rated} of 6"))
        wait(page, lambda p, pair=(left, right): not is_open(p, "comparer") or tuple(seeds()) != pair)
    assert not is_open(page, "comparer")
    assert "All 6 pairs are rated" in text(page, "failed")
    Select(page.find_element(By.ID, "sort")).select_by_value("pairs")
    wait(page, lambda p: "seed 103" in p.find_elements(By.CSS_SELECTOR, ".card")[0].text)
    found = read(download(page, tmp_path))
    assert len(found.comparisons) == 7
    names = {f"shapes/{name}": value for name, value in strengths_of(found.comparisons).items()}
    shown = page.execute_script("return Gallery.pictures.map((each) => [each.name, Gallery.strengthOf(each) ?? null])")
    for name, value in shown:
        assert value == (pytest.approx(names[name], abs=1e-6) if name in names else None)
    page.find_element(By.ID, "ratings-open").click()
    page.find_element(By.ID, "pairs-open").click()
    assert not is_open(page, "comparer")  # nothing is left


def test_unrated_pictures_are_rated_one_after_the_other(page: Any) -> None:
    page.get(page.current_url.partition("#")[0] + "#is:rating=not+rated")
    reload_at = page.current_url
    page.get("about:blank")
    page.get(reload_at)
    ready(page)
    assert text(page, "count") == "4 of 5 pictures"
    page.find_elements(By.CSS_SELECTOR, ".card")[0].click()
    wait(page, lambda p: is_open(p, "viewer"))
    for _ in range(4):
        send_keys(page, "3", Keys.ARROW_RIGHT)
    assert "4 of 4" in text(page, "viewer-place")
    send_keys(page, Keys.ESCAPE)
    wait(page, lambda p: text(p, "count") == "0 of 5 pictures")


def test_without_a_store_the_page_says_so_and_saves(
    pictures: tuple[Path, list[GalleryPicture]], tmp_path: Path
) -> None:
    build(pictures, BUILT)
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'chromium'}"):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"profile.default_content_setting_values.cookies": 2})
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER)) as page:
        page.execute_cdp_cmd("Page.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
        page.execute_cdp_cmd(
            "Page.addScriptToEvaluateOnNewDocument",
            {"source": 'Object.defineProperty(window, "localStorage", {get() { throw new DOMException("no"); }});'},
        )
        page.get((pictures[0] / "index.html").as_uri())
        ready(page)
        focus(page, 101)
        send_keys(page, "5")
        assert badges(page)["101"] == "★ 5" and unsaved_warns(page)
        page.find_element(By.ID, "ratings-open").click()
        assert "This browser keeps no ratings for this page" in text(page, "ratings")
        send_keys(page, Keys.ESCAPE)
        rows = list(csv.reader(StringIO(download(page, tmp_path).read_text("utf-8"))))
        assert ["alpha/scene-00-101", "5", "", ""] in rows


def test_ratings_are_never_inside_the_picture(page: Any, pictures: tuple[Path, list[GalleryPicture]]) -> None:
    lines = (pictures[0] / "manifest.jsonl").read_bytes().splitlines()
    assert all("rating" not in json.loads(line) for line in lines)


@needs_axe
@pytest.mark.parametrize(("scheme", "width"), LOOKS)
def test_rating_is_accessible(page: Any, scheme: str, width: int) -> None:
    set_look(page, scheme, width)
    reload(page)
    try:
        focus(page, 101)
        send_keys(page, "5", Keys.ENTER)
        wait(page, lambda p: is_open(p, "viewer"))
        assert find_violations(page) == []
        send_keys(page, Keys.ESCAPE)
        wait(page, lambda p: not is_open(p, "viewer"))
        page.find_element(By.ID, "ratings-open").click()
        assert find_violations(page) == []
        page.find_element(By.ID, "pairs-open").click()
        wait(page, lambda p: is_open(p, "comparer"))
        assert find_violations(page) == []
    finally:
        reset_look(page)
