"""Debian's Chromium for tests of pages, and what one does in it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="the Python package selenium is not installed")
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

from tests.fixtures.serving import make_site  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,900",
)
CONFIG = """
render: {width: 64, height: 64, steps: 3, cfg_scale: 4, negative_prompt: fog}
serve: {max_steps: 1000}
"""
WAIT_S = 240  # only keeps a broken test from hanging

needs_chromium = pytest.mark.skipif(not (CHROMIUM and CHROMEDRIVER), reason="Chromium or chromedriver is not installed")


def wait(page: Any, condition: Callable[[Any], Any]) -> Any:
    return WebDriverWait(page, WAIT_S).until(condition)


def element(page: Any, name: str) -> Any:
    return page.find_element(By.ID, name)


def text(page: Any, name: str) -> str:
    return str(element(page, name).text)


def make_page_site(folder: Path, model_dir: Path) -> Path:
    """A folder to serve from, whose page begins with small pictures."""
    with (make_site(folder, model_dir) / "config.yaml").open("a") as file:
        file.write(CONFIG)
    return folder


def open_page(browser: Any, address: str) -> None:
    """Open a server's page, and wait for its form, or for that of the key."""
    browser.get(address)
    browser.get_log("browser")
    wait(browser, lambda b: element(b, "form").is_displayed() or element(b, "key-form").is_displayed())


def press(page: Any, key: str) -> None:
    page.switch_to.active_element.send_keys(key)


def send_keys(page: Any, *keys: str) -> None:
    """As a keyboard does: to whatever is in focus, one after another."""
    for key in keys:
        ActionChains(page).send_keys(key).perform()


def is_open(page: Any, name: str) -> bool:
    """Whether the dialog with this id is open."""
    return bool(page.execute_script("return document.getElementById(arguments[0])?.open", name))


def ready(page: Any) -> None:
    """Wait until a gallery or a study's page has drawn what is in sight."""
    wait(page, lambda p: p.execute_script("return document.documentElement.dataset.ready"))
