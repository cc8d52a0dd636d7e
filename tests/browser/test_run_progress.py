"""The gallery of a run under way in a real browser, opened from disk."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from darkroom.pictures.gallery import build_gallery
from darkroom.pictures.run_progress import Progress
from tests.browser.pages import needs_chromium, text
from tests.fixtures.pictures import make_pictures

pytestmark = needs_chromium


@pytest.mark.parametrize(
    ("progress", "shown"),
    [
        (Progress(2, 5, 0, is_running=True, next_by=round(time.time()) + 3600), "Reload for more."),
        (
            Progress(2, 5, 0, is_running=True, next_by=60),
            "If that shows nothing newer, the run has ended or was killed.",
        ),
        (Progress(2, 5, 0, is_running=False, failed=1), "the run ended before all were made; 1 failed"),
    ],
)
def test_a_page_says_how_far_its_run_is_and_when_it_should_have_been_replaced(
    browser: Any, tmp_path: Path, progress: Progress, shown: str
) -> None:
    build_gallery(tmp_path, make_pictures(tmp_path, 2), {}, title="Night shift", thumbnail_px=128, progress=progress)
    browser.get((tmp_path / "index.html").as_uri())
    line = text(browser, "progress")
    assert line.startswith("2 of 5 pictures") and shown in line
    assert ("killed" in line) == (progress.next_by == 60)
    assert text(browser, "count") == "2 pictures" and browser.get_log("browser") == []
