"""The gallery of 20,000 pictures: how long it takes to build, and how its page does in Chromium.

- `gallery-build`: thumbnails are there, as after the contact sheets of a run, and nothing of the gallery is; beside it, reading
  and hashing all pictures. The note has the time with thumbnails to make too, beside decoding, scaling and encoding alone.
- `gallery-edit`: one picture of all was rendered anew, against the bar's two seconds.
- `gallery-page`: first paint, against the bar's two seconds; the note has the time until the cards stand, the JavaScript heap
  after a collection of garbage, and a scroll.

Pictures are copies of a few drawn scenes with grain, each with metadata of its own: some 1.4 bytes a pixel, as a photograph's PNG
has, but with 256 pixels an edge smaller than any picture of SDXL, which makes reading them cheaper than it is. All but the page
are in processor time.

    python -m benchmarks.bench_gallery [--rounds N] [--only CASE ...] [--pictures N]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.bench_study_page import start_browser
from benchmarks.measure import ROOT, Median, Row
from darkroom.pictures.formats import PNG
from darkroom.pictures.gallery import build_gallery
from darkroom.pictures.infotext import write_infotext
from darkroom.pictures.picture import GalleryPicture
from darkroom.pictures.png import IEND, SIGNATURE
from darkroom.pictures.records import CHUNKS, FOLDER, INDEX
from darkroom.pictures.thumbnails import make_thumbnail
from darkroom.request.render_request import RenderRequest
from tests.fixtures.pngs import encode_png

sys.path.insert(0, str(ROOT))  # demo/ is not installed
from demo.pictures import draw, make_scene

CASES = ("gallery-build", "gallery-edit", "gallery-page")
PICTURES, EDGE, THUMBNAIL_PX = 20_000, 256, 128
BUILD_BAR, EDIT_BAR_S, FIRST_PAINT_S = 1.2, 2.0, 2.0
SAMPLED = 200
_WORDS = [
    "portrait of a sailor",
    "midday sun",
    "fishing boats",
    "85 mm",
    "film grain",
    "muted colours",
    "lighthouse",
    "fog",
    "dawn",
]
_SCROLL = """
const done = arguments[0], begun = performance.now(), frames = [];
let last = begun;
const step = (now) => {
  frames.push(now - last);
  last = now;
  scrollBy(0, innerHeight / 4);
  if (frames.length < 400) requestAnimationFrame(step);
  else done([Math.max(...frames), frames.sort((a, b) => a - b)[frames.length >> 1]]);
};
requestAnimationFrame(step);
"""


def write_pictures(results: Path, count: int) -> list[GalleryPicture]:
    """Pictures in ten sheets on two checkpoints, eight seeds a prompt."""
    rng = random.Random(0)
    grains = np.random.default_rng(0)
    scenes = [encode_png(_add_grain(draw(make_scene(rng), EDGE), grains), "", "{}") for _ in range(16)]
    pictures = []
    for number in range(count):
        prompt = f"{', '.join(rng.sample(_WORDS, 6))}, look {number // 8}"
        settings = {"steps": (20, 28, 36)[number % 3], "cfg_scale": (4, 5.5, 7, 9)[number % 4]}
        loras = ["ink:0.8"] if number % 5 == 0 else []
        request = RenderRequest.from_settings({"prompt": prompt, "seed": 7919 * number, "loras": loras, **settings})
        sheet, checkpoint, name = (
            f"sheet-{10 * number // count}",
            ("alpha", "beta")[number % 2],
            f"sailor-{number // 8:05}",
        )
        path = f"{sheet}/{checkpoint}/{name}-{request.seed}.png"
        (results / path).parent.mkdir(parents=True, exist_ok=True)
        (results / path).write_bytes(with_metadata(scenes[number % len(scenes)], request, checkpoint))
        data = request.model_dump(mode="json")
        pictures.append(GalleryPicture(sheet, checkpoint, name, request.seed, path, data))
    return pictures


def _add_grain(scene: Image.Image, grains: np.random.Generator) -> Image.Image:
    pixels = np.asarray(scene, dtype=np.float64)
    return Image.fromarray(np.clip(pixels + grains.normal(0, 1.2, pixels.shape), 0, 255).round().astype(np.uint8))


def with_metadata(png: bytes, request: RenderRequest, model: str) -> bytes:
    """A PNG's pixels with the texts of another picture."""
    infotext = write_infotext(request, model=model, model_hash="0123456789", version="0.1.0")
    chunk = json.dumps({"request": json.loads(request.to_json()), "warnings": []})
    texts = b"".join(_text(*each) for each in ((b"parameters", infotext), (b"darkroom", chunk)))
    start = len(SIGNATURE) + 25  # IHDR is the first chunk
    pixels = png[png.index(b"IDAT") - 4 : -len(IEND)]
    return png[:start] + texts + pixels + IEND


def _text(keyword: bytes, text: str) -> bytes:
    body = b"tEXt" + keyword + b"\0" + text.encode("latin-1")
    return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))


def build(results: Path, pictures: list[GalleryPicture]) -> None:
    build_gallery(results, pictures, {}, title="Benchmark", thumbnail_px=THUMBNAIL_PX)


def read_all(results: Path, pictures: Sequence[GalleryPicture]) -> None:
    for picture in pictures:
        hashlib.sha256((results / picture.path).read_bytes()).hexdigest()


def processor_s(work: Callable[[], None]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def run(rounds: int, cases: Sequence[str] = CASES, count: int = PICTURES) -> list[Row]:
    if not cases:
        return []
    with tempfile.TemporaryDirectory() as temporary:
        results = Path(temporary, "results")
        pictures = write_pictures(results, count)
        first_s = processor_s(lambda: build(results, pictures))
        rows = []
        if "gallery-build" in cases:
            rows.append(_measure_build(results, pictures, rounds, first_s))
        if "gallery-edit" in cases:
            rows.append(_measure_edit(results, pictures, rounds))
        if "gallery-page" in cases:
            rows.append(_measure_page(results, count, rounds))
        return rows


def _measure_build(results: Path, pictures: list[GalleryPicture], rounds: int, first_s: float) -> Row:
    ours, reading = [], []
    for _ in range(rounds):
        shutil.rmtree(results / CHUNKS)
        (results / INDEX).unlink()
        ours.append(processor_s(lambda: build(results, pictures)))
        reading.append(processor_s(lambda: read_all(results, pictures)))
    sample = [(results / picture.path).read_bytes() for picture in pictures[:SAMPLED]]
    each_s = processor_s(lambda: [make_thumbnail(PNG.decode(data, ""), THUMBNAIL_PX) for data in sample]) / len(sample)
    kept = sum(path.stat().st_size for path in (results / FOLDER).rglob("*") if path.parent.name == "_gallery")
    note = (
        f"processor time; {len(sample[0]) / 1000:.0f} KB a picture; with thumbnails to make {first_s:.0f} s, of which decoding, "
        f"scaling and encoding are {each_s * len(pictures):.0f} s; {kept / len(pictures):.0f} bytes of data a picture"
    )
    times = Median(ours), Median(reading)
    return Row(
        f"gallery of {len(pictures):,} pictures", times[0], "reading and hashing them", times[1], BUILD_BAR, note
    )


def _measure_edit(results: Path, pictures: list[GalleryPicture], rounds: int) -> Row:
    seconds = []
    for number in range(rounds):
        path = results / pictures[len(pictures) // 2].path
        data = path.read_bytes()
        path.write_bytes(data[: -len(IEND)] + _text(b"round", str(number)) + IEND)
        seconds.append(processor_s(lambda: build(results, pictures)))
    what = f"gallery, one of {len(pictures):,} edited"
    return Row(what, Median(seconds), "the bar's two seconds", EDIT_BAR_S, 1, "processor time")


def _measure_page(results: Path, count: int, rounds: int) -> Row:
    opened = []
    for number in range(rounds):
        driver = start_browser(f"{results.parent}/profile-{number}")
        try:
            opened.append(open_page(driver, results / INDEX))
        finally:
            driver.quit()
        print(f"  gallery page: {opened[-1]}", flush=True)
    paint, ready, heap, cards, longest, middle = (Median(values) for values in zip(*opened, strict=True))
    note = (
        f"first paint; cards after {ready:.2f} s; heap {heap / 1e6:.1f} MB; {cards:.0f} cards in the document; "
        f"scrolling a quarter of the window a frame, longest frame {longest:.0f} ms, median {middle:.0f} ms"
    )
    return Row(f"gallery page, {count:,} pictures", paint, "the bar's two seconds", FIRST_PAINT_S, 1, note)


def open_page(driver: Any, page: Path) -> tuple[float, ...]:
    """First paint and ready in s, heap in bytes, cards in the document, longest and median frame of a scroll in ms."""
    from selenium.webdriver.support.ui import WebDriverWait

    driver.get(page.as_uri())
    wait = WebDriverWait(driver, 120)
    ready = float(wait.until(lambda d: d.execute_script("return document.documentElement.dataset.ready")))
    paint = wait.until(lambda d: d.execute_script("return performance.getEntriesByName('first-contentful-paint')[0]"))
    frames = driver.execute_async_script(_SCROLL)
    driver.execute_cdp_cmd("HeapProfiler.collectGarbage", {})
    metrics = {each["name"]: each["value"] for each in driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]}
    cards = driver.execute_script("return document.querySelectorAll('.card').length")
    return (paint["startTime"] / 1000, ready / 1000, metrics["JSHeapUsedSize"], cards, *frames)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--pictures", type=int, default=PICTURES)
    arguments = parser.parse_args()
    for row in run(arguments.rounds, arguments.only, arguments.pictures):
        print(
            f"{row.what}: {row.ours_s:.2f} s, {row.reference} {row.reference_s:.2f} s, ratio {row.ratio:.2f}; {row.note}"
        )
