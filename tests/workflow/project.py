"""A user's working folder for tests: a real Snakemake, a small random checkpoint, pictures of 64 × 64 in two steps.

Unless a project `is_real`, its pictures come from a stand-in engine (stand_in/), because the real one takes seconds to start.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import yaml

from darkroom.base.files import TEMPORARY_PREFIX
from tests.fixtures.checkpoints import write_random_checkpoint
from tests.workflow.fork_server import run_snakemake

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = Path(__file__).with_name("stand_in")
SETTINGS = {"width": 64, "height": 64, "steps": 2, "cfg_scale": 3, "sampler": "Euler"}
DEMO_SHEET = """\
defaults: {cfg_scale: 4}
prompts:
  - id: circle
    prompt: a red circle on a blue background
    seeds: [1, 2]
  - id: star
    prompt: a green star
    steps: 3
"""
STUDY_SHEET = """\
prompts:
  - {id: sailor, prompt: "a ${age} sailor", seeds: [1]}
axes:
  age: [young, old]
  cfg_scale: [3, 8]
"""


@dataclass
class Project:
    """One working folder; `run` is what a user types in it.

    `runtime` is where its engines listen: its own, so that engines of other tests don't answer, and short,
    as socket paths must be. With `is_real` its engines are real ones.
    """

    folder: Path
    runtime: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="dr-")))
    is_real: bool = False

    @property
    def results(self) -> Path:
        return self.folder / "results"

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    def write(self, path: str, text: str) -> Path:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return file

    def configure(self, **changes: Any) -> None:
        """Write config/config.yaml: one checkpoint, one sheet, quick settings, and the changes."""
        config = {
            "checkpoints": {"tiny": {"source": "checkpoint.safetensors"}},
            "sheets": ["prompts/first.yaml"],
            "render": SETTINGS,
        } | changes
        self.write("config/config.yaml", yaml.safe_dump(config))

    def set_up(self, sheet: str, *targets: str, **changes: Any) -> None:
        """A random checkpoint, config/config.yaml and a sheet, then a run that has to succeed."""
        write_random_checkpoint(self.checkpoint)
        self.configure(**changes)
        self.write("prompts/first.yaml", sheet)
        self.make(*targets)

    def start(self, *arguments: str, cores: int = 1, **options: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", str(cores)]
        piped = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen([*command, *arguments], cwd=self.folder, env=self.environment(), **(piped | options))

    def run(self, *arguments: str, cores: int = 1) -> subprocess.CompletedProcess[str]:
        """`snakemake --cores N ARGUMENTS`, to its end."""
        given = ["--snakefile", str(ROOT / "Snakefile"), "--cores", str(cores), *(arguments or ("results/",))]
        return run_snakemake(given, self.folder, self.environment())

    def make(self, *targets: str) -> str:
        """What a run says that has to succeed."""
        done = self.run(*targets)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def environment(self) -> dict[str, str]:
        keep = {k: v for k, v in os.environ.items() if k != "DARKROOM_LEASE"}
        if not self.is_real:
            keep["PYTHONPATH"] = os.pathsep.join([str(STAND_IN), *filter(None, [keep.get("PYTHONPATH")])])
        return keep | {"XDG_RUNTIME_DIR": str(self.runtime), "TMPDIR": str(self.runtime)}

    def pictures(self) -> dict[str, bytes]:
        """The finished pictures by their place below results/."""
        return {
            str(p.relative_to(self.results)): p.read_bytes()
            for p in self.results.glob("*/*/*.png")
            if "thumbnails" not in p.parts and not p.name.startswith(TEMPORARY_PREFIX)
        }

    def times(self) -> dict[str, int]:
        """When each picture was written, in nanoseconds."""
        return {name: (self.results / name).stat().st_mtime_ns for name in self.pictures()}

    def begun(self) -> list[tuple[int, int]]:
        """The pictures that stand-in engines began, an entry each time: seed and number of stages.

        Of real engines those that they finished, by their logs, which know nothing of stages.
        """
        if self.is_real:
            return [(int(seed), 0) for seed in re.findall(r" seed (\d+) \|", self.engine_log())]
        notes = self.runtime / "begun"
        lines = notes.read_text(encoding="ascii").splitlines() if notes.exists() else []
        return [(int(seed), int(stages)) for seed, stages in map(str.split, lines)]

    def rendered_by(self, action: Callable[[], subprocess.CompletedProcess[str]]) -> set[str]:
        """Which pictures an action made, new or again; the action must succeed."""
        before = self.times()
        done = action()
        assert done.returncode == 0, done.stdout
        return {name for name, when in self.times().items() if before.get(name) != when}

    def release(self) -> None:
        """Let the stand-in engine finish its pictures with many steps, which until then stay unfinished."""
        (self.runtime / "release").touch()

    def engines(self) -> list[int]:
        """The processes of this project's engines that are alive."""
        alive = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and entry != Path(f"/proc/{os.getpid()}"):
                try:
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                    state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                except OSError:
                    continue
                if b"darkroom.warm.server" in words and str(self.folder).encode() in b" ".join(words) and state != "Z":
                    alive.append(int(entry.name))
        return alive

    def engine_log(self) -> str:
        """What this project's engines have logged."""
        return "".join(p.read_text() for p in self.runtime.rglob("*.log"))

    def leftovers(self) -> list[Path]:
        """Temporary files and sockets, which no ended run may leave."""
        files = [*self.folder.rglob("*"), *self.runtime.rglob("*")]
        return [p for p in files if TEMPORARY_PREFIX in p.name or p.suffix in (".sock", ".new")]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End what still runs, and take the runtime folder away."""
        for engine in self.engines():
            with suppress(ProcessLookupError):  # most end by themselves about now
                os.kill(engine, signal.SIGKILL)
        shutil.rmtree(self.runtime, ignore_errors=True)

    def copy(self, folder: Path) -> Project:
        """The same project elsewhere, times kept; big files are linked, not copied."""

        def link_big(source: str, target: str) -> None:
            if Path(source).stat().st_size > 2**20:
                os.link(source, target)
            else:
                shutil.copy2(source, target)

        shutil.copytree(self.folder, folder, copy_function=link_big, ignore=shutil.ignore_patterns("log"))
        return Project(folder, is_real=self.is_real)


def wait_until(condition: Callable[[], Any], what: str, limit_s: float = 240) -> None:
    """Poll; the limit only keeps a broken test from hanging."""
    end = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"never happened: {what}")
        time.sleep(0.05)
