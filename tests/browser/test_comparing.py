"""Comparing and copying pictures of the gallery in a real browser, opened from disk, and the page of two runs."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from darkroom.cli.command import main
from darkroom.config import parse_config
from darkroom.pictures.gallery import build_gallery
from darkroom.pictures.infotext import read_infotext
from darkroom.request.render_request import RenderRequest
from darkroom.sheets.read import load_pictures
from tests.browser.accessibility import LOOKS, find_violations, needs_axe, reset_look, set_look
from tests.browser.pages import is_open, needs_chromium, ready, send_keys, text, wait
from tests.fixtures.pictures import make_picture

HOSTILE = 'it\'s a "café", 漢字 🦊 ${age} $(id) `id` \\ # x: y\nsecond line\u0085\u2028, <b>'
LARGEST_SEED = 2**63 - 1

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project") / "results"
    pictures = [make_picture(folder, number, size=64 * (1 + number % 2), cfg_scale=5 + number) for number in range(4)]
    loras, variation = {"grain": 0.5}, {"variation_seed": LARGEST_SEED - 1, "variation_strength": 0.25}
    stages = [{"hires": {"denoising_strength": 0.4, "prompt": "a ${b}"}}]
    pictures.append(
        make_picture(
            folder,
            60,
            prompt=HOSTILE,
            negative_prompt="x'y",
            loras=loras,
            seed=LARGEST_SEED,
            stages=stages,
            **variation,
        )
    )
    build_gallery(folder, pictures, {}, title="Night shift", thumbnail_px=64)
    return folder


@pytest.fixture
def page(browser: Any, results: Path) -> Iterator[Any]:
    browser.get("about:blank")
    browser.get((results / "index.html").as_uri())
    ready(browser)
    browser.get_log("browser")
    yield browser
    assert browser.get_log("browser") == []


def card(page: Any, number: int) -> Any:
    return next(each for each in page.find_elements(By.CSS_SELECTOR, ".card") if f"scene-{number:02}" in each.text)


def focus(page: Any, number: int) -> None:
    code = "[...document.querySelectorAll('.card')].find((each) => each.textContent.includes(arguments[0])).focus()"
    page.execute_script(code, f"scene-{number:02}")


def open_comparer(page: Any, *numbers: int) -> None:
    for number in numbers:
        focus(page, number)
        send_keys(page, "m")
    send_keys(page, "c")
    wait(page, lambda p: is_open(p, "comparer"))


def boxes(page: Any) -> list[dict[str, float]]:
    """Where the pictures are, relative to their panes, in parts of the picture's size."""
    code = """return [...document.querySelectorAll(".compare-pane")].map((pane) => {
      const a = pane.getBoundingClientRect(), b = pane.querySelector("img").getBoundingClientRect();
      return {x: (a.left + a.width / 2 - b.left) / b.width, y: (a.top + a.height / 2 - b.top) / b.height, width: b.width};
    })"""
    found: list[dict[str, float]] = page.execute_script(code)
    return found


def test_pictures_are_zoomed_and_moved_together(page: Any) -> None:
    open_comparer(page, 0, 1)  # of 64 and of 128 pixels
    one, other = boxes(page)
    assert one == pytest.approx(other, abs=0.01) and one["x"] == pytest.approx(0.5, abs=0.01)
    send_keys(page, "+", "+", Keys.ARROW_RIGHT, Keys.ARROW_DOWN)
    zoomed, other_zoomed = boxes(page)
    assert zoomed == pytest.approx(other_zoomed, abs=0.01)
    assert zoomed["width"] == pytest.approx(one["width"] * 2.25, abs=1)
    assert zoomed["x"] > 0.5 and zoomed["y"] > 0.5
    stage = page.find_element(By.CSS_SELECTOR, ".compare-stage")
    ActionChains(page).move_to_element(stage).click_and_hold().move_by_offset(60, 20).release().perform()
    moved, other_moved = boxes(page)
    assert moved == pytest.approx(other_moved, abs=0.01) and moved["x"] < zoomed["x"]
    send_keys(page, "1")
    assert text(page, "comparer").count("100 %") == 1
    send_keys(page, "0")
    assert boxes(page)[0]["width"] == pytest.approx(one["width"], abs=1)


def test_fingers_pinch_and_drag(page: Any) -> None:
    open_comparer(page, 0, 1)
    before = boxes(page)[0]
    box = page.find_element(By.CSS_SELECTOR, ".compare-stage").rect
    x, y = box["x"] + box["width"] / 4, box["y"] + box["height"] / 2

    def touch(kind: str, *points: tuple[float, float]) -> None:
        touches = [{"x": px, "y": py, "id": number} for number, (px, py) in enumerate(points)]
        page.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})

    touch("touchStart", (x - 20, y))
    touch("touchStart", (x - 20, y), (x + 20, y))
    for reach in (30, 40, 50):
        touch("touchMove", (x - reach, y), (x + reach, y))
    touch("touchEnd")
    pinched, other = boxes(page)
    assert pinched["width"] == pytest.approx(before["width"] * 2.5, rel=0.05)
    assert pinched == pytest.approx(other, abs=0.01)
    touch("touchStart", (x, y))
    touch("touchMove", (x + 40, y))
    touch("touchEnd")
    assert boxes(page)[0]["x"] < pinched["x"]


def test_the_settings_that_differ_are_listed(page: Any) -> None:
    open_comparer(page, 0, 2)
    rows = {row.text.split(" ")[0] for row in page.find_elements(By.CSS_SELECTOR, ".compare-table tbody th")}
    assert rows == {"ID", "Seed", "Prompt", "CFG"}
    assert page.find_elements(By.CSS_SELECTOR, ".compare-table mark")
    send_keys(page, "a")
    assert "Sampler" in text(page, "comparer")


def test_slider_and_blink_by_keyboard(page: Any) -> None:
    open_comparer(page, 0, 1)
    assert "is-side" in page.find_element(By.CSS_SELECTOR, ".compare-stage").get_attribute("class")
    send_keys(page, "l")
    handle = page.find_element(By.CSS_SELECTOR, "[role=slider]")
    cover = page.find_element(By.CSS_SELECTOR, ".is-over")
    assert handle.get_attribute("aria-valuenow") == "50"
    handle.send_keys(Keys.PAGE_DOWN, Keys.ARROW_LEFT)
    assert handle.get_attribute("aria-valuenow") == "38"
    assert "38%" in cover.value_of_css_property("clip-path")
    ActionChains(page).click_and_hold(handle).move_by_offset(100, 0).release().perform()
    assert float(handle.get_attribute("aria-valuenow")) == pytest.approx(38 + 10000 / 1280, abs=1.5)

    def shown() -> str:
        return str(page.find_element(By.CSS_SELECTOR, ".compare-pane img").get_attribute("alt"))

    ActionChains(page).key_down("b").perform()
    held = shown()
    ActionChains(page).key_up("b").perform()
    assert held.startswith("B: ") and shown().startswith("A: ") and held != shown()
    send_keys(page, Keys.ESCAPE)
    assert not is_open(page, "comparer")
    wait(page, lambda p: p.execute_script("return document.activeElement.className").startswith("card"))


def test_more_than_two_and_the_address(page: Any) -> None:
    open_comparer(page, 0, 1, 2)
    assert len(boxes(page)) == 3
    assert not page.find_element(By.ID, "compare-slider").is_enabled()
    address = page.current_url
    page.get("about:blank")
    page.get(address)
    wait(page, lambda p: is_open(p, "comparer"))
    assert text(page, "comparer-name") == "Compare 3 pictures"
    send_keys(page, Keys.ESCAPE)
    assert "compare=" not in page.current_url


def test_one_picture_is_nothing_to_compare(page: Any) -> None:
    card(page, 0).click()
    wait(page, lambda p: is_open(p, "viewer"))
    send_keys(page, "c")
    answer = page.find_element(By.CSS_SELECTOR, "#viewer .answer")
    assert answer.text == "Mark another picture first (M), then compare this one with it."
    assert not is_open(page, "comparer")


def copied(page: Any, number: int, kind: str, *, has_seed: bool = True) -> str:
    """What the dialog shows and copies."""
    focus(page, number)
    send_keys(page, "y")
    wait(page, lambda p: is_open(p, "copier"))
    if has_seed != page.find_element(By.ID, "copier-seed").is_selected():
        send_keys(page, "s")
    page.find_element(By.ID, f"copy-{kind}").click()
    wait(page, lambda p: "Copied" in p.find_element(By.CSS_SELECTOR, ".copier-said").text)
    page.set_permissions("clipboard-read", "granted")
    found = page.execute_async_script(
        "navigator.clipboard.readText().then(arguments[0], (e) => arguments[0](String(e)))"
    )
    send_keys(page, Keys.ESCAPE)
    return str(found)


DEFAULTS = """\
defaults:
  seeds: [1, 2]
  steps: 3
  styles: []
  eta: 0.5
  sampler: DDIM
  loras: {other: 1}
  then: [{upscale: {scale: 2}}]
prompts:
"""


@pytest.mark.parametrize("number", [1, 60])
def test_an_entry_in_a_sheet_makes_this_picture(
    number: int, page: Any, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [json.loads(line) for line in (results / "manifest.jsonl").read_bytes().splitlines()]
    wanted = next(line for line in lines if line["id"] == f"scene-{number:02}")
    entry, without = (copied(page, number, "yaml", has_seed=has_seed) for has_seed in (True, False))
    monkeypatch.chdir(tmp_path)
    indented = "".join(f"  {line}" for line in entry.splitlines(keepends=True))
    Path("s.yaml").write_text(DEFAULTS + indented, "utf-8")
    Path("t.yaml").write_text(without, "utf-8")
    sources = {name: {"source": f"{name}.safetensors"} for name in ("alpha", "beta", "grain", "other")}
    config = {
        "checkpoints": {name: sources[name] for name in ("alpha", "beta")},
        "loras": {name: sources[name] for name in ("grain", "other")},
    }
    found = load_pictures(parse_config({**config, "sheets": ["s.yaml", "t.yaml"], "render": {"seeds": [7, 8]}}))
    assert [(p.checkpoint, p.id) for p in found["s"].results] == [("alpha", wanted["id"])]
    assert found["s"].results[0].request == RenderRequest.from_settings(wanted["request"])
    assert [p.seed for p in found["t"].results] == [7, 8]


def test_a_curl_line_sends_this_request_through_bash(page: Any, tmp_path: Path) -> None:
    (tmp_path / "curl").write_text('#!/bin/sh\nfor each; do printf "%s\\0" "$each"; done\n')
    (tmp_path / "curl").chmod(0o755)
    for has_seed in (True, False):
        line = copied(page, 60, "curl", has_seed=has_seed)
        done = subprocess.run(
            ["bash", "-c", line], capture_output=True, check=True, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}
        )
        address, _, output, option, body = done.stdout.decode().split("\0")[:-1]
        assert (address, option) == ("http://127.0.0.1:8000/render", "--json")
        assert output == f"scene-60-{LARGEST_SEED}.png"
        sent = json.loads(body)
        assert sent["model"] == "alpha"
        assert sent["request"].get("seed") == (LARGEST_SEED if has_seed else None)
        assert RenderRequest.from_settings(sent["request"]).prompt == HOSTILE
        assert len(RenderRequest.from_settings(sent["request"]).stages) == 1
        assert sent["request"]["variation_seed"] == LARGEST_SEED - 1


def test_infotext_and_replay(page: Any) -> None:
    whole, without = (copied(page, 60, "infotext", has_seed=has_seed) for has_seed in (True, False))
    assert read_infotext(whole)["settings"]["Seed"] == str(LARGEST_SEED)
    assert "Seed" not in read_infotext(without)["settings"]
    assert {**read_infotext(without)["settings"], "Seed": str(LARGEST_SEED)} == read_infotext(whole)["settings"]
    line = shlex.split(copied(page, 1, "replay"))
    assert line == ["darkroom", "replay", "results/shapes/alpha/scene-01-101.png", "-o", "scene-01-101.png"]


def test_two_runs_are_compared_on_a_page_from_disk(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, steps in (("old #1", 20), ("new %41", 25)):
        pictures = [make_picture(Path(name), number, steps=steps) for number in range(2)]
        build_gallery(Path(name), [*pictures, make_picture(Path(name), 5)], {}, title="Run", thumbnail_px=64)
    assert main(["diff", "old #1", "new %41", "--html", "diff.html"]) == 1
    browser.get((tmp_path / "diff.html").as_uri())
    browser.get_log("browser")
    for image in browser.find_elements(By.CSS_SELECTOR, ".change img"):
        wait(browser, lambda p, image=image: p.execute_script("return arguments[0].naturalWidth", image) > 0)
    browser.find_elements(By.CSS_SELECTOR, "button.change")[0].click()
    wait(browser, lambda p: is_open(p, "comparer"))
    rows = [row.text for row in browser.find_elements(By.CSS_SELECTOR, ".compare-table tbody tr")]
    assert rows == ["steps 20 25"]
    send_keys(browser, "n")
    assert text(browser, "comparer-name") == "shapes/alpha/scene-01-101"
    send_keys(browser, Keys.ESCAPE)
    wait(browser, lambda p: p.execute_script("return document.activeElement.dataset.place") == "1")
    assert browser.get_log("browser") == []


@needs_axe
@pytest.mark.parametrize(("scheme", "width"), LOOKS)
def test_comparing_and_copying_are_accessible(page: Any, scheme: str, width: int) -> None:
    set_look(page, scheme, width)
    page.refresh()
    ready(page)
    try:
        open_comparer(page, 0, 1)
        for mode in ("side", "slider", "blink"):
            page.find_element(By.ID, f"compare-{mode}").click()
            assert find_violations(page) == []
        send_keys(page, Keys.ESCAPE)
        wait(page, lambda p: p.execute_script("return document.activeElement.className").startswith("card"))
        send_keys(page, "y")
        wait(page, lambda p: is_open(p, "copier"))
        assert find_violations(page) == []
        assert page.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    finally:
        reset_look(page)
