"""Downloading from a server on loopback that limits its rate, beside aria2c (Debian's package).

The limit is for each connection, as at a busy host, or for all of them together, as on a slow line. Ours hashes what
it brings (twice: SHA256 and AutoV3) and links it into place; aria2c only writes it.

    python -m benchmarks.bench_fetch [--rounds N]
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import Row, measure

CONNECTIONS = 4


@dataclass(frozen=True)
class Case:
    """`limit` are the server's options, `streams` how many connections aria2c takes."""

    name: str
    what: str
    size: float
    limit: tuple[str, str]
    streams: int
    bar: float


CASES = (
    Case("fetch-ranges", "fetch 1 GB, 50 MB/s a connection", 1e9, ("--rate", "50e6"), CONNECTIONS, 1.1),
    Case("fetch-line", "fetch 2 GB, 100 MB/s in all", 2e9, ("--total-rate", "100e6"), 1, 1.05),
)


def run(rounds: int, cases: tuple[Case, ...] = CASES) -> list[Row]:
    if cases and shutil.which("aria2c") is None:
        raise SystemExit("aria2c isn't installed: apt-get install aria2")
    return [_run(case, rounds) for case in cases]


def _run(case: Case, rounds: int) -> Row:
    with tempfile.TemporaryDirectory() as temporary:
        source, ours, theirs = (Path(temporary, name) for name in ("x.safetensors", "ours", "theirs"))
        _write_weights(source, int(case.size))

        def before(_: str) -> None:
            for folder in (ours, theirs):
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()

        with _served(source, case.limit) as url:
            fetch = [sys.executable, "-m", "darkroom.cli", "fetch", url, str(ours / "x.safetensors")]
            aria2c = ["aria2c", "--quiet", "--file-allocation=none", "--min-split-size=1M", f"--dir={theirs}"]
            many = f"--split={case.streams}", f"--max-connection-per-server={case.streams}"
            commands = {
                "ours": [*fetch, "--connections", str(CONNECTIONS)],
                "aria2c": [*aria2c, *many, "--out=x.safetensors", url],
            }
            seconds = measure(commands, rounds, before=before)
    reference = "aria2c, one stream" if case.streams == 1 else f"aria2c, {case.streams} connections"
    return Row(
        case.what, seconds["ours"], reference, seconds["aria2c"], case.bar, "hashed and linked; aria2c only writes"
    )


def _write_weights(path: Path, size: int) -> None:
    """A safetensors file of one tensor; its bytes don't matter to anybody."""
    from darkroom.checkpoint.header import encode_header

    with path.open("wb") as file:
        file.write(encode_header([("t", "U8", (size,), 0, size)], {}))
        file.truncate(file.tell() + size)


@contextmanager
def _served(file: Path, limit: tuple[str, str]) -> Iterator[str]:
    command = [sys.executable, "-m", "tests.fixtures.remote.serve", str(file), *limit]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip()
        finally:
            server.send_signal(signal.SIGTERM)
            print("  " + server.stdout.read().strip(), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=[case.name for case in CASES])
    arguments = parser.parse_args()
    cases = tuple(case for case in CASES if not arguments.only or case.name in arguments.only)
    for row in run(arguments.rounds, cases):
        print(f"{row.what}: {row.ours_s:.2f} s, {row.reference} {row.reference_s:.2f} s, {row.ratio:.2f}")


if __name__ == "__main__":
    main()
