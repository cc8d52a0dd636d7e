"""Mutates valid safetensors files at random and checks what the header parser makes of them.

    python -m tests.fuzz.fuzz_header --minutes 10 [--seed N] [--save FOLDER]

The same seed makes the same files. Half of them are made from valid ones, half from earlier mutants: those that were
accepted, and those refused for a reason that is rare. Prints how many files were read, at which rate and with which outcomes; files that break a promise of
tests/fuzz/invariants.py are saved, and the exit code is then 1.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import resource
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.invariants import ACCEPTED, examine, is_read_by_safetensors
from tests.fuzz.mutators import mutate, valid_file

POOL = 300
MEMORY_BYTES = 256 * 2**20
"""What the process may take beyond what it has at its start; a claimed size that is allocated exceeds it."""


@dataclass
class Run:
    """A run of the fuzzer: what it has seen so far."""

    seed: int
    save: Path
    outcomes: Counter[str] = field(default_factory=Counter)
    stricter: Counter[str] = field(default_factory=Counter)
    findings: list[Path] = field(default_factory=list)
    executions: int = 0
    slowest_s: float = 0.0

    def fuzz(self, enough: Callable[[int], bool]) -> None:
        """Read one mutant after the other until `enough` of their number is true."""
        chance = random.Random(self.seed)
        valid, pool = [valid_file(chance) for _ in range(POOL)], [b""]
        folder = Path("/dev/shm")
        with tempfile.TemporaryDirectory(dir=folder if folder.is_dir() else None) as scratch:
            path = Path(scratch) / "x.safetensors"
            while not enough(self.executions):
                parent, other = chance.choice(chance.choice((valid, pool))), chance.choice(chance.choice((valid, pool)))
                content = mutate(parent, chance, other)
                if self.execute(path, content):
                    pool.append(content)
                    if len(pool) > POOL:
                        pool[chance.randrange(POOL)] = pool.pop()

    def execute(self, path: Path, content: bytes) -> bool:
        """Read one file; True if it is worth mutating further."""
        self.executions += 1
        begun = time.perf_counter()
        try:
            outcome = examine(path, content)
        except Exception:
            self.keep(content)
            return False
        self.slowest_s = max(self.slowest_s, time.perf_counter() - begun)
        self.outcomes[outcome] += 1
        if outcome == ACCEPTED:
            return True
        if is_read_by_safetensors(content):
            self.stricter[outcome] += 1
        return self.outcomes[outcome] < 20

    def keep(self, content: bytes) -> None:
        self.save.mkdir(parents=True, exist_ok=True)
        path = self.save / f"{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
        path.write_bytes(content)
        path.with_suffix(".txt").write_text(traceback.format_exc(), encoding="utf-8")
        self.findings.append(path)

    def report(self, seconds: float) -> str:
        lines = [
            f"seed {self.seed}: {self.executions:,} files in {seconds:.0f} s, {self.executions / seconds:,.0f} a second, "
            f"the slowest {self.slowest_s * 1000:.0f} ms, {len(self.outcomes)} distinct outcomes",
            *(f"{count:>12,}  {outcome}" for outcome, count in self.outcomes.most_common()),
            f"refused, although the safetensors library reads it: {sum(self.stricter.values()):,}",
            *(f"{count:>12,}  {outcome}" for outcome, count in self.stricter.most_common()),
            f"findings: {len(self.findings)}",
            *(f"  {path}" for path in self.findings[:20]),
        ]
        return "\n".join(lines)


def limit_memory() -> None:
    """Let anything that allocates a size that a file merely claims fail with a MemoryError."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.fuzz_header", description="Fuzz the header parser.")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path, default=Path("fuzz-findings"), help="where failing files are put")
    arguments = parser.parse_args()
    limit_memory()
    begun = time.monotonic()
    run = Run(arguments.seed, arguments.save)
    run.fuzz(lambda _: time.monotonic() - begun > 60 * arguments.minutes)
    print(run.report(time.monotonic() - begun))
    return 1 if run.findings else 0


if __name__ == "__main__":
    sys.exit(main())
