"""The server's page in a real browser, with a real server behind it. Skipped aloud without Chromium and its driver."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from darkroom.pictures.png import text_of_png
from tests.browser.accessibility import LOOKS, find_violations, needs_axe, reset_look, set_look
from tests.browser.pages import element, make_page_site, needs_chromium, open_page, press, text, wait
from tests.fixtures.serving import serve, wait_for

HOSTILE = "</textarea></script><img src=x onerror=\"document.title='owned'\">"
KEY = "a-key-of-this-test-only"
MOST_TABS = 40

pytestmark = needs_chromium


@pytest.fixture
def page(page: Any) -> Iterator[Any]:
    """The same, and requests may be refused."""
    yield page
    log = [entry["message"] for entry in page.get_log("browser")]
    assert [message for message in log if "responded with a status of 4" not in message] == []  # Chromium's own words


def fill(page: Any, **fields: object) -> None:
    """Type into fields; choose in lists."""
    for name, value in fields.items():
        field = element(page, name)
        if field.tag_name == "select":
            Select(field).select_by_value(str(value))
        else:
            field.clear()
            field.send_keys(str(value))


def open_more(page: Any) -> None:
    summary = page.find_element(By.CSS_SELECTOR, "#more-part summary")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", summary)
    summary.click()
    page.execute_script("scrollTo(0, document.body.scrollHeight)")


def count(page: Any) -> int:
    return len(page.find_elements(By.CSS_SELECTOR, "#history li"))


def render(page: Any, **fields: object) -> None:
    """Fill in fields, press Render, and wait until a picture has been added."""
    before = count(page)
    fill(page, **fields)
    element(page, "render").click()
    wait_for_picture(page, before + 1)


def wait_for_picture(page: Any, number: int) -> None:
    wait(page, lambda p: count(p) == number and not element(p, "run").is_displayed())
    image = element(page, "image")
    wait(page, lambda p: p.execute_script("return arguments[0].complete && arguments[0].naturalWidth > 0", image))


def wait_for_error(page: Any) -> tuple[str, str, str]:
    """Message, hint and code of the error that is shown; the browser's own log of the refused request is dropped."""
    wait(page, lambda p: element(p, "error").is_displayed())
    assert {entry["source"] for entry in page.get_log("browser")} <= {"network"}
    return text(page, "error-message"), text(page, "error-hint"), text(page, "error-code")


def settings(page: Any) -> dict[str, str]:
    terms = [t.text for t in page.find_elements(By.CSS_SELECTOR, "#settings dt")]
    return dict(zip(terms, [v.text for v in page.find_elements(By.CSS_SELECTOR, "#settings dd")], strict=True))


def values(page: Any, *names: str) -> list[str]:
    return [str(element(page, name).get_property("value")) for name in names]


def download(page: Any, folder: Path) -> tuple[str, dict[str, str]]:
    """The name of the downloaded picture, and its texts."""
    page.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})
    element(page, "download").click()
    path = wait(page, lambda _: next(folder.glob("*.png"), None))
    return path.name, text_of_png(path.read_bytes(), path)


def test_a_picture_is_made_with_the_settings_in_the_form(page: Any) -> None:
    fields = {"width": 128, "height": 64, "steps": 12, "cfg_scale": "2.5", "seed": 5}
    page.execute_script(
        "window.stages = []; const stage = document.getElementById('stage');"
        "new MutationObserver(() => stages.push(stage.textContent)).observe(stage, {childList: true})"
    )
    render(page, prompt="a red circle", sampler="DPM++ 2M", schedule="Karras", negative_prompt="blue", **fields)
    size = page.execute_script(
        "const i = document.getElementById('image'); return [i.naturalWidth, i.naturalHeight, i.alt]"
    )
    assert size == [128, 64, "a red circle"]
    assert (text(page, "shown-prompt"), text(page, "shown-negative")) == ("a red circle", "blue")
    shown = settings(page)
    wanted = {"Seed": "5", "Size": "128x64", "Sampler": "DPM++ 2M", "Schedule": "Karras", "Steps": "12"}
    assert shown.items() >= {**wanted, "CFG scale": "2.5", "Tokens": "3 in 1 chunk", "Emphasis": "lpw"}.items()
    assert shown["Model"].startswith("tiny [")
    assert shown["Time"].endswith(" s")
    steps = [told for told in page.execute_script("return stages") if told.startswith("step ")]
    assert steps[-1] == "step 12 of 12"
    assert len(set(steps)) > 3
    assert text(page, "said") == "The picture is there."
    assert page.switch_to.active_element.get_attribute("id") == "render"


def test_the_form_begins_with_the_servers_defaults(page: Any) -> None:
    names = ("model", "width", "height", "steps", "cfg_scale", "negative_prompt", "sampler", "seed", "prompt")
    assert values(page, *names) == ["tiny", "64", "64", "3", "4", "fog", "Euler", "", ""]


def test_every_field_has_a_label(page: Any) -> None:
    open_more(page)
    element(page, "add-lora").click()
    unlabelled = page.execute_script(
        "return [...document.querySelectorAll('input, select, textarea, button')].filter(f =>"
        "!f.labels?.length && !f.ariaLabel && !f.textContent.trim()).map(f => f.outerHTML)"
    )
    assert unlabelled == []


def test_seeds_are_random_until_one_is_kept(page: Any) -> None:
    render(page, prompt="x")
    first = settings(page)["Seed"]
    render(page)
    assert settings(page)["Seed"] != first
    element(page, "again").click()
    kept = values(page, "seed")[0]
    assert kept == settings(page)["Seed"]
    render(page)
    assert settings(page)["Seed"] == kept
    element(page, "dice").click()
    assert values(page, "seed") == [""]


def test_a_seed_keeps_all_its_digits(page: Any, tmp_path: Path) -> None:
    seed = 2**63 - 1
    render(page, prompt="x", seed=seed)
    assert settings(page)["Seed"] == str(seed)
    name, texts = download(page, tmp_path)
    assert name == f"tiny-{seed}.png"
    assert f"Seed: {seed}," in texts["parameters"]


def test_loras_vae_and_the_rest_are_applied(page: Any) -> None:
    open_more(page)
    element(page, "add-lora").click()
    fill(page, vae="soft", emphasis="a1111", clip_skip=2)
    weight = page.find_element(By.CSS_SELECTOR, "#loras input")
    weight.clear()
    weight.send_keys("0.5:0.25")
    render(page, prompt="x", model="other")
    shown = settings(page)
    wanted = {"VAE": "soft", "LoRAs": "outline 0.5, 0.25", "Emphasis": "a1111", "Clip skip": "2"}
    assert shown.items() >= wanted.items()
    assert shown["Model"].startswith("other [")
    remove = page.find_element(By.CSS_SELECTOR, "#loras button")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", remove)
    remove.click()
    render(page, vae="")
    assert {"VAE", "LoRAs"}.isdisjoint(settings(page))
    page.find_elements(By.CSS_SELECTOR, "#history button")[1].click()
    element(page, "reuse").click()
    assert values(page, "vae", "emphasis", "clip_skip", "seed") == ["soft", "a1111", "2", settings(page)["Seed"]]
    assert page.find_element(By.CSS_SELECTOR, "#loras input").get_property("value") == "0.5:0.25"


def test_a_preset_fills_in_what_it_stands_for(page: Any) -> None:
    fill(page, preset="turbo-2")
    names = ("sampler", "schedule", "steps", "cfg_scale")
    assert values(page, *names) == ["Euler a", "SGM Uniform", "2", "1"]
    fill(page, steps=3)
    assert values(page, "preset") == [""]
    fill(page, sampler="LCM")
    assert values(page, "schedule") == ["Automatic"]
    assert not element(page, "schedule").find_element(By.CSS_SELECTOR, "[value=Karras]").is_enabled()


def test_a_cancelled_picture_frees_the_server(page: Any, address: str) -> None:
    fill(page, prompt="x", width=512, height=512, steps=900)
    element(page, "render").click()
    wait(page, lambda p: text(p, "stage").startswith("step "))
    element(page, "cancel").click()
    wait(page, lambda p: not element(p, "run").is_displayed())
    assert text(page, "said") == "cancelled"

    def is_idle() -> bool | None:
        with urllib.request.urlopen(f"{address}/metrics") as answer:
            return b"darkroom_pictures_under_way 0.0" in answer.read() or None

    assert wait_for(is_idle)
    assert not element(page, "error").is_displayed()
    render(page, width=64, height=64, steps=2)


def test_a_picture_under_way_is_shown_and_the_one_before_comes_back(page: Any) -> None:
    def shown() -> str:
        return str(element(page, "image").get_dom_attribute("alt"))

    render(page, prompt="a cat", width=64, height=64, steps=2)
    fill(page, prompt="a dog", width=64, height=64, steps=900)
    element(page, "render").click()
    wait(page, lambda _: shown() == "Preview of the picture under way")
    assert element(page, "image").get_property("naturalWidth") in (0, 64)
    opacity = "return getComputedStyle(document.getElementById('image')).opacity"
    wait(page, lambda p: p.execute_script(opacity) == "1")  # the picture before fades while it is shown
    element(page, "cancel").click()
    wait(page, lambda _: shown() == "a cat")
    assert element(page, "image").is_displayed()


def test_a_picture_waits_for_those_before_it(page: Any, address: str) -> None:
    long = {"prompt": "x", "width": 512, "height": 512, "steps": 900}
    headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
    request = urllib.request.Request(f"{address}/render", json.dumps({"request": long}).encode(), headers)
    with urllib.request.urlopen(request) as other:
        assert any(b'"denoising"' in line for line in other)
        fill(page, prompt="x")
        element(page, "render").click()
        wait(page, lambda p: text(p, "stage") == "waiting")
        assert element(page, "progress").get_dom_attribute("value") is None
    wait_for_picture(page, 1)


def test_an_error_says_what_to_do_and_marks_its_field(page: Any) -> None:
    fill(page, prompt="x", width=65)
    element(page, "render").click()
    message = "width '65': Input should be a multiple of 8"
    assert wait_for_error(page) == (message, "Hint: give width another value", "E-REQUEST")
    assert element(page, "width").get_attribute("aria-invalid") == "true"
    assert page.switch_to.active_element.get_attribute("id") == "width"
    render(page, width=64)
    assert not element(page, "error").is_displayed()
    assert element(page, "width").get_attribute("aria-invalid") is None


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"prompt": "x <lora:outlime:1>"}, "E-LORA"),
        ({"prompt": "x", "steps": "0"}, "E-REQUEST"),
        ({"prompt": "x", "seed": "seven"}, "E-REQUEST"),
        ({"prompt": "x", "width": "4096", "height": "4096"}, "E-LIMIT"),
    ],
)
def test_errors_are_shown_with_their_hint(page: Any, fields: dict[str, str], code: str) -> None:
    fill(page, **fields)
    element(page, "render").click()
    message, hint, shown = wait_for_error(page)
    assert (shown, hint.startswith("Hint: ")) == (code, True)
    if code == "E-LORA":
        assert (message, hint) == ("LoRA 'outlime': there is none of that name", "Hint: did you mean 'outline'?")


def test_a_hostile_prompt_is_text(page: Any) -> None:
    render(page, prompt=HOSTILE, negative_prompt=HOSTILE)
    assert (text(page, "shown-prompt"), text(page, "shown-negative")) == (HOSTILE, HOSTILE)
    assert page.title == "Darkroom"
    assert not page.find_elements(By.CSS_SELECTOR, "img[src='x']")


def test_parameters_are_copied_as_the_file_has_them(page: Any, tmp_path: Path) -> None:
    page.execute_cdp_cmd("Browser.grantPermissions", {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]})
    render(page, prompt="a red circle", seed=8)
    element(page, "copy").click()
    wait(page, lambda p: text(p, "copy") == "Copied")
    copied = page.execute_async_script("navigator.clipboard.readText().then(arguments[0])")
    assert copied.startswith("a red circle\nNegative prompt: fog\nSteps: 3, Sampler: Euler,")
    assert download(page, tmp_path)[1]["parameters"] == copied


def test_the_sessions_pictures_can_be_shown_again(page: Any) -> None:
    for seed in (1, 2, 3):
        render(page, prompt=f"number {seed}", seed=seed)
    buttons = page.find_elements(By.CSS_SELECTOR, "#history button")
    assert [button.get_attribute("aria-current") for button in buttons] == ["true", "false", "false"]
    buttons[2].click()
    assert (text(page, "shown-prompt"), settings(page)["Seed"]) == ("number 1", "1")
    page.refresh()
    wait(page, lambda p: element(p, "form").is_displayed())
    assert count(page) == 0


def test_all_can_be_done_with_the_keyboard(page: Any) -> None:
    def go_to(name: str) -> None:
        for _ in range(MOST_TABS):
            focused = page.switch_to.active_element
            if focused.get_attribute("id") == name:
                return
            press(page, Keys.TAB)
            focused = page.switch_to.active_element
            assert focused.tag_name == "body" or focused.value_of_css_property("outline-style") != "none"
        raise AssertionError(f"Tab doesn't lead to {name}")

    go_to("prompt")
    press(page, "a red circle")
    page.switch_to.active_element.send_keys(Keys.CONTROL, Keys.ENTER)
    wait_for_picture(page, 1)
    go_to("steps")
    press(page, Keys.ARROW_UP)
    go_to("render")
    press(page, Keys.ENTER)
    wait_for_picture(page, 2)
    assert settings(page)["Steps"] == "4"
    go_to("copy")
    go_to("render")
    page.execute_script("document.getElementById('steps').value = 900; document.getElementById('width').value = 512")
    press(page, Keys.ENTER)
    go_to("cancel")
    press(page, Keys.ENTER)
    wait(page, lambda p: not element(p, "run").is_displayed())
    assert page.switch_to.active_element.get_attribute("id") == "render"


def test_a_phone_shows_all_without_scrolling_sideways(page: Any) -> None:
    size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        render(page, prompt="long " * 100 + "w" * 200)
        assert page.execute_script("return document.documentElement.scrollWidth") == 390
        assert element(page, "picture").rect["width"] > 300
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_nothing_from_elsewhere_is_fetched_or_run(browser: Any, address: str) -> None:
    open_page(browser, address)
    refused = browser.execute_async_script(
        "const done = arguments[0]; fetch('http://127.0.0.1:9/').then(() => done('fetched'), () => done('refused'))"
    )
    assert refused == "refused"
    style = browser.execute_script(
        "const script = document.createElement('script'); script.textContent = 'document.title = \"run\"';"
        "document.body.append(script); document.body.setAttribute('style', 'opacity: 0.5');"
        "return getComputedStyle(document.body).opacity"
    )
    assert (browser.title, style) == ("Darkroom", "1")
    log = [entry["message"] for entry in browser.get_log("browser")]
    assert sum("Content Security Policy" in message for message in log) >= 3


def test_headers_and_what_needs_no_key(model_dir: Path, tmp_path: Path, browser: Any) -> None:
    with serve(make_page_site(tmp_path, model_dir), environment={"DARKROOM_API_KEY": KEY}) as address:
        for path in ("/", "/page/page.js", "/page/page.css", "/page/tokens.css"):
            with urllib.request.urlopen(address + path) as answer:
                headers = answer.headers
            assert "frame-ancestors 'none'" in headers["content-security-policy"]
            assert "unsafe" not in headers["content-security-policy"]
            assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
        for path, status in (("/options.json", 401), ("/page/secret.js", 404), ("/page/..%2FREADME.md", 404)):
            with pytest.raises(urllib.request.HTTPError) as caught:
                urllib.request.urlopen(address + path)
            with caught.value as refusal:
                assert refusal.code == status
        unlock(browser, address)
    element(browser, "render").click()
    assert wait_for_error(browser)[0] == "the server: doesn’t answer"


def unlock(browser: Any, address: str) -> None:
    """Give a wrong key, then the right one, and render; the key is kept for this tab alone."""
    open_page(browser, address)
    assert not element(browser, "form").is_displayed()
    press(browser, "wrong" + Keys.ENTER)
    wait(browser, lambda b: text(b, "key-label") == "That is not this server’s API key.")
    press(browser, KEY + Keys.ENTER)
    wait(browser, lambda b: element(b, "form").is_displayed())
    assert not element(browser, "key-form").is_displayed()
    render(browser, prompt="x")
    kept = browser.execute_script("return JSON.stringify([localStorage, document.cookie, location.href])")
    used = browser.execute_script("return performance.getEntries().map(entry => entry.name)")
    assert KEY not in kept + json.dumps(used)
    browser.refresh()
    wait(browser, lambda b: element(b, "form").is_displayed())
    first = browser.current_window_handle
    browser.switch_to.new_window("tab")
    open_page(browser, address)
    assert element(browser, "key-form").is_displayed()
    browser.close()
    browser.switch_to.window(first)


@needs_axe
@pytest.mark.parametrize(("scheme", "width"), LOOKS)
def test_the_page_is_accessible(page: Any, scheme: str, width: int) -> None:
    set_look(page, scheme, width)
    try:
        assert find_violations(page) == []
        open_more(page)
        fill(page, prompt="a red circle")
        assert find_violations(page) == []
        render(page)
        assert find_violations(page) == []
    finally:
        reset_look(page)
