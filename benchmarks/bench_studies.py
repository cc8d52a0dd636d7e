"""Studies of 10,000 cells: planning them beside as many plain prompts, and one cell added to those that are finished.

- `planning`: reading a sheet of two axes with 100 values each, against a sheet of 10,000 prompts; in processes of their
  own, as a run does it, without the imports. `prompts`: the latter against two seconds.
- `added`: a run after one cell was added under `include`, pages too, against a trivial workflow of the same graph to
  which a picture is added. A stand-in engine makes the picture.

    python -m benchmarks.bench_studies [--rounds N] [--only CASE ...]
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml

from benchmarks.bench_scale import BAR, Floor, Ours, run_command
from benchmarks.measure import Median, Row, make_project, measure

EDGE = 100
CELLS = EDGE * EDGE
CASES = ("planning", "prompts", "added")
PLANNING_BAR = 1.5
PROMPTS_BAR_S = 2.0
_READ = """
import os, sys, time
from darkroom.config import load_config
from darkroom.run.plan import tune_garbage_collection
from darkroom.sheets.read import load_pictures
os.chdir(sys.argv[1])
tune_garbage_collection()
config = load_config("config/config.yaml")
begun = time.process_time()
(sheet,) = load_pictures(config).values()
assert len(sheet) == int(sys.argv[2])
print(time.process_time() - begun)
"""


def write_study(folder: Path, included: Sequence[float] = ()) -> None:
    """A sheet with EDGE × EDGE cells, and one more for each CFG scale of `included`."""
    study = {
        "defaults": {"seeds": [1]},
        "prompts": [{"id": "many", "prompt": "a ${thing} on a blue background"}],
        "axes": {"cfg_scale": {"from": 1, "to": 10.9, "step": 0.1}, "thing": [f"star {n}" for n in range(EDGE)]},
        **({"include": [{"cfg_scale": scale, "thing": "star 0"} for scale in included]} if included else {}),
    }
    (folder / "prompts/many.yaml").write_text(yaml.safe_dump(study))


class OurStudy(Ours):
    """A working folder with a study in place of its prompts."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, 1)
        write_study(folder)

    def finish(self) -> None:
        """As after a first run: each picture is a copy of one."""
        from darkroom.config import load_config
        from darkroom.sheets.read import load_pictures

        config = load_config(self.folder / "config/config.yaml")
        config = config.model_copy(update={"sheets": [str(self.folder / sheet) for sheet in config.sheets]})
        (sheet,) = load_pictures(config).values()
        self.copy_pictures([picture.path for picture in sheet])

    def edit(self, text: str) -> None:
        """Add the cell of a further CFG scale."""
        write_study(self.folder, [float(text)])


class LongerFloor(Floor):
    """The trivial workflow, to which a picture is added."""

    def edit(self, text: str) -> None:
        (self.folder / "prompts.txt").write_text("\n".join([*self.prompts, text]))


def run(rounds: int, cases: Sequence[str] = CASES) -> list[Row]:
    rows = []
    if {"planning", "prompts"} & set(cases):
        rows += [row for name, row in _plan(rounds).items() if name in cases]
    if "added" in cases:
        rows.append(_add(rounds))
    return rows


def _plan(rounds: int) -> dict[str, Row]:
    with tempfile.TemporaryDirectory() as temporary:
        study, plain = Path(temporary, "study"), Path(temporary, "plain")
        make_project(study, 1)
        write_study(study)
        make_project(plain, CELLS)
        seconds: dict[Path, list[float]] = {study: [], plain: []}
        for folder in [study, plain] * rounds:
            seconds[folder].append(float(run_command([sys.executable, "-c", _READ, str(folder), str(CELLS)])))
    ours, beside = (Median(each) for each in seconds.values())
    note = "processor time"
    return {
        "planning": Row(f"planning {CELLS:,} cells", ours, f"{CELLS:,} prompts", beside, PLANNING_BAR, note),
        "prompts": Row(f"reading {CELLS:,} prompts", beside, "the bar's two seconds", PROMPTS_BAR_S, 1, note),
    }


def _add(rounds: int) -> Row:
    with tempfile.TemporaryDirectory() as temporary:
        ours, floor = OurStudy(Path(temporary, "ours")), LongerFloor(Path(temporary, "floor"), CELLS)
        sides = {"ours": ours, "floor": floor}
        for side in sides.values():
            side.finish()
            run_command(side.command("results/"))
        scales = (f"{20 + i / 8}" for i in itertools.count())
        with ours.engine():
            commands = {name: side.command("results/") for name, side in sides.items()}
            seconds = measure(commands, rounds, before=lambda name: sides[name].edit(next(scales)))
    return Row(f"one cell added to {CELLS:,}", seconds["ours"], "a trivial workflow", seconds["floor"], BAR)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=CASES, default=CASES)
    arguments = parser.parse_args()
    for row in run(arguments.rounds, arguments.only):
        print(f"{row.what}: {row.ours_s:.2f} s, {row.reference} {row.reference_s:.2f} s, ratio {row.ratio:.2f}")


if __name__ == "__main__":
    main()
