"""What `darkroom replay` costs beside loading the model and rendering: reading the picture, finding its models, and the check.

    python -m benchmarks.bench_replay [--rounds N]

A demo picture of 256 × 256 with the demo's LoRA and a stage is replayed with `--check` and `-o` in a process that has imported
everything, as `darkroom` itself would have by then; the time that `Engine.load` and `Engine.render` take is not counted. Hashing the
LoRA, comparing the pixels and encoding and writing the PNG are. The note has the processor time of the same.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measure import CHECKPOINT, Median, Row

CASES = ("replay",)
BAR_S = 0.2
_SETTINGS = ("--width", "128", "--height", "128", "--steps", "4", "--seed", "3", "--lora", "lora:0.8")
_STAGE = "hires: {scale: 2, upscaler: Lanczos, denoising_strength: 0.5}"


class _Clock:
    """Wall and processor seconds inside of the calls that aren't counted."""

    def __init__(self) -> None:
        self.wall_s = self.processor_s = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            begun = time.perf_counter(), time.process_time()
            try:
                return function(*arguments, **options)
            finally:
                self.wall_s += time.perf_counter() - begun[0]
                self.processor_s += time.process_time() - begun[1]

        return timed


def _call(*arguments: object) -> None:
    from darkroom.cli.command import main

    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main([str(each) for each in arguments])
    if code:
        raise SystemExit(said.getvalue())


def run(rounds: int, cases: tuple[str, ...] = CASES) -> list[Row]:
    """The row: the median of the rounds."""
    if not cases:
        return []
    from darkroom.engine import Engine

    found: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        models, picture, again = folder / "models", folder / "picture.png", folder / "again.png"
        (models / "loras").mkdir(parents=True)
        (models / "diffusers").mkdir()
        shutil.copyfile(CHECKPOINT.with_name("darkroom-demo-outline.safetensors"), models / "loras/lora.safetensors")
        _call("convert", CHECKPOINT, models / "diffusers/demo", "--name", "demo")
        _call("render", models / "diffusers/demo", "--prompt", "a star", *_SETTINGS, "--then", _STAGE, "-o", picture)
        load, render = Engine.load, Engine.render
        try:
            for _ in range(rounds + 1):
                clock = _Clock()
                Engine.load, Engine.render = clock.around(load), clock.around(render)  # type: ignore[method-assign]
                begun = time.perf_counter(), time.process_time()
                _call("replay", picture, "--check", "-o", again, "--models-dir", models, "--config", "none.yaml")
                wall_s = time.perf_counter() - begun[0] - clock.wall_s
                found.append((wall_s, time.process_time() - begun[1] - clock.processor_s))
        finally:
            Engine.load, Engine.render = load, render  # type: ignore[method-assign]
    walls, processors = zip(*found[1:], strict=True)  # the first one imports what compares pictures
    note = f"{statistics.median(processors):.3f} s of processor time; the first one {found[0][0]:.2f} s, with imports"
    return [Row("a replay beside rendering", Median(walls), "the bar's 0.2 s", BAR_S, 1.0, note)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    for row in run(parser.parse_args().rounds):
        print(f"{row.what}: {row.ours_s:.3f} s, {row.reference}; {row.note}")
