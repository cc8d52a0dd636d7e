"""The real warm server around a stand-in engine, told by its model folder's behaviour.txt and by the prompts how to act."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from darkroom.engine import Cancelled, RenderedImage, RenderFacts
from darkroom.errors import ModelError, OutOfMemoryError
from darkroom.request import RenderRequest
from darkroom.warm import server

POLL_S = 0.01
LIMIT_S = 120


class FakeEngine:
    name = "fake"
    model_hash = "0123456789"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def render(self, request: RenderRequest, *, cancelled: Callable[[], bool]) -> RenderedImage:
        """A grey picture; `slow` waits for a file, `stuck` also ignores cancellation, `oom` fails."""
        self._note("renders", request.prompt)
        if request.prompt == "oom":
            raise OutOfMemoryError("picture", "128x128", "does not fit", "make a smaller one")
        if request.prompt == "bug":
            raise ZeroDivisionError("a mistake")
        if request.prompt in ("slow", "stuck"):
            wait_for(self.folder / "go", cancelled if request.prompt == "slow" else lambda: False)
        image = Image.new("RGB", (request.width, request.height), (request.seed % 256,) * 3)
        times = (0.0, 0.01, 1.2, 0.05, 1.26)
        facts = RenderFacts(212, 8, 3, *times, "cpu", "fp32", "cpu, fp32", self.name, self.model_hash, (), ())
        self._note("finished", request.prompt)
        return RenderedImage(image, request, facts)

    def _note(self, name: str, text: str) -> None:
        with (self.folder / name).open("a") as file:
            file.write(text + "\n")


def wait_for(path: Path, cancelled: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not path.exists() and time.monotonic() < deadline:
        if cancelled():
            raise Cancelled
        time.sleep(POLL_S)


def load(options: argparse.Namespace) -> FakeEngine:
    folder: Path = options.model_dir
    with (folder / "loads").open("a") as file:
        file.write(f"{os.getpid()}\n")
    behaviour = (folder / "behaviour.txt").read_text()
    if behaviour == "fail":
        raise ModelError("model folder", folder, "Diffusers format missing: no model_index.json", "run it again")
    if behaviour == "crash":
        os._exit(7)
    if behaviour == "hang":
        wait_for(folder / "go", lambda: False)
    return FakeEngine(folder)


if __name__ == "__main__":
    server.main(load=load)
