"""docs/tutorial.md, done as written: its files are saved, its commands run, and what it shows is what they print."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"`((?:prompts|config)/[\w./-]+\.yaml)`")


@dataclass(frozen=True)
class Step:
    """A block of the page: its language, its text, and the paragraph before it."""

    language: str
    text: str
    before: str


def read_steps(page: str) -> Iterator[Step]:
    place = 0
    for block in _BLOCK.finditer(page):
        yield Step(block[1], block[2], page[place : block.start()].strip().rpartition("\n\n")[2])
        place = block.end()


def save(folder: Path, step: Step) -> None:
    """Write a file, or replace the sections that the block has of one that is there."""
    path = folder / _FILE.findall(step.before)[-1]
    if not path.exists():
        path.write_text(step.text, encoding="utf-8")
        return
    (key,) = re.findall(r"^(\w+):", step.text, re.MULTILINE)
    section = re.compile(rf"^{key}:.*\n(?:[ -].*\n)*", re.MULTILINE)
    text, count = section.subn(lambda _: step.text, path.read_text(encoding="utf-8"))
    assert count == 1, f"{path} has no section {key}"
    path.write_text(text, encoding="utf-8")


def check_shown(shown: str, printed: str) -> None:
    """Each line that the page shows was printed, in that order; `…` stands for any."""
    place = 0
    for line in filter(str.strip, shown.splitlines()):
        if line.strip() != "…":
            found = printed.find(line.rstrip(), place)
            assert found >= 0, f"not printed: {line}\n{printed}"
            place = found + len(line.rstrip())


@pytest.mark.full
def test_the_tutorial_can_be_followed(tmp_path: Path) -> None:
    clone = tmp_path / "darkroom"
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, names.stdout.split("\0")):
        if (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, clone / name)
    (clone / ".venv").symlink_to(Path(sys.prefix))
    os.utime(Path(sys.prefix, "ready"))  # else make would install it anew: the copies are newer
    page = (clone / "docs/tutorial.md").read_text(encoding="utf-8")
    printed = ""
    for step in read_steps(page):
        if step.language == "sh":
            script = f"set -e\n. .venv/bin/activate\n{step.text}"
            done = subprocess.run(
                ["sh", "-c", script], cwd=clone, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
            assert done.returncode == 0, f"{step.text}\n{done.stdout}"
            printed = done.stdout
        elif step.language == "yaml":
            save(clone, step)
        else:
            check_shown(step.text, printed)
    for name in ("grid.png", "study.html", "study.csv", "contact-sheet.png"):
        assert (clone / "results/first" / name).stat().st_size > 0
    assert len(list((clone / "results/first/demo").glob("*.png"))) == 16
    assert (clone / "ring.png").exists()
