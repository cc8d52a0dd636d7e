"""The page with a picture to start from: chosen, dropped, painted on, taken from the session; and the stages that follow."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.browser.pages import element, needs_chromium, text, wait
from tests.browser.test_page import (
    download,
    fill,
    render,
    settings,
    values,
    wait_for_error,
)

WIDE = (96, 64)
DROP = """
const bytes = Uint8Array.from(atob(arguments[0]), (sign) => sign.charCodeAt(0));
const data = new DataTransfer();
data.items.add(new File([bytes], "../a.png", { type: arguments[1] }));
document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
"""

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "gradient.png"
    gradient().save(path)
    return path


def gradient() -> Image.Image:
    across, down = np.meshgrid(np.linspace(0, 255, WIDE[0]), np.linspace(0, 255, WIDE[1]))
    return Image.fromarray(np.stack([across, down, 255 - across], -1).astype(np.uint8))


def choose(page: Any, path: Path) -> None:
    open_part(page, "start-part")
    element(page, "file").send_keys(str(path))
    wait(page, lambda p: element(p, "start").is_displayed())


def open_part(page: Any, name: str) -> None:
    summary = page.find_element(By.CSS_SELECTOR, f"#{name} summary")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", summary)
    if not element(page, name).get_property("open"):
        summary.click()


def check(page: Any, name: str) -> None:
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", element(page, name))
    element(page, name).click()


def paint_left(page: Any) -> None:
    """Paint over the left edge with the mouse, from top to bottom."""
    canvas = element(page, "mask")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    size = canvas.size
    left, top = -size["width"] // 2 + 8, -size["height"] // 2 + 2
    steps = ActionChains(page, duration=20).move_to_element_with_offset(canvas, left, top).click_and_hold()
    steps.move_by_offset(0, size["height"] - 8).release().perform()


def made(page: Any, folder: Path) -> np.ndarray[Any, Any]:
    """The pixels of the picture shown."""
    download(page, folder)
    (path,) = folder.glob("*.png")
    return np.asarray(Image.open(io.BytesIO(path.read_bytes())).convert("RGB"))


def test_a_chosen_picture_is_redrawn(page: Any, file: Path) -> None:
    choose(page, file)
    assert values(page, "width", "height") == ["96", "64"]
    assert not element(page, "mask_blur").is_displayed()
    render(page, prompt="a red circle", seed=5, strength=0.5)
    assert settings(page).items() >= {"Size": "96x64", "Stages": "img2img strength 0.5", "Seed": "5"}.items()


def test_only_what_is_painted_over_changes(page: Any, file: Path, tmp_path: Path) -> None:
    choose(page, file)
    paint_left(page)
    assert element(page, "mask_blur").is_displayed()
    render(page, prompt="a red circle", seed=5, mask_blur=0)
    assert settings(page)["Stages"] == "inpaint strength 0.75"
    different = (made(page, tmp_path) != np.asarray(gradient())).any(-1)
    assert different[:, :8].any()
    assert not different[:, 48:].any()


def test_strokes_are_undone_and_the_mask_is_cleared(page: Any, file: Path) -> None:
    choose(page, file)
    paint_left(page)
    canvas = element(page, "mask")
    canvas.send_keys(" ")
    canvas.send_keys(Keys.CONTROL, "z")
    assert element(page, "undo").is_enabled()
    check(page, "undo")
    assert not element(page, "undo").is_enabled()
    assert not element(page, "mask_blur").is_displayed()
    paint_left(page)
    check(page, "clear")
    assert not element(page, "clear").is_enabled()
    check(page, "remove-start")
    assert not element(page, "start").is_displayed()


def test_a_mask_can_be_painted_with_the_keyboard_alone(page: Any, file: Path, tmp_path: Path) -> None:
    choose(page, file)
    canvas = element(page, "mask")
    canvas.send_keys(*[Keys.ARROW_LEFT] * 20, *"]]]]", " ", Keys.ARROW_DOWN, " ")
    render(page, prompt="a red circle", seed=5, mask_blur=0)
    different = (made(page, tmp_path) != np.asarray(gradient())).any(-1)
    assert different[:, :16].any()
    assert not different[:, 64:].any()


def test_a_picture_is_dropped_anywhere_and_another_kind_is_refused(page: Any, file: Path) -> None:
    data = base64.b64encode(file.read_bytes()).decode()
    page.execute_script(DROP, data, "image/png")
    wait(page, lambda p: element(p, "start").is_displayed())
    page.execute_script(DROP, base64.b64encode(b"GIF89a").decode(), "image/gif")
    wait(page, lambda p: "no PNG, JPEG or WebP" in text(p, "start-note"))
    assert element(page, "start").is_displayed()


def test_a_picture_is_made_larger_twice_over(page: Any) -> None:
    open_part(page, "then-part")
    check(page, "hires")
    fill(page, **{"hires-upscaler": "Lanczos", "hires-scale": "1.5", "hires-strength": "0.4"})
    check(page, "upscale")
    fill(page, **{"upscale-upscaler": "Nearest", "upscale-scale": "2"})
    page.execute_script(
        "window.stages = []; const stage = document.getElementById('stage');"
        "new MutationObserver(() => stages.push(stage.textContent)).observe(stage, {childList: true})"
    )
    render(page, prompt="a red circle", seed=5)
    shown = settings(page)
    assert shown["Size"] == "192x192"
    assert shown["Stages"] == "hires ×1.5 Lanczos strength 0.4, then upscale ×2 Nearest"
    steps = [told for told in page.execute_script("return stages") if told.startswith("step ")]
    assert steps[-1] == "step 7 of 7"  # three of each pass, and one for enlarging


def test_a_picture_of_the_session_is_the_next_start_and_its_settings_come_back(page: Any) -> None:
    render(page, prompt="a red circle", seed=5)
    check(page, "continue")
    wait(page, lambda p: element(p, "start").is_displayed())
    assert page.switch_to.active_element.get_attribute("id") == "mask"
    fill(page, **{"start-mode": "keep"})
    open_part(page, "then-part")
    check(page, "upscale")
    render(page)
    assert settings(page)["Stages"] == "upscale ×2 Lanczos"
    page.find_elements(By.CSS_SELECTOR, "#history button")[1].click()
    check(page, "reuse")
    assert not element(page, "start").is_displayed()
    assert not element(page, "upscale").is_selected()
    page.find_elements(By.CSS_SELECTOR, "#history button")[0].click()
    check(page, "reuse")
    assert element(page, "start").is_displayed()
    assert element(page, "upscale").is_selected()


def test_a_picture_to_keep_without_anything_to_follow_is_an_error(page: Any, file: Path) -> None:
    choose(page, file)
    fill(page, **{"start-mode": "keep"})
    element(page, "render").click()
    message, _, code = wait_for_error(page)
    assert "needs stages" in message
    assert code == "E-REQUEST"


@pytest.mark.parametrize("width", [375, 1280])
def test_the_page_is_never_wider_than_its_window(page: Any, file: Path, width: int) -> None:
    page.set_window_size(width, 800)
    try:
        choose(page, file)
        paint_left(page)
        open_part(page, "then-part")
        check(page, "hires")
        assert page.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    finally:
        page.set_window_size(1280, 900)
