"""A study's page in a real browser, opened from disk. Needs Chromium and its driver; skipped aloud without them."""

from __future__ import annotations

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
from tests.fixtures.study_pages import Study, make_measures, make_study

HOSTILE = "</script><img src=x onerror=\"document.title='owned'\">"
LONG = "a sailor who has seen every harbour between Hamburg and Valparaíso " * 3
AGES = ("~", "young", HOSTILE, LONG, "שלום עולם", "🎉")
SCALES = tuple(str(number) for number in range(1, 13))
SEEDS = (11, 22, 33)
LOST = {"age": "young", "cfg_scale": "2"}

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """6 ages × 12 scales × 2 lights × 3 seeds; one cell is excluded, one is missing, scale 3 changes nothing."""
    results = tmp_path_factory.mktemp("study %41 #1") / "results"
    study = make_study(
        results,
        {"age": AGES, "cfg_scale": SCALES, "light": ("noon", "dusk")},
        seeds=SEEDS,
        plain={"age": "~"},
        grid={"rows": "age", "columns": "cfg_scale"},
        is_excluded=lambda labels: labels["age"] == "young" and labels["cfg_scale"] == "4",
        size=64,
        negative_prompt=HOSTILE,
    )
    lost = {p.name for p in study.pictures if p.study and p.study["axes"] == {**LOST, "light": "noon"} and p.seed == 11}
    measured = [picture for picture in study.pictures if picture.name not in lost]
    study.write_measures({p.name: measure(p.study or {}, p.seed) for p in measured})
    build_gallery(results, study.pictures, {}, title="Studies", thumbnail_px=64)
    for picture in study.pictures:
        if picture.name in lost:
            (results / picture.path).unlink()
    study.make_page()
    return study


def measure(facts: dict[str, Any], seed: int) -> Any:
    scale = facts["axes"]["cfg_scale"]
    return make_measures(float(scale), unchanged=["cfg_scale"] if scale == "3" else [], beauty=seed / 10)


@pytest.fixture
def page(browser: Any, study: Study) -> Iterator[Any]:
    open_page(browser, study.page)
    yield browser
    assert browser.get_log("browser") == []


def open_page(browser: Any, path: Path, fragment: str = "") -> None:
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get(path.as_uri() + fragment)
    ready(browser)


def find(page: Any, selector: str) -> list[Any]:
    return list(page.find_elements(By.CSS_SELECTOR, selector))


def labels(page: Any, side: str) -> list[str]:
    """The labels of the rows or columns that are in the document, in order."""
    script = (
        "return [...document.querySelectorAll(arguments[0])].map(e => [+e.dataset[arguments[1]], "
        "e.querySelector('.label').textContent]).sort((a, b) => a[0] - b[0]).map(e => e[1])"
    )
    found = page.execute_script(script, f"#table .{side}-head", side)
    return [str(label) for label in found]


def cell(page: Any, row: int, column: int) -> Any:
    (element,) = find(page, f"[role=gridcell][data-row='{row}'][data-column='{column}']")
    return element


def at(page: Any) -> tuple[int, int]:
    """Row and column of what has the focus."""
    element = page.execute_script("return {...document.activeElement.closest('[data-row]').dataset}")
    return int(element["row"]), int(element["column"])


def source(page: Any, row: int, column: int) -> str:
    return str(cell(page, row, column).find_element(By.TAG_NAME, "img").get_attribute("src"))


def choose(page: Any, name: str, label: str) -> None:
    Select(page.find_element(By.ID, name)).select_by_visible_text(label)


def fragment(page: Any) -> str:
    return str(page.execute_script("return decodeURIComponent(location.hash)"))


def settings(page: Any) -> dict[str, str]:
    terms, values = (find(page, f"#viewer-settings {tag}") for tag in ("dt", "dd"))
    return {term.text: value.text for term, value in zip(terms, values, strict=True)}


def open_large(page: Any, row: int, column: int) -> None:
    cell(page, row, column).click()
    wait(page, lambda p: p.find_element(By.ID, "viewer").get_attribute("open"))


def test_pictures_stand_where_their_labels_meet(page: Any, study: Study) -> None:
    assert labels(page, "row")[: len(AGES)] == list(AGES)
    assert labels(page, "column")[:3] == ["1", "2", "3"]
    assert text(page, "count") == f"6 rows × 12 columns of {len(study.pictures)} cells, 1 missing"
    at_noon = {"age": "young", "cfg_scale": "3", "light": "noon"}
    (picture,) = [p for p in study.pictures if p.study and p.study["axes"] == at_noon and p.seed == 11]
    assert source(page, 1, 2).endswith(f"thumbnails/{picture.name}.webp")
    image = cell(page, 1, 2).find_element(By.TAG_NAME, "img")
    wait(page, lambda p: p.execute_script("return arguments[0].naturalWidth", image) == 64)


def test_heads_stay_in_sight_while_the_table_scrolls(page: Any) -> None:
    page.execute_script("document.getElementById('table').scrollTo(300, 260)")
    where = "return (({left, top}) => [left, top])(arguments[0].getBoundingClientRect())"
    (table,) = find(page, "#table")
    wait(page, lambda p: "12" in labels(p, "column"))
    left, top = page.execute_script(where, table)
    heads = [page.execute_script(where, head) for head in find(page, "#table .row-head")]
    assert {x for x, _ in heads} == {left}
    assert {y for _, y in (page.execute_script(where, head) for head in find(page, ".column-head"))} == {top + 1}


def test_only_cells_in_sight_are_in_the_document(browser: Any, tmp_path: Path) -> None:
    rows = tuple(f"row {number}" for number in range(60))
    many = make_study(tmp_path, {"look": rows, "steps": SCALES}, grid={"rows": "look", "columns": "steps"}, size=64)
    open_page(browser, many.make_page())
    assert len(find(browser, "[role=gridcell]")) < 400
    (table,) = find(browser, "#table")
    assert (table.get_attribute("aria-rowcount"), table.get_attribute("aria-colcount")) == ("61", "13")
    browser.execute_script("arguments[0].scrollTop = 1e6", table)
    wait(browser, lambda b: "row 59" in labels(b, "row"))
    assert "row 20" not in labels(browser, "row")
    rows_there = find(browser, "#table .row")
    assert rows_there[-1].get_attribute("aria-rowindex") == "61"


def test_rows_and_columns_can_be_chosen(page: Any) -> None:
    choose(page, "columns", "light")
    assert labels(page, "column") == ["noon", "dusk"]
    choose(page, "rows", "light")  # the side that loses it takes the other's
    assert labels(page, "row") == ["noon", "dusk"]
    assert labels(page, "column")[: len(AGES)] == list(AGES)
    choose(page, "columns", "none")
    assert len(find(page, "[role=gridcell]")) == 2


def test_other_dimensions_are_selectors_and_the_seed_is_a_slider(page: Any) -> None:
    before = source(page, 0, 0)
    choose(page, "page-2", "dusk")
    assert [o.text for o in find(page, "#page-2 option")] == ["noon · base", "dusk"]
    dusk = source(page, 0, 0)
    (slider,) = find(page, "input[type=range][id^=page-]")
    slider.send_keys(Keys.ARROW_RIGHT)
    assert text(page, "controls").split().count("22") == 1
    assert len({before, dusk, source(page, 0, 0)}) == 3
    assert source(page, 0, 0).endswith("-22.webp")
    assert "at:seeds=22" in fragment(page)


def test_a_value_can_be_hidden_and_shown_again(page: Any) -> None:
    press(page, Keys.TAB)
    (hide,) = find(page, ".column-head[data-column='1'] .hide")
    hide.click()
    assert labels(page, "column")[:3] == ["1", "3", "4"]
    assert at(page)[1] == 1
    page.switch_to.active_element.send_keys(Keys.ARROW_UP, Keys.ARROW_UP, Keys.ENTER)
    assert labels(page, "column")[:2] == ["1", "4"]
    find(page, "#hidden-list .chip")[0].click()
    assert labels(page, "column")[:3] == ["1", "2", "4"]
    find(page, "#hidden-list .chip")[0].click()
    assert labels(page, "column")[:3] == ["1", "2", "3"]
    assert not page.find_element(By.ID, "hidden-values").is_displayed()


def test_when_everything_is_hidden_one_button_shows_it_again(page: Any) -> None:
    choose(page, "columns", "light")
    for _ in range(2):
        find(page, ".column-head .hide")[0].click()
    assert page.find_element(By.ID, "nothing").is_displayed()
    page.find_element(By.ID, "show-all").click()
    assert labels(page, "column") == ["noon", "dusk"]


def test_arrow_keys_walk_through_cells_and_heads(page: Any) -> None:
    cell(page, 0, 0).send_keys("")
    page.execute_script("arguments[0].focus()", cell(page, 0, 0))
    steps = [
        (Keys.ARROW_RIGHT, (0, 1)),
        (Keys.ARROW_DOWN, (1, 1)),
        (Keys.END, (1, 11)),
        (Keys.ARROW_RIGHT, (1, 11)),
        (Keys.HOME, (1, 0)),
        (Keys.ARROW_LEFT, (1, -1)),
        (Keys.ARROW_RIGHT, (1, 0)),
        (Keys.PAGE_DOWN, None),
    ]
    for key, there in steps:
        press(page, key)
        assert there is None or at(page) == there
    assert at(page)[0] > 1
    assert page.execute_script("return document.querySelectorAll('#table [tabindex=\"0\"]').length") == 1
    box, view = (
        page.execute_script("return (({top, bottom}) => [top, bottom])(arguments[0].getBoundingClientRect())", e)
        for e in (page.switch_to.active_element, page.find_element(By.ID, "table"))
    )
    assert view[0] <= box[0] and box[1] <= view[1] + 1


def test_a_held_key_shows_the_base_cells_picture(page: Any) -> None:
    from selenium.webdriver import ActionChains

    page.execute_script("arguments[0].focus()", cell(page, 1, 2))
    own, base = source(page, 1, 2), source(page, 0, 0)
    ActionChains(page).key_down("b").perform()
    assert source(page, 1, 2) == base
    assert text(page, "said").startswith("Base: ")
    ActionChains(page).key_up("b").perform()
    assert source(page, 1, 2) == own
    assert "hold B" in page.find_element(By.TAG_NAME, "footer").text


def test_a_held_key_shows_the_marked_picture_also_in_full(page: Any) -> None:
    from selenium.webdriver import ActionChains

    page.execute_script("arguments[0].focus()", cell(page, 0, 1))
    press(page, "m")
    marked = source(page, 0, 1)
    assert "marked" in cell(page, 0, 1).text
    page.execute_script("arguments[0].focus()", cell(page, 2, 2))
    ActionChains(page).key_down("b").perform()
    assert source(page, 2, 2) == marked
    ActionChains(page).key_up("b").perform()
    press(page, Keys.ENTER)
    image = page.find_element(By.ID, "viewer-image")
    wait(page, lambda p: image.get_attribute("src"))
    own = image.get_attribute("src")
    ActionChains(page).click_and_hold(page.find_element(By.ID, "compare")).perform()
    name = Path(marked).stem
    assert Path(image.get_attribute("src")).stem == name
    assert text(page, "viewer-shown").startswith("Marked: ")
    ActionChains(page).release().perform()
    assert image.get_attribute("src") == own
    press(page, Keys.ESCAPE)


def test_no_visible_change_is_said_at_heads_and_cells(page: Any) -> None:
    assert "no visible change" in find(page, ".column-head[data-column='2']")[0].text
    assert "no visible change" not in find(page, ".column-head[data-column='1']")[0].text
    assert cell(page, 0, 2).text == "no visible change: cfg_scale"
    choose(page, "columns", "light")
    assert [o.text for o in find(page, "#page-1 option")][:3] == ["1 · base", "2", "3 · no visible change"]
    choose(page, "columns", "cfg_scale")
    assert "no visible change" in (cell(page, 0, 2).get_attribute("aria-label") or "")
    open_large(page, 0, 2)
    assert settings(page)["No visible change"] == "cfg_scale"


def test_numbers_can_be_switched_on(page: Any) -> None:
    assert "Difference" not in cell(page, 0, 1).text
    for name in ("difference", "score beauty"):
        find(page, f"#controls input[value='{name}']")[0].click()
    assert cell(page, 0, 1).text.split() == ["Difference", "2.0", "beauty", "1.1"]
    find(page, "#controls input[value='difference']")[0].send_keys(Keys.SPACE)
    assert cell(page, 0, 1).text.split() == ["beauty", "1.1"]
    open_large(page, 0, 1)
    assert (
        settings(page).items() >= {"Difference": "2.0", "SSIM": "0.992", "Clipped": "25.0 %", "beauty": "1.1"}.items()
    )


def test_a_missing_cell_is_hatched_and_says_why_and_an_excluded_one_is_empty(page: Any) -> None:
    missing, excluded = cell(page, 1, 1), cell(page, 1, 3)
    assert missing.text == "not rendered yet"
    frame = missing.find_element(By.CLASS_NAME, "frame")
    assert "repeating-linear-gradient" in frame.value_of_css_property("background-image")
    assert (excluded.text, excluded.find_elements(By.TAG_NAME, "img")) == ("", [])
    assert "no such cell" in (excluded.get_attribute("aria-label") or "")
    open_large(page, 1, 1)
    assert text(page, "viewer-error") == "not rendered yet"
    assert not page.find_element(By.ID, "copy").is_displayed()
    press(page, Keys.ARROW_RIGHT)
    wait(page, lambda p: "3" in text(p, "viewer-name").split(" · "))
    press(page, Keys.ARROW_RIGHT)  # over the excluded cell
    wait(page, lambda p: "5" in text(p, "viewer-name").split(" · "))


def test_the_full_view_has_what_made_the_picture(page: Any) -> None:
    page.execute_cdp_cmd("Browser.grantPermissions", {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]})
    open_large(page, 2, 1)
    wait(page, lambda p: p.execute_script("return document.getElementById('viewer-image').naturalWidth") == 64)
    assert text(page, "viewer-negative") == HOSTILE
    assert settings(page).items() >= {"age": HOSTILE, "cfg_scale": "2", "Seed": "11", "Size": "64x64"}.items()
    page.find_element(By.ID, "copy").click()
    wait(page, lambda p: text(p, "copy") == "Copied")
    copied = page.execute_async_script("navigator.clipboard.readText().then(arguments[0])")
    assert f"Negative prompt: {HOSTILE}" in copied
    assert page.title == "study"
    assert not find(page, "img[src='x']")
    press(page, Keys.ESCAPE)
    wait(page, lambda p: not p.find_element(By.ID, "viewer").is_displayed())
    assert at(page) == (2, 1)


def test_a_view_survives_a_reload_and_can_be_linked(page: Any, study: Study) -> None:
    choose(page, "columns", "light")
    choose(page, "page-1", "5")
    find(page, "#controls input[value='ssim']")[0].click()
    find(page, ".row-head[data-row='1'] .hide")[0].click()
    page.execute_script("arguments[0].focus()", cell(page, 2, 1))
    press(page, "m")
    seen = (labels(page, "row"), labels(page, "column"), source(page, 2, 1), cell(page, 2, 1).text, fragment(page))
    assert "hide:age=young" in seen[-1]
    page.refresh()
    ready(page)
    again = (labels(page, "row"), labels(page, "column"), source(page, 2, 1), cell(page, 2, 1).text, fragment(page))
    assert again == seen
    open_page(page, study.page, "#at:cfg_scale=7&at:age=young&large=1")
    wait(page, lambda p: p.find_element(By.ID, "viewer").get_attribute("open"))
    assert text(page, "viewer-name") == "young · 7 · noon · 11"


def test_a_link_that_names_other_labels_says_so(browser: Any, study: Study) -> None:
    open_page(browser, study.page, "#at:light=midnight&number=weight&at:cfg_scale=2")
    assert text(browser, "unknown").endswith("at:light=midnight, number=weight.")
    assert browser.execute_script("return document.querySelector('[tabindex=\"0\"]').dataset.column") == "1"


def test_gallery_and_page_are_linked(page: Any, study: Study) -> None:
    page.find_element(By.LINK_TEXT, "Gallery").click()
    wait(page, lambda p: p.title == "Studies")
    wait(page, lambda p: p.find_elements(By.LINK_TEXT, "Table"))
    page.find_element(By.LINK_TEXT, "Table").click()
    wait(page, lambda p: p.title == "study")
    assert page.current_url == study.page.as_uri()


def test_nothing_can_be_fetched_or_run(browser: Any, study: Study) -> None:
    open_page(browser, study.page)
    used = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert all(name.startswith("file:///") for name in used)
    refused = browser.execute_async_script(
        "const done = arguments[0]; const s = document.createElement('script');"
        "s.textContent = 'document.title = \"owned\"'; document.head.append(s);"
        "fetch('http://127.0.0.1:9/').then(() => done('fetched'), () => done(document.title))"
    )
    assert refused == "study"
    assert "Content Security Policy" in " ".join(entry["message"] for entry in browser.get_log("browser"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_have_contrast(browser: Any, study: Study, scheme: str) -> None:
    """WCAG 2.2, 1.4.3: at least 4.5 to 1."""
    emulated = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", emulated)
    try:
        open_page(browser, study.page, "#number=difference&hide:light=dusk&at:x=y")
        assert browser.execute_script(LOW_CONTRAST) == []
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


LOW_CONTRAST = """
const light = (color) => {
  const [r, g, b] = color.match(/[\\d.]+/g).map(Number).map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const color = getComputedStyle(at).backgroundColor;
    if (!/, 0\\)$/.test(color)) return color;
  }
  return getComputedStyle(document.body).backgroundColor;
};
return [...document.querySelectorAll("body *:not(script, style, noscript, option)")]
  .filter((e) => e.checkVisibility() && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
  .map((e) => [e.className || e.tagName, light(getComputedStyle(e).color), light(behind(e))])
  .filter(([, a, b]) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) < 4.5);
"""


def test_a_phone_scrolls_the_table_and_not_the_page(browser: Any, study: Study) -> None:
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        open_page(browser, study.page, "#number=difference&hide:light=dusk&hide:age=🎉")
        widths = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
        assert widths == [390, 390]
        (table,) = find(browser, "#table")
        assert browser.execute_script("return arguments[0].scrollWidth > arguments[0].clientWidth", table)
        assert browser.execute_script("return arguments[0].clientHeight", table) > 400
        in_sight = [e for e in find(browser, "[role=gridcell] img") if 0 < e.rect["x"] < 290]
        assert len(in_sight) >= 4
        open_large(browser, 0, 1)
        foot = [e.rect for e in find(browser, ".panel-foot > *") if e.is_displayed()]
        assert all(rect["x"] >= 0 and rect["x"] + rect["width"] <= 390 for rect in foot)
        assert len(foot) == 3
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("axes", [{"look": ("one",)}, {"look": AGES}], ids=["one cell", "one line"])
def test_studies_of_one_line(browser: Any, tmp_path: Path, axes: dict[str, tuple[str, ...]]) -> None:
    small = make_study(tmp_path, axes, size=64)
    open_page(browser, small.make_page())
    assert len(find(browser, "[role=gridcell] img")) == len(axes["look"])
    assert browser.get_log("browser") == []


def test_a_page_without_measures_offers_no_numbers(browser: Any, tmp_path: Path) -> None:
    study = make_study(tmp_path, {"look": ("a", "b"), "steps": ("1", "2")}, size=64)
    open_page(browser, study.make_page())
    assert not find(browser, "#controls input[type=checkbox]")
    assert len(find(browser, "[role=gridcell] img")) == 4


def test_long_labels_are_there_in_full(page: Any) -> None:
    (head,) = [e for e in find(page, "#table .row-head .label") if e.text.startswith("a sailor")]
    assert head.text == " ".join(LONG.split())
    box, row = head.rect, head.find_element(By.XPATH, "ancestor::*[@role='row']").rect
    assert box["y"] >= row["y"] and box["y"] + box["height"] <= row["y"] + row["height"]
    assert (
        page.execute_script(
            "return getComputedStyle([...document.querySelectorAll('.label')].find(e => e.textContent.includes('ש'))).direction"
        )
        == "rtl"
    )


@needs_axe
@pytest.mark.parametrize(("scheme", "width"), LOOKS)
def test_the_page_is_accessible(page: Any, scheme: str, width: int) -> None:
    set_look(page, scheme, width)
    try:
        assert find_violations(page) == []
        cell(page, 1, 1).click()
        wait(page, lambda p: p.find_element(By.ID, "viewer").get_attribute("open"))
        assert find_violations(page) == []
    finally:
        reset_look(page)
