"""The gallery of more pictures than a window shows: what is in the document, scrolling, captions at every size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from darkroom.pictures import gallery, gallery_data
from darkroom.pictures.gallery import build_gallery
from darkroom.pictures.picture import GalleryPicture
from tests.browser.accessibility import reset_look, set_look
from tests.browser.pages import needs_chromium, press, ready, text, wait
from tests.browser.test_gallery import fragment, open_page, type_filter, wait_count
from tests.fixtures.gallery_page import read_head
from tests.fixtures.pictures import make_picture

COUNT, SHEETS = 600, 3
LONG = "an orangeneonlanternfestivalprocessionoverwaters, orange, ultramarine, phosphorescence, {} lanterns"
# Words that stand on more than one line of a card.
_BROKEN_WORDS = r"""
const broken = [];
for (const element of document.querySelectorAll(".card .prompt, .card .fact")) {
  const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode()); ) {
    for (const { 0: word, index } of node.data.matchAll(/[^\s-]+/g)) {
      const range = document.createRange();
      range.setStart(node, index);
      range.setEnd(node, index + word.length);
      if (new Set([...range.getClientRects()].map(({ top }) => Math.round(top))).size > 1) broken.push(word);
    }
  }
}
return [broken, document.querySelectorAll(".card .prompt").length];
"""

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 cards of 24 files, in three sheets; small chunks, so that there are several of each kind."""
    folder = tmp_path_factory.mktemp("large")
    made = [make_picture(folder, number, prompt=LONG.format(number)) for number in range(24)]
    pictures = [name(made[n % 24], f"sheet-{n * SHEETS // COUNT}", f"scene-{n:03}", folder) for n in range(COUNT)]
    with pytest.MonkeyPatch.context() as patch:
        for module, name_, size in (
            (gallery_data, "BLOCK", 256),
            (gallery_data, "DETAILS", 50),
            (gallery_data, "TEXTS", 8),
        ):
            patch.setattr(module, name_, size)
            patch.setattr(gallery, name_, size)
        build_gallery(folder, pictures, {}, title="Large", thumbnail_px=128)
    assert [len(names) for names in read_head(folder)["chunks"].values()] == [3, 3, 12]
    return folder


def name(picture: GalleryPicture, sheet: str, number: str, folder: Path) -> GalleryPicture:
    """The same picture in another place, by a hard link."""
    path = f"{sheet}/alpha/{number}-{picture.seed}.png"
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).hardlink_to(folder / picture.path)
    return replace(picture, sheet=sheet, id=number, path=path)


@pytest.fixture
def page(browser: Any, results: Path) -> Iterator[Any]:
    open_page(browser, results)
    yield browser
    assert browser.get_log("browser") == []


def cards(page: Any) -> int:
    return int(page.execute_script("return document.querySelectorAll('.card').length"))


def test_only_what_is_in_sight_is_in_the_document_and_nothing_jumps(page: Any) -> None:
    assert text(page, "count") == "600 pictures"
    height = page.execute_script("return document.documentElement.scrollHeight")
    most = []
    for share in (0.3, 0.7, 1.0, 0.5):
        page.execute_script("scrollTo(0, document.documentElement.scrollHeight * arguments[0])", share)
        wait(
            page,
            lambda p: p.execute_script(
                "const list = document.getElementById('list').getBoundingClientRect(), from = Math.max(0, list.top), to = Math.min(innerHeight, list.bottom);"
                "return [...document.querySelectorAll('.card')].some((e) => { const b = e.getBoundingClientRect(); return b.top < to && b.bottom > from; })"
            ),
        )
        most.append(cards(page))
        assert page.execute_script("return document.documentElement.scrollHeight") == height
    assert max(most) < 120
    edge = "return Math.max(...[...document.querySelectorAll('.item')].map((e) => e.getBoundingClientRect().right))"
    assert page.execute_script(edge + " <= document.getElementById('list').getBoundingClientRect().right + 0.5")
    loaded = "return [...document.querySelectorAll('.card')].every((e) => e.querySelector('img')?.naturalWidth && e.querySelector('.prompt').textContent)"
    wait(page, lambda p: p.execute_script(loaded))


def test_a_screen_reader_hears_where_a_card_stands(page: Any) -> None:
    press(page, Keys.END)
    press(page, Keys.ARROW_DOWN)
    press(page, Keys.END)
    place = page.execute_script(
        "const item = document.activeElement.closest('[role=listitem]'), list = item.closest('[role=list]');"
        "return [item.ariaPosInSet, item.ariaSetSize, document.getElementById(list.getAttribute('aria-labelledby')).textContent.trim()]"
    )
    assert place == ["200", "200", "sheet-2 alpha 200"]
    page.execute_script("scrollTo(0, 0)")
    wait(page, lambda p: p.execute_script("return document.querySelector('[aria-posinset=\"1\"]') !== null"))
    assert page.execute_script("return document.activeElement.classList.contains('card')"), "the focus isn't lost"


def test_heads_stay_in_sight_and_a_sheet_can_be_jumped_to(page: Any) -> None:
    Select(page.find_element(By.ID, "jump")).select_by_visible_text("sheet-1 on alpha (200)")
    head = (
        "const bar = document.getElementById('bar').getBoundingClientRect().bottom;"
        "return [...document.querySelectorAll('.group-head')].find((e) => Math.abs(e.getBoundingClientRect().top - bar) < 3)?.textContent"
    )
    wait(page, lambda p: (p.execute_script(head) or "").startswith("sheet-1 alpha 200Contact sheet"))
    wait(page, lambda p: fragment(p).startswith("#at=sheet-1/alpha/"))
    at = fragment(page)
    page.refresh()
    ready(page)
    wait(page, lambda p: (p.execute_script(head) or "").startswith("sheet-1 alpha"))
    assert fragment(page) == at


def test_a_search_reads_the_prompts_that_it_needs(page: Any) -> None:
    type_filter(page, '"23 lanterns" ultramarine')
    wait_count(page, "25 of 600 pictures")
    type_filter(page, "-lanterns")
    wait_count(page, "0 of 600 pictures")
    assert text(page, "nothing").startswith("No picture matches")


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("size", [64, 128, 200, 256, 512])
def test_no_word_is_broken(page: Any, size: int, width: int) -> None:
    set_look(page, "light", width)
    try:
        page.execute_script("Gallery.state.set('size', arguments[0])", size)
        ready = "return [...document.querySelectorAll('.card .prompt')].every((e) => e.textContent)"
        wait(page, lambda p: p.execute_script(ready))
        broken, count = page.execute_script(_BROKEN_WORDS)
        assert (broken, count > 0) == ([], True)
        cut = "return [...document.querySelectorAll('.card .words')].filter((e) => e.scrollHeight > e.clientHeight + 1).length"
        assert page.execute_script(cut) == 0, "all lines have room"
        assert page.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    finally:
        reset_look(page)


def test_with_reduced_motion_nothing_moves_by_itself(page: Any) -> None:
    set_look(page, "light", 1280, reduced_motion=True)
    try:
        moving = "return getComputedStyle(document.querySelector('.card')).transitionDuration"
        assert page.execute_script(moving) in ("0s", "")
    finally:
        reset_look(page)
