"""Conversion of full-size checkpoints to fp16, against `cp` and fsync of the same file and against diffusers.

    python -m benchmarks.bench_convert [--folder FOLDER] [--only F16|F32|BF16] [--rounds 3] [--keep]

One row for each number format. A checkpoint that isn't in the folder is written first and deleted after its row.
In every round all three run in turn, each after the source was read once, so that it stands in the cache as far as
it fits; ours and diffusers' in processes of their own, start included. Ours ends with fsync of all it wrote,
diffusers' (`from_single_file` and `save_pretrained`) without. After the last round the two folders are compared,
tensor by tensor, bit by bit.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from benchmarks.full_size_checkpoint import write_checkpoint
from benchmarks.measure import ROOT, Median, Row, run_python
from darkroom.checkpoint.header import Header, read_header
from darkroom.checkpoint.keymap import COMPONENTS

OURS = "import sys; from darkroom.checkpoint import convert; convert(sys.argv[1], sys.argv[2])"
THEIRS = """
import os, sys
os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from diffusers import StableDiffusionXLPipeline
source, config, target = sys.argv[1:]
pipeline = StableDiffusionXLPipeline.from_single_file(
    source, config=config, torch_dtype=torch.float16, local_files_only=True
)
pipeline.save_pretrained(target, variant="fp16", safe_serialization=True)
"""
PIECE = 16 * 2**20


@dataclass(frozen=True)
class Case:
    """A conversion to fp16: the source's number format, the largest ratio to `cp`, and the largest memory in MB."""

    dtype: str
    label: str
    bar: float
    memory_mb: float


CASES = (
    Case("F16", "fp16 to fp16", 1.5, 256),
    Case("F32", "fp32 to fp16", 2.5, 512),
    Case("BF16", "bf16 to fp16", 2.5, 512),
)


@dataclass
class Figures:
    """Seconds and peak memory (MB), one a round; `failure` says why diffusers gave none."""

    copies: list[float] = field(default_factory=list)
    ours: list[tuple[float, float]] = field(default_factory=list)
    theirs: list[tuple[float, float]] = field(default_factory=list)
    failure: str = ""
    equal: int = 0


def run(
    folder: Path, rounds: int, *, keep: bool = False, architecture: str = "sdxl-base", cases: tuple[Case, ...] = CASES
) -> list[Row]:
    """One row a case; checkpoints that were not in the folder are deleted afterwards unless they are to be kept."""
    rows = []
    for case in cases:
        infix = "" if case.dtype == "F16" else f"-{case.dtype.lower()}"
        source = folder / f"{architecture.removesuffix('-base')}-random{infix}.safetensors"
        made = not source.exists()
        if made:
            print(f"{case.label}: writing {source.name}", flush=True)
            write_checkpoint(source, architecture, case.dtype)
        try:
            rows.append(describe(case, source.stat().st_size, measure(source, folder / "bench-convert", rounds)))
        finally:
            if made and not keep:
                source.unlink()
    return rows


def measure(source: Path, scratch: Path, rounds: int) -> Figures:
    """Copy and convert in turn; the scratch folder is made, needs room for two copies of the source, and is removed."""
    figures = Figures()
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        for number in range(rounds):
            _round(source, scratch, figures)
            if number == rounds - 1 and figures.theirs:
                figures.equal = compare_folders(scratch / "ours", scratch / "theirs")
            shutil.rmtree(scratch / "ours")
            shutil.rmtree(scratch / "theirs", ignore_errors=True)
    finally:
        shutil.rmtree(scratch)
    return figures


def _round(source: Path, scratch: Path, figures: Figures) -> None:
    _warm(source)
    figures.copies.append(time_copy(source, scratch / "copy.safetensors"))
    (scratch / "copy.safetensors").unlink()
    _warm(source)
    try:
        figures.ours.append(run_python(OURS, source, scratch / "ours"))
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"the conversion failed:\n{error.stderr}") from None
    line = f"  cp and fsync {figures.copies[-1]:.2f} s, ours {figures.ours[-1][0]:.2f} s {figures.ours[-1][1]:.0f} MB"
    if not figures.failure:
        config = scratch / "config"  # without weights, so that it can only take them from the checkpoint
        shutil.copytree(scratch / "ours", config, ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True)
        _warm(source)
        try:
            figures.theirs.append(run_python(THEIRS, source, config, scratch / "theirs"))
            line += f", diffusers {figures.theirs[-1][0]:.2f} s {figures.theirs[-1][1]:.0f} MB"
        except subprocess.CalledProcessError as error:
            figures.failure = f"diffusers failed (exit code {error.returncode})"
            line += f", {figures.failure}:\n{error.stderr[-2000:]}"
    print(line, flush=True)


def _warm(source: Path) -> None:
    os.sync()
    subprocess.run(["cat", str(source)], stdout=subprocess.DEVNULL, check=True)


def time_copy(source: Path, target: Path) -> float:
    begun = time.perf_counter()
    subprocess.run(["cp", str(source), str(target)], check=True)
    handle = os.open(target, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)
    return time.perf_counter() - begun


def describe(case: Case, size: int, figures: Figures) -> Row:
    """The row of a case: medians of the seconds, the largest of the memories."""
    ours = Median(seconds for seconds, _ in figures.ours)
    memory = max(peak for _, peak in figures.ours)
    met = "" if memory <= case.memory_mb else ", **missed**"
    notes = [f"peak memory {memory:.0f} MB (bar {case.memory_mb:g} MB{met})"]
    if figures.theirs:
        theirs = statistics.median(seconds for seconds, _ in figures.theirs)
        theirs_memory = max(peak for _, peak in figures.theirs)
        notes.append(f"diffusers {theirs:.2f} s and {theirs_memory:.0f} MB, ratio {ours / theirs:.2f}")
        notes.append(f"all {figures.equal:,} tensors equal to its")
    if figures.failure:
        notes.append(figures.failure)
    what = f"convert {size / 1e9:.2f} GB, {case.label}"
    return Row(what, ours, "`cp` and fsync", Median(figures.copies), case.bar, "; ".join(notes))


def compare_folders(ours: Path, theirs: Path) -> int:
    """The number of tensors, all equal bit by bit; raises SystemExit that names the first difference."""
    count = 0
    for component in COMPONENTS:
        (our_path,) = (ours / component).glob("*.safetensors")
        (their_path,) = (theirs / component).glob("*.safetensors")
        our_header, their_header = read_header(our_path), read_header(their_path)
        # Newer transformers leave `text_model.` out of the first text encoder's names.
        our_names = {name.removeprefix("text_model."): name for name in our_header.tensors}
        their_names = {
            name.removeprefix("text_model."): name for name in their_header.tensors if "position_ids" not in name
        }
        if set(our_names) != set(their_names):
            raise SystemExit(f"{component}: the tensors' names differ")
        with our_path.open("rb") as our_file, their_path.open("rb") as their_file:
            for short, our_name in our_names.items():
                mine = _described_bytes(our_file, our_header, our_name)
                if any(
                    a != b
                    for a, b in zip(mine, _described_bytes(their_file, their_header, their_names[short]), strict=True)
                ):
                    raise SystemExit(f"{component}: tensor {our_name} differs")
                count += 1
    return count


def _described_bytes(file: BinaryIO, header: Header, name: str) -> Iterator[object]:
    """A tensor's number format and shape, then its bytes in pieces."""
    info = header.tensors[name]
    yield info.dtype, info.shape
    for start in range(info.start, info.end, PIECE):
        file.seek(header.data_offset + start)
        yield file.read(min(PIECE, info.end - start))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "build/bench", help="for the checkpoints and their copies"
    )
    parser.add_argument("--only", choices=[case.dtype for case in CASES])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", action="store_true", help="keep the checkpoints that are written")
    parser.add_argument("--architecture", default="sdxl-base", help="of the checkpoints that are written")
    arguments = parser.parse_args()
    cases = tuple(case for case in CASES if arguments.only in (None, case.dtype))
    for row in run(
        arguments.folder, arguments.rounds, keep=arguments.keep, architecture=arguments.architecture, cases=cases
    ):
        print(
            f"{row.what}: {row.ours_s:.2f} s, {row.reference} {row.reference_s:.2f} s, ratio {row.ratio:.2f}; {row.note}"
        )


if __name__ == "__main__":
    main()
