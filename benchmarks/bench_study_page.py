"""A study's page of 10,000 cells in Chromium, beside the same page of 100 cells.

Both are opened from disk in turn, with real thumbnails. The row is the first paint; its note has the time until the table
stands, bytes a cell, the JavaScript heap after a collection of garbage, and a scroll through the whole table.

    python -m benchmarks.bench_study_page [--rounds N]
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import random
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import ROOT, Median, Row
from darkroom.pictures.infotext import write_infotext
from darkroom.pictures.measures import Measures
from darkroom.pictures.picture import GalleryPicture
from darkroom.pictures.records import PictureRecord, thumbnail_path
from darkroom.pictures.study_page import render_page
from darkroom.pictures.study_table import make_table
from darkroom.pictures.thumbnails import make_thumbnail
from darkroom.request.render_request import RenderRequest

sys.path.insert(0, str(ROOT))  # demo/ and tests/ are not installed
from demo.pictures import draw, make_scene

NAME = "study-page"
BAR = 3.0
FIRST_PAINT_S = 2.0
THUMBNAIL_PX = 128
SIZES = {"large": (50, 20, 10), "small": (5, 5, 4)}
_PROMPT = "portrait of a {look} sailor, harsh midday sun, a harbour with fishing boats, 85 mm, film grain, muted colours, {look}"
_SCROLL = """
const done = arguments[0], table = document.getElementById("table"), begun = performance.now();
let last = begun, longest = 0;
const step = (now) => {
  longest = Math.max(longest, now - last);
  last = now;
  const before = table.scrollTop;
  table.scrollTop += table.clientHeight / 4;
  if (table.scrollTop > before) requestAnimationFrame(step);
  else done([performance.now() - begun, longest]);
};
requestAnimationFrame(step);
"""


@dataclass(frozen=True)
class Opened:
    """What one opening of a page took; seconds and bytes."""

    paint_s: float
    table_s: float
    heap: int
    cells: int
    scroll_s: float
    frame_s: float


def write_study(results: Path, looks: int, scales: int, seeds: int) -> Path:
    """A study's page and thumbnails, with made-up measures; returns the page."""
    rng = random.Random(0)
    thumbnails = [make_thumbnail(draw(make_scene(rng), 256), THUMBNAIL_PX) for _ in range(64)]
    pictures, records, measures = [], {}, {}
    for look, scale, seed in itertools.product(range(looks), range(scales), range(seeds)):
        settings = {"prompt": _PROMPT.format(look=f"look {look}"), "cfg_scale": 1 + scale / 2, "seed": seed}
        request = RenderRequest.from_settings({"width": 1024, "height": 1024, "steps": 28, **settings})
        axes = {"look": f"look {look}", "cfg_scale": str(1 + scale / 2)}
        name = f"sailor.cfg_scale-{axes['cfg_scale']}.look-look-{look}"
        path, study = f"study/base/{name}-{seed}.png", {"prompt": "sailor", "axes": axes, "draw": 1}
        picture = GalleryPicture("study", "base", name, seed, path, request.model_dump(mode="json"), study)
        small, encoded = rng.choice(thumbnails)
        file = results / thumbnail_path(picture.name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded)
        infotext = write_infotext(request, model="base", model_hash="0123456789", version="0.1.0")
        digest = hashlib.sha256(path.encode()).hexdigest()
        sizes = (1024, 1024, *small.size)
        records[picture.name] = PictureRecord(1, 1, THUMBNAIL_PX, 90, len(encoded), digest, infotext, *sizes, [])
        number = rng.random()
        measures[picture.name] = Measures(60 * number, number, "0" * 16, int(64 * number), number / 9, 70 * number, ())
        pictures.append(picture)
    labels = {
        name: list(dict.fromkeys((p.study or {})["axes"][name] for p in pictures)) for name in ("look", "cfg_scale")
    }
    layout = {
        "axes": [{"name": name, "labels": each, "plain": None} for name, each in labels.items()],
        "grid": {"rows": "look", "columns": "cfg_scale"},
    }
    page = results / "study/study.html"
    page.parent.mkdir()
    table = make_table("study", pictures, layout)
    page.write_text(render_page(table, records, measures, {}, thumbnail_px=THUMBNAIL_PX), encoding="utf-8")
    return page


def open_page(driver: Any, page: Path) -> Opened:
    """Open a page in a new tab's stead, scroll through it, and look at the heap."""
    from selenium.webdriver.support.ui import WebDriverWait

    driver.get("about:blank")
    driver.get(page.as_uri())
    wait = WebDriverWait(driver, 120)
    ready = wait.until(lambda d: d.execute_script("return document.documentElement.dataset.ready"))
    paint = wait.until(lambda d: d.execute_script("return performance.getEntriesByName('first-contentful-paint')[0]"))
    scroll_ms, frame_ms = driver.execute_async_script(_SCROLL)
    driver.execute_cdp_cmd("HeapProfiler.collectGarbage", {})
    metrics = {each["name"]: each["value"] for each in driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]}
    cells = driver.execute_script("return document.querySelectorAll('[role=gridcell]').length")
    times = (paint["startTime"] / 1000, float(ready) / 1000, metrics["JSHeapUsedSize"], cells)
    return Opened(*times, scroll_ms / 1000, frame_ms / 1000)


def start_browser(profile: str) -> Any:
    """A headless Chromium; its driver is Debian's."""
    from selenium import webdriver

    from tests.browser.pages import CHROMEDRIVER, CHROMIUM, FLAGS

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))
    driver.set_script_timeout(120)
    driver.execute_cdp_cmd("Performance.enable", {})
    return driver


def run(rounds: int) -> list[Row]:
    opened: dict[str, list[Opened]] = {name: [] for name in SIZES}
    with tempfile.TemporaryDirectory() as temporary:
        pages = {name: write_study(Path(temporary, name), *size) for name, size in SIZES.items()}
        for number, (name, page) in itertools.product(range(rounds), pages.items()):
            driver = start_browser(f"{temporary}/profile-{name}-{number}")
            try:
                opened[name].append(open_page(driver, page))
            finally:
                driver.quit()
            print(f"  {name}: {opened[name][-1]}", flush=True)
        size = pages["large"].stat().st_size
    paint = {name: Median(each.paint_s for each in found) for name, found in opened.items()}
    if paint["large"] > FIRST_PAINT_S:
        print(f"  the first paint is later than {FIRST_PAINT_S:g} s", flush=True)
    return [
        Row(
            "study page, 10,000 cells",
            paint["large"],
            "of 100 cells",
            paint["small"],
            BAR,
            _note(opened["large"], size),
        )
    ]


def _note(found: list[Opened], size: int) -> str:
    def middle(name: str) -> float:
        return statistics.median(getattr(each, name) for each in found)

    cells = SIZES["large"][0] * SIZES["large"][1] * SIZES["large"][2]
    return (
        f"first paint (bar {FIRST_PAINT_S:g} s); table after {middle('table_s'):.2f} s; {size / cells:.0f} bytes a cell; "
        f"heap {middle('heap') / 1e6:.1f} MB; at most {max(each.cells for each in found)} cells in the document; "
        f"scrolled through in {middle('scroll_s'):.1f} s, longest frame {1000 * middle('frame_s'):.0f} ms"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    for row in run(parser.parse_args().rounds):
        print(
            f"{row.what}: {row.ours_s:.2f} s, {row.reference} {row.reference_s:.2f} s, ratio {row.ratio:.2f}; {row.note}"
        )
