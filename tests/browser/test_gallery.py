"""The gallery in a real browser, opened from disk. Needs Chromium and its driver; skipped aloud without them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from darkroom.pictures.gallery import build_gallery
from tests.browser.accessibility import LOOKS, find_violations, needs_axe, reset_look, set_look
from tests.browser.pages import needs_chromium, press, ready, text, wait
from tests.fixtures.pictures import AUDIT, make_picture

COUNT = 12
HOSTILE = "</script><img src=x onerror=\"document.title='owned'\">"

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results %41 #1")
    pictures = [make_picture(folder, number, checkpoint=("alpha", "beta")[number % 2]) for number in range(COUNT - 2)]
    pictures.append(make_picture(folder, 50, prompt=HOSTILE, negative_prompt=HOSTILE, loras=["outline:0.5"]))
    lighthouse = {"prompt": "A Lighthouse in FOG, " * 60 + "dawn", "sampler": "DDIM", "cfg_scale": 9}
    pictures.append(make_picture(folder, 51, size=128, **lighthouse))
    build_gallery(folder, pictures, {"alpha": AUDIT.facts()}, title="Night shift", thumbnail_px=128)
    return folder


@pytest.fixture
def page(browser: Any, results: Path) -> Iterator[Any]:
    open_page(browser, results)
    yield browser
    assert browser.get_log("browser") == []


def open_page(browser: Any, results: Path, fragment: str = "") -> None:
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get((results / "index.html").as_uri() + fragment)
    ready(browser)


def shown(page: Any) -> list[Any]:
    """The cards in the document, which for a few pictures are all."""
    return list(page.find_elements(By.CSS_SELECTOR, ".card"))


def seeds(page: Any) -> list[int]:
    texts = page.execute_script("return [...document.querySelectorAll('.card .name')].map((e) => e.textContent)")
    return [int(text.rpartition("seed ")[2]) for text in texts]


def type_filter(page: Any, words: str) -> None:
    field = page.find_element(By.ID, "filter")
    field.clear()
    field.send_keys(words or Keys.SPACE)


def wait_count(page: Any, expected: str) -> None:
    wait(page, lambda p: text(p, "count") == expected and not p.find_element(By.ID, "main").get_attribute("aria-busy"))


def open_picture(page: Any, seed: int) -> None:
    next(card for card in shown(page) if f"seed {seed}" in card.text).click()
    wait(page, lambda p: p.find_element(By.ID, "viewer").get_attribute("open"))
    wait(page, lambda p: text(p, "viewer-name").endswith(f"seed {seed}"))


def fragment(page: Any) -> str:
    return str(page.execute_script("return decodeURIComponent(location.hash)"))


def choose(page: Any, facet: str, value: str) -> None:
    """Tick a facet's value."""
    find_value(page, facet, value).find_element(By.TAG_NAME, "input").click()


def find_value(page: Any, facet: str, value: str) -> Any:
    for details in page.find_elements(By.CSS_SELECTOR, "#facets .facet"):
        summary = details.find_element(By.TAG_NAME, "summary")
        if summary.get_property("textContent").startswith(facet):
            if not details.get_attribute("open"):
                summary.click()
            for label in details.find_elements(By.CSS_SELECTOR, ".value"):
                if label.find_element(By.CSS_SELECTOR, ".value-text").text == value:
                    return label
    raise AssertionError(f"no facet {facet} with {value}")


def counts(page: Any, facet: str) -> dict[str, str]:
    """The counts beside a facet's values."""
    script = (
        "const found = [...document.querySelectorAll('#facets .facet')].find((e) => e.querySelector('summary').textContent.startsWith(arguments[0]));"
        "return Object.fromEntries([...found.querySelectorAll('.value')].map((e) => [e.querySelector('.value-text').textContent, e.querySelector('.tally').textContent]))"
    )
    return dict(page.execute_script(script, facet))


def test_thumbnails_load(page: Any) -> None:
    loaded = "return [...document.querySelectorAll('.card img')].filter((image) => image.naturalWidth > 0).length"
    wait(page, lambda p: p.execute_script(loaded) == COUNT)
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
        ("cfg:7", COUNT - 1),
        ("cfg:>8", 1),
        ("cfg:9..10", 1),
        ("lora:outline", 1),
        ("-lora:outline", COUNT - 1),
        ("-beta -ddim", COUNT - 6),
        ('"in fog, a lighthouse"', 1),
        ('"fog a lighthouse"', 0),
        ('prompt:"IN FOG"', 1),
        ("negative:onerror", 1),
        ("-negative:onerror", COUNT - 1),
        ("size:128x128", 1),
        ("id:scene-51", 1),
        ("steps:20 checkpoint:alpha", COUNT - 5),
    ],
)
def test_filter_shows_what_has_all_the_words(page: Any, words: str, matches: int) -> None:
    type_filter(page, words)
    wait_count(page, f"{COUNT} pictures" if matches == COUNT else f"{matches} of {COUNT} pictures")
    assert len(shown(page)) == matches
    assert page.find_element(By.ID, "nothing").is_displayed() is (matches == 0)


def test_filter_can_be_cleared(page: Any) -> None:
    for clear in (lambda: page.find_element(By.ID, "clear").click(), lambda: press(page, Keys.ESCAPE)):
        type_filter(page, "nowhere")
        wait_count(page, f"0 of {COUNT} pictures")
        clear()
        wait_count(page, f"{COUNT} pictures")
        assert (len(shown(page)), fragment(page)) == (COUNT, "")


def test_groups_without_a_match_are_gone(page: Any) -> None:
    type_filter(page, "ddim")
    wait_count(page, f"1 of {COUNT} pictures")
    assert [h.text for h in page.find_elements(By.CSS_SELECTOR, ".group h2")] == ["shapes alpha 1"]


def test_click_shows_the_picture_in_full_with_its_settings(page: Any) -> None:
    open_picture(page, 151)
    image = page.find_element(By.ID, "viewer-image")
    wait(page, lambda p: p.execute_script("return arguments[0].naturalWidth", image) == 128)
    wait(page, lambda p: text(p, "viewer-prompt").endswith("dawn"))
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
    wait_count(page, f"5 of {COUNT} pictures")
    open_picture(page, 101)
    names = [text(page, "viewer-name")]
    for key in (Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT, Keys.ARROW_LEFT, Keys.ARROW_LEFT):
        press(page, key)
        page.execute_async_script(
            "Gallery.byName(Gallery.state.get('picture')).details().then(() => setTimeout(arguments[0]))"
        )
        names.append(text(page, "viewer-name"))
    assert [name.rpartition(" ")[2] for name in names] == ["101", "103", "105", "103", "101", "101"]
    assert not page.find_element(By.ID, "previous").is_enabled()
    press(page, Keys.ARROW_RIGHT)
    press(page, Keys.ESCAPE)
    wait(page, lambda p: "seed 103" in p.switch_to.active_element.text)


def test_parameters_are_copied(page: Any) -> None:
    page.execute_cdp_cmd("Browser.grantPermissions", {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]})
    open_picture(page, 151)
    wait(page, lambda p: text(p, "viewer-prompt").endswith("dawn"))
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
    wait(page, lambda p: p.find_elements(By.CSS_SELECTOR, "#viewer-settings dt"))
    page.find_element(By.ID, "copy").click()
    wait(page, lambda p: text(p, "copy") == "Copied")
    assert "Seed: 100," in page.execute_async_script("window.readBack().then(arguments[0])")


def test_a_hostile_prompt_is_text(page: Any) -> None:
    open_picture(page, 150)
    wait(page, lambda p: text(p, "viewer-prompt") == HOSTILE)
    assert text(page, "viewer-negative") == HOSTILE
    assert page.title == "Night shift"
    assert not page.find_elements(By.CSS_SELECTOR, "img[src='x']")


def test_nothing_can_be_fetched_from_a_network(browser: Any, results: Path) -> None:
    open_page(browser, results)
    refused = browser.execute_async_script(
        "const done = arguments[0]; fetch('http://127.0.0.1:9/').then(() => done('fetched'), () => done('refused'))"
    )
    assert refused == "refused"
    log = " ".join(entry["message"] for entry in browser.get_log("browser"))
    assert "Content Security Policy" in log


def test_counts_follow_the_other_facets(page: Any) -> None:
    assert counts(page, "Checkpoint") == {"alpha": "7", "beta": "5"}
    assert counts(page, "LoRA") == {"no LoRA": "11", "outline": "1"}
    choose(page, "LoRA", "outline")
    wait_count(page, f"1 of {COUNT} pictures")
    assert counts(page, "Checkpoint") == {"alpha": "1"}
    assert counts(page, "LoRA") == {"no LoRA": "11", "outline": "1"}, "a facet's own choice doesn't hide its values"
    choose(page, "LoRA", "no LoRA")
    wait_count(page, f"{COUNT} pictures")
    choose(page, "Checkpoint", "beta")
    wait_count(page, f"5 of {COUNT} pictures")
    assert fragment(page) == "#is:loras=outline&is:loras=&is:checkpoint=beta"
    assert page.switch_to.active_element.get_attribute("type") == "checkbox", "the focus stays"


def test_an_address_shows_the_same_again_and_the_back_button_returns(page: Any, results: Path) -> None:
    choose(page, "Checkpoint", "beta")
    wait_count(page, f"5 of {COUNT} pictures")
    type_filter(page, "seed:103")
    wait_count(page, f"1 of {COUNT} pictures")
    open_picture(page, 103)
    address = page.current_url
    page.refresh()
    ready(page)
    wait(page, lambda p: text(p, "viewer-name") == "scene-03, seed 103")
    page.get("about:blank")
    page.get(address)
    wait(page, lambda p: p.find_elements(By.ID, "viewer") and text(p, "viewer-name") == "scene-03, seed 103")
    open_page(page, results)
    open_picture(page, 100)
    page.back()
    wait(page, lambda p: not p.find_element(By.ID, "viewer").is_displayed())
    choose(page, "Checkpoint", "beta")
    type_filter(page, "seed:103")
    wait_count(page, f"1 of {COUNT} pictures")
    page.back()
    wait_count(page, f"5 of {COUNT} pictures")
    assert page.find_element(By.ID, "filter").get_property("value") == ""
    page.back()
    wait_count(page, f"{COUNT} pictures")
    page.forward()
    wait_count(page, f"5 of {COUNT} pictures")


def test_the_address_of_a_picture_that_is_gone_says_so(browser: Any, results: Path) -> None:
    open_page(browser, results, "#picture=shapes/alpha/gone-1")
    assert "no picture shapes/alpha/gone-1" in text(browser, "failed")
    assert (fragment(browser), len(shown(browser))) == ("", COUNT)


def test_order(page: Any) -> None:
    assert seeds(page) == [100, 102, 104, 106, 108, 150, 151, 101, 103, 105, 107, 109]
    page.find_element(By.ID, "group").click()
    wait(page, lambda p: not p.find_elements(By.CSS_SELECTOR, ".group h2"))
    Select(page.find_element(By.ID, "sort")).select_by_visible_text("Seed")
    wait(page, lambda p: seeds(p) == [*range(100, 110), 150, 151])
    page.find_element(By.ID, "down").click()
    wait(page, lambda p: seeds(p) == [151, 150, *range(109, 99, -1)])
    Select(page.find_element(By.ID, "sort")).select_by_visible_text("CFG scale")
    wait(page, lambda p: seeds(p)[:2] == [151, 100])
    Select(page.find_element(By.ID, "sort")).select_by_visible_text("Newest first")
    wait(
        page,
        lambda p: (
            sorted(seeds(p)) == [*range(100, 110), 150, 151] and not p.find_element(By.ID, "failed").is_displayed()
        ),
    )
    assert fragment(page) == "#group=none&sort=newest&down=1"


def test_cards_say_what_varies(page: Any) -> None:
    by_seed = dict(zip(seeds(page), [card.text for card in shown(page)], strict=True))
    for words in ("scene-51", "seed 151", "DDIM", "CFG 9", "20 steps"):
        assert words in by_seed[151]
    assert "Euler" in by_seed[100] and "CFG 7" in by_seed[100], "they differ in its group"
    assert "Euler" not in by_seed[101] and "CFG 7" in by_seed[101], "they don't in this one"
    assert "outline 0.5" in by_seed[150]


def test_keys_walk_over_the_cards(page: Any) -> None:
    def at() -> str:
        return str(page.execute_script("return document.activeElement.querySelector('.name')?.textContent.trim()"))

    press(page, Keys.ARROW_DOWN)
    assert at().endswith("seed 100")
    columns = page.execute_script(
        "const tops = [...document.querySelectorAll('.group:first-child .item')].map((e) => e.offsetTop);"
        "return tops.filter((top) => top === tops[0]).length"
    )
    order = seeds(page)
    for key, place in (
        (Keys.ARROW_RIGHT, 1),
        (Keys.ARROW_LEFT, 0),
        (Keys.ARROW_DOWN, columns),
        (Keys.ARROW_UP, 0),
        (Keys.END, 11),
    ):
        press(page, key)
        assert at().endswith(f"seed {order[place]}"), key
    assert page.execute_script("return document.querySelectorAll('.card[tabindex=\"0\"]').length") == 1
    press(page, Keys.ENTER)
    wait(page, lambda p: text(p, "viewer-name").endswith("seed 109"))
    press(page, Keys.ESCAPE)
    wait(page, lambda p: not p.find_element(By.ID, "viewer").is_displayed() and at().endswith("seed 109"))
    press(page, "/")
    assert page.switch_to.active_element.get_attribute("id") == "filter"
    press(page, Keys.ARROW_DOWN)
    assert at().endswith("seed 100")
    press(page, "?")
    assert page.find_element(By.ID, "help").is_displayed()
    press(page, Keys.ESCAPE)
    press(page, "m")
    assert fragment(page) == "#mark=shapes/alpha/scene-00-100"
    assert text(page, "marked") == "Unmark 1"


def test_parts_of_others_add_to_the_page(page: Any) -> None:
    page.execute_script(
        "window.done = []; const stars = (picture) => (Number(picture.seed) > 149 ? ['kept', 'best'] : null);"
        "Gallery.addFacet({ name: 'rating', label: 'Rating', of: stars });"
        "Gallery.addCardBadge((picture) => stars(picture)?.[0]);"
        "Gallery.addSort({ name: 'luck', label: 'Luck', of: (picture) => -picture.seed });"
        "Gallery.actions.length = 0; return Gallery.refresh()"
    )
    assert counts(page, "Rating") == {"best": "2", "kept": "2", "none": "10"}
    assert [badge.text for badge in page.find_elements(By.CSS_SELECTOR, ".badge")] == ["kept", "kept"]
    type_filter(page, "rating:best")
    wait_count(page, f"2 of {COUNT} pictures")
    found = page.execute_async_script(
        "const done = arguments[0], picture = Gallery.byName('shapes/alpha/scene-51-151');"
        "picture.details().then((details) => done([picture.settings.cfg_scale, picture.size, picture.sha256 === details.entry.sha256,"
        " details.request.sampler, details.prompt.endsWith('dawn')]))"
    )
    assert found == [9, "128 × 128", True, "DDIM", True]


def test_without_javascript_the_page_leads_to_the_contact_sheets(browser: Any, results: Path) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get((results / "index.html").as_uri())
        notice = browser.find_element(By.CSS_SELECTOR, "noscript .notice")
        assert "needs JavaScript" in notice.text
        links = [link.get_attribute("href") for link in notice.find_elements(By.TAG_NAME, "a")]
        assert [link.rpartition("/")[2] for link in links] == ["contact-sheet.png", "manifest.jsonl"]
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_data_that_are_gone_are_said(browser: Any, results: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(results, copy)
    for path in (copy / "thumbnails/_gallery").glob("blocks-*.js"):
        path.unlink()
    browser.get((copy / "index.html").as_uri())
    wait(browser, lambda b: "is missing or damaged" in text(b, "failed"))
    assert "run the workflow again" in text(browser, "failed")
    browser.get_log("browser")
    (copy / "shapes/alpha/scene-00-100.png").unlink()
    (copy / "thumbnails/shapes/alpha/scene-00-100.webp").unlink()
    (copy / "thumbnails/shapes/alpha/scene-02-102.webp").unlink()
    shutil.copytree(results / "thumbnails/_gallery", copy / "thumbnails/_gallery", dirs_exist_ok=True)
    browser.get((copy / "index.html").as_uri())
    wait(browser, lambda b: [e.text for e in b.find_elements(By.CSS_SELECTOR, ".broken")] == ["The picture is missing"])
    fallback = "return document.querySelector('img[src$=\"scene-02-102.png\"]')?.naturalWidth"
    wait(browser, lambda b: b.execute_script(fallback) == 64)
    browser.get_log("browser")


@needs_axe
@pytest.mark.parametrize(("scheme", "width"), LOOKS)
def test_the_page_is_accessible(page: Any, scheme: str, width: int) -> None:
    set_look(page, scheme, width)
    try:
        assert find_violations(page) == []
        assert page.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        if width < 800:
            page.find_element(By.ID, "filters").click()
            assert find_violations(page) == []
            press(page, Keys.ESCAPE)
        page.find_element(By.ID, "help-open").click()
        assert find_violations(page) == []
        press(page, Keys.ESCAPE)
        open_picture(page, 151)
        wait(page, lambda p: text(p, "viewer-prompt"))
        assert find_violations(page) == []
    finally:
        reset_look(page)


def test_a_sheet_that_mixes_versions_says_so_and_can_be_filtered(browser: Any, tmp_path: Path) -> None:
    libraries = {"diffusers": "0.42.1", "transformers": "5.23.0"}
    old, new = ({"torch": version, **libraries} for version in ("2.12.0", "2.13.0"))
    pictures = [make_picture(tmp_path, number, versions=old if number else new) for number in range(3)]
    pictures.append(make_picture(tmp_path, 3, sheet="others", versions=old))
    build_gallery(tmp_path, pictures, {}, title="Night shift", thumbnail_px=128)
    open_page(browser, tmp_path)
    said = [each.text for each in browser.find_elements(By.CSS_SELECTOR, ".notice") if each.is_displayed()]
    made = "2 pictures by torch 2.12.0, diffusers 0.42.1, transformers 5.23.0; 1 picture by torch 2.13.0, "
    assert len(said) == 1 and said[0].startswith(f"shapes mixes versions: {made}")
    assert "rerender=versions" in said[0]
    heads = {each.text.split()[0]: each.text for each in browser.find_elements(By.CSS_SELECTOR, ".group-head")}
    assert "mixes versions" in heads["shapes"] and "mixes versions" not in heads["others"]
    choose(browser, "Made by", "torch 2.13.0, diffusers 0.42.1, transformers 5.23.0")
    wait_count(browser, "1 of 4 pictures")
    assert seeds(browser) == [100]
