"""The gallery in a real browser, opened from disk. Needs Chromium and its driver; skipped aloud without them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from darkroom.pictures.gallery import build_gallery
from tests.browser.pages import needs_chromium, press, text, wait
from tests.fixtures.pictures import AUDIT, make_picture

COUNT = 12
HOSTILE = "</script><img src=x onerror=\"document.title='owned'\">"

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results %41 #1")
    pictures = [make_picture(folder, number, checkpoint=("alpha", "beta")[number % 2]) for number in range(COUNT - 2)]
    pictures.append(make_picture(folder, 50, prompt=HOSTILE, negative_prompt=HOSTILE))
    pictures.append(make_picture(folder, 51, prompt="A Lighthouse in FOG, " * 60 + "dawn", sampler="DDIM", size=128))
    build_gallery(folder, pictures, {"alpha": AUDIT.facts()}, title="Night shift", thumbnail_px=128)
    return folder


@pytest.fixture
def page(browser: Any, results: Path) -> Iterator[Any]:
    browser.get((results / "index.html").as_uri())
    browser.get_log("browser")
    yield browser
    assert browser.get_log("browser") == []


def shown(page: Any) -> list[Any]:
    return [card for card in page.find_elements(By.CSS_SELECTOR, ".card") if card.is_displayed()]


def type_filter(page: Any, words: str) -> None:
    field = page.find_element(By.ID, "filter")
    field.clear()
    field.send_keys(words)


def open_picture(page: Any, seed: int) -> None:
    next(card for card in shown(page) if f"seed {seed}" in card.text).click()
    wait(page, lambda p: p.find_element(By.ID, "viewer").get_attribute("open"))


def test_thumbnails_load(page: Any) -> None:
    for image in page.find_elements(By.CSS_SELECTOR, ".card img"):
        page.execute_script("arguments[0].scrollIntoView()", image)
        wait(page, lambda p, image=image: p.execute_script("return arguments[0].naturalWidth", image) > 0)
    assert len(shown(page)) == COUNT
    assert (page.title, text(page, "count")) == ("Night shift", f"{COUNT} pictures")


@pytest.mark.parametrize(
    ("words", "matches"),
    [
        ("lighthouse fog", 1),
        ("fog nowhere", 0),
        ("ddim", 1),
        ("beta", 5),
        ("103", 1),
        ("beta 103", 1),
        ("  ", COUNT),
        ("seed 103", 1),
        ("seed:103", 1),
        ("Seed: 103", 1),
        ("seed=103", 1),
        ("seed 10", 0),
        ("seed:10", 0),
        ("beta seed 103", 1),
        ("alpha seed:103", 0),
        ("checkpoint:beta", 5),
        ("sampler:ddim", 1),
        ("prompt:lighthouse fog", 1),
        ("sheet:nowhere", 0),
    ],
)
def test_filter_shows_what_has_all_the_words(page: Any, words: str, matches: int) -> None:
    type_filter(page, words)
    assert len(shown(page)) == matches
    expected = f"{COUNT} pictures" if not words.strip() else f"{matches} of {COUNT} pictures"
    assert text(page, "count") == expected
    assert page.find_element(By.ID, "nothing").is_displayed() is (matches == 0)


def test_filter_can_be_cleared(page: Any) -> None:
    type_filter(page, "nowhere")
    page.find_element(By.ID, "clear").click()
    assert len(shown(page)) == COUNT


def test_groups_without_a_match_are_gone(page: Any) -> None:
    type_filter(page, "ddim")
    headings = [h.text for h in page.find_elements(By.CSS_SELECTOR, ".group h2") if h.is_displayed()]
    assert len(headings) == 1


def test_click_shows_the_picture_in_full_with_its_settings(page: Any) -> None:
    open_picture(page, 151)
    image = page.find_element(By.ID, "viewer-image")
    wait(page, lambda p: p.execute_script("return arguments[0].naturalWidth", image) == 128)
    assert text(page, "viewer-prompt").endswith("dawn")
    assert not page.find_element(By.ID, "viewer-negative").is_displayed()
    terms = [t.text for t in page.find_elements(By.CSS_SELECTOR, "#viewer-settings dt")]
    values = [v.text for v in page.find_elements(By.CSS_SELECTOR, "#viewer-settings dd")]
    settings = dict(zip(terms, values, strict=True))
    assert (settings["Seed"], settings["Sampler"], settings["Size"]) == ("151", "DDIM", "128x128")
    assert text(page, "viewer-file") == "shapes/alpha/scene-51-151.png"
    press(page, Keys.ESCAPE)
    wait(page, lambda p: not p.find_element(By.ID, "viewer").is_displayed())
    assert "seed 151" in page.switch_to.active_element.text


def test_arrow_keys_walk_through_what_the_filter_shows(page: Any) -> None:
    type_filter(page, "beta")
    open_picture(page, 101)
    names = [text(page, "viewer-name")]
    for key in (Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT, Keys.ARROW_LEFT, Keys.ARROW_LEFT):
        press(page, key)
        names.append(text(page, "viewer-name"))
    assert [name.rpartition(" ")[2] for name in names] == ["101", "103", "105", "103", "101", "101"]
    assert not page.find_element(By.ID, "previous").is_enabled()
    press(page, Keys.ARROW_RIGHT)
    press(page, Keys.ESCAPE)
    wait(page, lambda p: "seed 103" in p.switch_to.active_element.text)


def test_parameters_are_copied(page: Any) -> None:
    page.execute_cdp_cmd("Browser.grantPermissions", {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]})
    open_picture(page, 151)
    page.find_element(By.ID, "copy").click()
    wait(page, lambda p: text(p, "copy") == "Copied")
    copied = page.execute_async_script("navigator.clipboard.readText().then(arguments[0])")
    assert copied.startswith("A Lighthouse in FOG, ")
    assert copied.endswith("Version: darkroom 0.1.0")


def test_parameters_are_copied_where_the_clipboard_is_kept_from_pages(page: Any) -> None:
    page.execute_cdp_cmd("Browser.grantPermissions", {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]})
    read = page.execute_script(
        "const read = navigator.clipboard.readText.bind(navigator.clipboard);"
        "navigator.clipboard.writeText = () => Promise.reject(new Error('refused')); window.readBack = read;"
        "return true"
    )
    assert read
    open_picture(page, 100)
    page.find_element(By.ID, "copy").click()
    wait(page, lambda p: text(p, "copy") == "Copied")
    assert "Seed: 100," in page.execute_async_script("window.readBack().then(arguments[0])")


def test_a_hostile_prompt_is_text(page: Any) -> None:
    open_picture(page, 150)
    assert text(page, "viewer-prompt") == HOSTILE
    assert text(page, "viewer-negative") == HOSTILE
    assert page.title == "Night shift"
    assert not page.find_elements(By.CSS_SELECTOR, "img[src='x']")


def test_nothing_can_be_fetched_from_a_network(browser: Any, results: Path) -> None:
    browser.get((results / "index.html").as_uri())
    refused = browser.execute_async_script(
        "const done = arguments[0]; fetch('http://127.0.0.1:9/').then(() => done('fetched'), () => done('refused'))"
    )
    assert refused == "refused"
    log = " ".join(entry["message"] for entry in browser.get_log("browser"))
    assert "Content Security Policy" in log
