"""A second run of 1,000 pictures where nothing changed, beside Snakemake's own floor: a trivial workflow of that size.

Only the planning is measured, so the pictures are copies of one, and `--touch` leaves the metadata that rendering would.

    python -m benchmarks.bench_nothing_changed [--rounds N]
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

from benchmarks.measure import ROOT, Row, make_project, measure, snakemake

PICTURES = 1000
TRIVIAL = f"""
rule all:
    input:
        expand("out/{{i}}.png", i=range({PICTURES})),
        "page.html",


rule make_page:
    input:
        expand("out/{{i}}.png", i=range({PICTURES})),
    output:
        "page.html",
    shell:
        "touch {{output}}"


rule make_picture:
    output:
        "out/{{i}}.png",
    params:
        request=lambda wildcards: f"picture {{wildcards.i}}",
    shell:
        "touch {{output}}"
"""


def make_ours(folder: Path) -> None:
    """A project as after its first run, with stand-ins for what a run makes."""
    make_project(folder, PICTURES)
    subprocess.run(snakemake(folder, ROOT / "Snakefile", "models/verified/demo.json"), check=True, capture_output=True)
    results = folder / "results"
    (results / "many/demo").mkdir(parents=True)
    for i in range(PICTURES):
        Image.new("RGB", (8, 8)).save(results / f"many/demo/p{i}-{i}.png")
    for page in ("index.html", "manifest.jsonl", "many/contact-sheet.png"):
        (results / page).write_text("")
    subprocess.run(snakemake(folder, ROOT / "Snakefile", "--touch", "results/"), check=True, capture_output=True)


def make_floor(folder: Path) -> Path:
    (folder / "out").mkdir(parents=True)
    snakefile = folder / "Snakefile"
    snakefile.write_text(TRIVIAL)
    for i in range(PICTURES):
        (folder / f"out/{i}.png").touch()
    (folder / "page.html").touch()
    subprocess.run(snakemake(folder, snakefile, "--touch"), check=True, capture_output=True)
    return snakefile


def run(rounds: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as temporary:
        ours, floor = Path(temporary, "ours"), Path(temporary, "floor")
        make_ours(ours)
        commands = {
            "ours": snakemake(ours, ROOT / "Snakefile", "results/"),
            "floor": snakemake(floor, make_floor(floor)),
        }
        for name, command in commands.items():
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            if "Nothing to be done" not in done.stdout + done.stderr:
                raise SystemExit(f"{name} has something to do:\n{done.stdout}{done.stderr}")
        times = measure(commands, rounds)
    what = f"nothing changed, {PICTURES:,} pictures"
    return [Row(what, times["ours"], "a trivial workflow of that size", times["floor"], 1.5)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    for row in run(parser.parse_args().rounds):
        print(f"{row.what}: {row.ours_s:.2f} s, {row.reference} {row.reference_s:.2f} s, ratio {row.ratio:.2f}")
