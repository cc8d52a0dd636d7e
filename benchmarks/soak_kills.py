"""A soak of runs: thousands of pictures, whose processes are killed at random moments; the same command goes on each time.

    python -m benchmarks.soak_kills [--pictures N] [--kills N] [--seed N] [--in-flight N] [--folder FOLDER] [--cluster]

A real Snakemake, with the stand-in engine of the tests, which notes each picture that it begins. SIGKILL strikes one process of the
run, whichever it is, or all of them: in planning, between pictures and in the middle of one, while pages are made, while the run that was
struck before is still ending. It ends with an error unless all pictures and contact sheets have the bytes of runs that nobody disturbed,
no picture was begun again but those in flight at a kill, and nothing is left that undisturbed runs don't leave: no process, file,
socket, held lock or mark. With `--cluster` the run is one of a SLURM, and what strikes is `scancel` of one of its jobs.
"""

from __future__ import annotations

import argparse
import base64
import fcntl
import hashlib
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from darkroom.pictures.records import CONTACT_SHEET
from tests.cluster.project import ClusterProject
from tests.cluster.slurm import running_slurm
from tests.fixtures.checkpoints import write_random_checkpoint
from tests.kill.processes import KINDS, processes
from tests.workflow.project import Project, wait_until

SHEET_PICTURES = 500
CHAINS = 10
"""How many of a sheet's 500 prompts have a second stage, which takes the latents of the first."""
EARLY, AT_ONCE, LATE = 0.15, 0.1, 0.1
"""Shares of the kills: in a command's first seconds, right after the kill before, and once all pictures are there."""
CLUSTER_GROUP = 25
KINDS_AND_ALL = (*KINDS, "other", "all")
END_S = 120
"""In which whatever a run left has to end."""
MISTAKES = ("LockException", "IncompleteFiles", "Traceback", "E-LOCK", "--unlock", "E-IMAGE", "Exception ignored")
_OWNER = re.compile(r"[0-9a-f]{32}\.\d+-\d+\.\d+-[0-9a-f]{8}")
_LEASE = re.compile(r"\d+-\d+-(?=[0-9a-f]+\.(?:slot|seat|lost|told))")
_KEY = re.compile(r"(?<=darkroom/)(.*)\b[0-9a-f]{16}(?=\.)")
_OF_CLUSTER = re.compile(
    r"/logs/slurm/.*|/\.snakemake/darkroom/cluster/(owner|cancel)|runtime/darkroom/KEY\.(lock|start|log)"
)
"""What runs on a cluster leave besides, as docs/reference/files.md says; each of its jobs has a KEY of its own."""
_PICTURE = re.compile(r"p\d+-(\d+)(\.1-hires)?\.png")

Key = tuple[int, int]
"""A picture's seed, which is its number, and its number of stages."""


def write_project(project: Project, pictures: int) -> list[str]:
    """Write a checkpoint, the sheets of so many pictures and a configuration of all; returns the sheets' names."""
    project.folder.mkdir(parents=True, exist_ok=True)
    write_random_checkpoint(project.checkpoint)
    names = []
    for first in range(0, pictures, SHEET_PICTURES):
        count = min(SHEET_PICTURES, pictures - first)
        chains = CHAINS * count // SHEET_PICTURES
        lines = ["prompts:"]
        for number in range(first, first + count - chains):
            then = ", then: [{hires: {denoising_strength: 0.5}}]" if number < first + chains else ""
            lines.append(f"  - {{id: p{number:05}, prompt: picture {number}, seed: {number}{then}}}")
        names.append(f"s{len(names):02}")
        project.write(f"prompts/{names[-1]}.yaml", "\n".join([*lines, ""]))
    configure(project, names)
    return names


def configure(project: Project, sheets: Sequence[str]) -> None:
    project.configure(sheets=[f"prompts/{name}.yaml" for name in sheets])


def run_undisturbed(project: Project, pictures: int) -> dict[str, str]:
    """The digests of what undisturbed runs make, one for each sheet: Snakemake takes less time for each picture of few."""
    sheets = write_project(project, pictures)
    for chosen in [*([name] for name in sheets), sheets]:
        configure(project, chosen)
        done = project.run()
        assert done.returncode == 0, done.stdout
    assert len(project.pictures()) == len(project.begun()) == pictures
    return digests(project)


def digests(project: Project) -> dict[str, str]:
    """The SHA256 of pictures and contact sheets by their place below results/."""
    files = [*(project.results / name for name in project.pictures()), *project.results.glob("*/contact-sheet.png")]
    return {str(path.relative_to(project.results)): _digest(path) for path in files}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def listing(project: Project) -> Counter[str]:
    """All files and sockets of a project by their names, without owners and leases; Snakemake's own logs are left out."""
    found: Counter[str] = Counter()
    for root in (project.folder, project.runtime):
        for folder, folders, files in os.walk(root):
            if folder == str(project.folder / ".snakemake"):
                folders.remove("log")
            for name in files:
                place = f"{'runtime' if root == project.runtime else ''}/{Path(folder, name).relative_to(root)}"
                found[_KEY.sub(r"\1KEY", _LEASE.sub("LEASE-", _OWNER.sub("OWNER", place)))] += 1
    return found


def held_locks(project: Project) -> list[str]:
    """The lock files of engines and their clients that somebody still holds."""
    held = []
    for lock in (*project.runtime.rglob("*.lock"), *project.runtime.rglob("*.start")):
        with lock.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held.append(str(lock))
    return held


@dataclass
class Soak:
    """A run under kills, and what it does wrong.

    `right` are the digests of what it should make, `usual` is the listing of a project that has made it, and
    `in_flight` is how many pictures a run may have under way at once.
    """

    project: Project
    right: dict[str, str]
    usual: Counter[str]
    seed: int = 1
    in_flight: int = 2
    given: int = 0
    struck: Counter[str] = field(default_factory=Counter)
    moments: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._kinds: list[str] = []
        self._run: subprocess.Popen[str] | None = None
        self._stamps: dict[str, tuple[int, int]] = {}
        self._may_repeat: Counter[Key] = Counter()
        self._finished: set[Key] = set()
        self._output = self.project.folder.with_suffix(".output")
        self._has_finished = False
        self._failures = 0
        self.pictures = sum(not name.endswith(CONTACT_SHEET) for name in self.right)
        self._start_s = 3 + self.pictures / 500

    def there(self) -> set[Key]:
        """The pictures that there are."""
        found = set()
        for folder in self.project.results.glob("s*/tiny"):
            for path in folder.iterdir():
                if match := _PICTURE.fullmatch(path.name):
                    found.add((int(match[1]), int(match[2] is not None)))
        return found

    def _marked(self) -> set[Key]:
        """The pictures whose jobs Snakemake has started: their clients may ask an engine for them after Snakemake's end."""
        marks = [path for path in (self.project.folder / ".snakemake/incomplete").rglob("*") if path.is_file()]
        names = [Path(base64.urlsafe_b64decode(mark.name).decode()).name for mark in marks]
        return {(int(found[1]), int(found[2] is not None)) for name in names if (found := _PICTURE.fullmatch(name))}

    def deal_kills(self, count: int) -> None:
        """Strike so often, at moments of all kinds."""
        late = round(LATE * count)
        mean = self.pictures / max(1, count)
        for number in range(count):
            dice = self._random.random()
            if number >= count - late:
                self._strike(self._wait_for_pages())
            elif dice < EARLY:
                self._strike(self._wait_for_start())
            elif dice < EARLY + AT_ONCE:
                self._strike(self._wait_a_moment())
            else:
                self._strike(self._wait_for_pictures(mean))

    def finish(self) -> None:
        """Let the command end, look at all that it left, and give it once more."""
        while self._run is None or self._run.wait() or self._end():
            self._go_on()
        self._check_end()
        begun = len(self.project.begun())
        done = self.project.run()
        if "Nothing to be done" not in done.stdout or len(self.project.begun()) != begun:
            self.wrong.append(f"the finished run was not finished: {done.stdout}")
        self._check_end()

    def _wait_for_start(self) -> str:
        """Some time in the first seconds of a command, in which it reads, plans, and loads the model."""
        self._wait_until_ended(10)
        self._go_on()
        time.sleep(self._random.uniform(0, self._start_s))
        return "start"

    def _wait_a_moment(self) -> str:
        time.sleep(self._random.uniform(0, 0.3))
        return "at once"

    def _wait_for_pictures(self, mean: float) -> str:
        """In the middle of the pictures, `mean` on average after the last that was begun before."""
        goal = len(self.project.begun()) + self._random.randint(1, max(1, round(2 * mean)))
        while len(self.project.begun()) < goal and not self._has_finished:
            self._go_on()
            time.sleep(0.05)
        time.sleep(self._random.uniform(0, 0.2))
        return "pictures"

    def _wait_for_pages(self) -> str:
        """Once all pictures are there: while pages are made, and in runs with nothing to do."""
        while len(self.there()) < self.pictures:
            self._go_on()
            time.sleep(0.2)
        time.sleep(self._random.uniform(0, self._start_s))
        return "pages"

    def _strike(self, moment: str) -> None:
        """Kill all processes, or one: of each kind equally often, and where there is none of a kind, any."""
        while not (alive := processes(self.project)):
            self._go_on()
            time.sleep(self._random.uniform(0, 0.5))
        self._kinds = self._kinds or self._random.sample(KINDS_AND_ALL, len(KINDS_AND_ALL))
        what = self._kinds.pop()
        some = [each for each in alive if each.kind == what] or alive
        victims = alive if what == "all" else [self._random.choice(some)]
        what = what if what == "all" else victims[0].kind
        before = self.project.begun()
        for each in victims:
            each.kill()
        words = b" ".join(victims[0].words[-9:]).decode(errors="replace") if what == "other" else ""
        self._note_kill(before, what, moment, words)

    def _note_kill(self, before: Sequence[Key], what: str, moment: str, words: str) -> None:
        """Which pictures may be begun again because of a kill, and which may not vanish."""
        self.struck[what] += 1
        self.moments[moment] += 1
        self._failures = 0
        print(f"  {time.strftime('%T')} {len(self.there())} pictures: {what} ({moment}) {words}", flush=True)
        there, begun = self.there(), self.project.begun()
        if gone := self._finished - there:
            self.wrong.append(f"finished pictures are gone: {sorted(gone)}")
        latest = {*_latest(before, self.in_flight), *_latest(begun, self.in_flight)}
        under_way = latest | self._marked()
        self._finished = there - under_way
        self._may_repeat.update(under_way | (set(begun) - there))

    def _wait_until_ended(self, limit_s: float) -> None:
        end = time.monotonic() + limit_s
        while self._run is not None and self._run.poll() is None and time.monotonic() < end:
            time.sleep(0.02)

    def _go_on(self) -> None:
        """Give the command, if it isn't under way."""
        if self._run is not None and self._run.poll() is not None:
            self._end()
        if self._run is None:
            with self._output.open("w") as output:
                self._run = self.project.start("results/", stdout=output)
            self.given += 1

    def _end(self) -> int:
        """The exit code of a command that has ended, after a look at what it said and made."""
        assert self._run is not None
        code, self._run = self._run.wait(), None
        self._has_finished |= code == 0
        said = self._output.read_text(encoding="utf-8", errors="replace")
        self._failures = self._failures + 1 if code else 0
        assert self._failures < 3, f"the command goes on failing though nothing was killed any more: {said}"
        if mistakes := [mistake for mistake in MISTAKES if mistake in said]:
            self.wrong.append(f"{', '.join(mistakes)} in the output of a run that ended with {code}:\n{said[-4000:]}")
        for name in self.right:
            path = self.project.results / name
            with suppress(FileNotFoundError):
                status = path.stat()
                stamp = status.st_mtime_ns, status.st_ino
                if self._stamps.get(name) != stamp:
                    self._stamps[name] = stamp
                    if _digest(path) != self.right[name] and path.name != CONTACT_SHEET:
                        self.wrong.append(f"{name} has other bytes")
        return code

    def _check_end(self) -> None:
        """Add to `wrong` all that may not be after a run's end."""
        try:
            wait_until(lambda: not processes(self.project), "", END_S)
        except AssertionError:
            self.wrong += [f"a process is left: {each.kind} {each.words}" for each in processes(self.project)]
        if (made := digests(self.project)) != self.right:
            differ = [name for name in {*made, *self.right} if made.get(name) != self.right.get(name)]
            self.wrong.append(f"{len(differ)} files are missing or have other bytes: {sorted(differ)[:10]}")
        again = Counter(self.project.begun()) - Counter(self.there())
        if more := again - self._may_repeat:
            self.wrong.append(f"begun again though they were not in flight: {more}")
        left = (listing(self.project) - self.usual).items()
        self.wrong += [f"left: {count} × {place}" for place, count in left if not _OF_CLUSTER.fullmatch(place)]
        self.wrong += [f"a lock is held: {lock}" for lock in held_locks(self.project)]


class ClusterSoak(Soak):
    """A run on a SLURM of its own, of whose jobs one after another is cancelled. The pictures that a job finished stay."""

    project: ClusterProject

    def deal_kills(self, count: int) -> None:
        for _ in range(count):
            self._strike(self._wait_for_pictures(self.pictures / count))

    def _strike(self, moment: str) -> None:
        while not (jobs := self.project.slurm.jobs("RUNNING")) and not self._has_finished:
            self._go_on()
            time.sleep(0.2)
        if not jobs:
            return
        before, job = self.project.begun(), self._random.choice(jobs)
        self.project.slurm.ask("scancel", job)
        # A job that is submitted anew has its pictures deleted, and puts them back where it runs.
        self._finished = set()
        self._note_kill(before, "job", moment, f"{job} of {', '.join(jobs)}")

    def _check_end(self) -> None:
        super()._check_end()
        self.wrong += [f"a job is left: {job}" for job in self.project.slurm.jobs()]


def _latest(begun: Sequence[Key], count: int) -> list[Key]:
    return list(dict.fromkeys(reversed(begun)))[:count]


def report(found: Soak, seconds: float) -> None:
    """Print what was done and what came of it."""
    kills, begun = found.struck.total(), len(found.project.begun())
    print(f"{found.pictures:,} pictures, {kills} kills, {seconds:.0f} s; the command was given {found.given} times")
    for what in (found.struck, found.moments):
        print(", ".join(f"{count} {name}" for name, count in what.most_common()))
    print(f"{begun:,} pictures begun, {begun - found.pictures} of them again; {len(found.wrong)} faults")


@contextmanager
def cluster_project(folder: Path) -> Iterator[Project]:
    """An empty project on a cluster that is there for the block."""
    with running_slurm() as slurm, ClusterProject(folder, slurm=slurm, is_real=False, group=CLUSTER_GROUP) as project:
        yield project


def soak(
    undisturbed: Project, disturbed: Project, pictures: int, kills: int, *, seed: int = 1, in_flight: int = 2
) -> Soak:
    """Make the same pictures in two empty projects, in one of them under kills; prints what comes of it."""
    begun = time.monotonic()
    right = run_undisturbed(undisturbed, pictures)
    usual = listing(undisturbed)
    print(f"undisturbed: {time.monotonic() - begun:.0f} s", flush=True)
    begun = time.monotonic()
    write_project(disturbed, pictures)
    kind = ClusterSoak if isinstance(disturbed, ClusterProject) else Soak
    found = kind(disturbed, right, usual, seed, in_flight)
    try:
        found.deal_kills(kills)
        found.finish()
    finally:
        for process in processes(disturbed):
            process.kill()
    report(found, time.monotonic() - begun)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--in-flight", type=int, default=2, help="how many pictures a run may have under way at once")
    parser.add_argument("--cluster", action="store_true", help="cancel jobs of a SLURM that is started for it")
    parser.add_argument("--folder", type=Path, help="an empty folder to leave both projects in")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        start = cluster_project if given.cluster else Project
        with Project(folder / "undisturbed") as undisturbed, start(folder / "disturbed") as disturbed:
            sizes = given.pictures, given.kills
            found = soak(undisturbed, disturbed, *sizes, seed=given.seed, in_flight=given.in_flight)
    if found.wrong:
        print(*found.wrong[:50], sep="\n")
        sys.exit("failed")


if __name__ == "__main__":
    main()
