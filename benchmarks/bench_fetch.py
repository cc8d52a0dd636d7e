"""Downloading from a server on loopback, limited or not, beside one connection of ours, aria2c and huggingface_hub.

A limit is for each connection, as at a busy host, or for all of them together, as on a slow line. Ours hashes what it
downloads (twice: SHA256 and AutoV3) and links it into place; aria2c (Debian's package) and huggingface_hub's `http_get`,
which `hf_hub_download` calls, only write it.

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
EACH = ("--rate", "50e6")
SLOW = ("--rate", "15e6")
ALL = ("--total-rate", "100e6")
HUB = """
import os, sys
os.environ.update(HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_PROGRESS_BARS="1", HF_HUB_DISABLE_TELEMETRY="1")
from huggingface_hub.file_download import http_get
with open(sys.argv[2], "wb") as file:
    http_get(sys.argv[1], file)
"""


@dataclass(frozen=True)
class Case:
    """`limit` are the server's options, `reference` is what four connections of ours are compared with."""

    name: str
    what: str
    size: float
    limit: tuple[str, ...]
    reference: str
    bar: float


CASES = (
    Case("fetch-ranges", "fetch 1 GB, 50 MB/s a connection", 1e9, EACH, f"aria2c, {CONNECTIONS} connections", 1.1),
    Case("fetch-line", "fetch 2 GB, 100 MB/s in all", 2e9, ALL, "aria2c, one stream", 1.05),
    Case("fetch-one", "fetch 300 MB, 15 MB/s a connection", 3e8, SLOW, "ours, one connection", 0.5),
    Case("fetch-hub", "300 MB beside the Hub's client, 15 MB/s a connection", 3e8, SLOW, "huggingface_hub", 0.5),
    Case("fetch-free-one", "fetch 300 MB, no limit", 3e8, (), "ours, one connection", 1.5),
    Case("fetch-free-hub", "300 MB beside the Hub's client, no limit", 3e8, (), "huggingface_hub", 1.2),
)


def run(rounds: int, cases: tuple[Case, ...] = CASES) -> list[Row]:
    if any("aria2c" in case.reference for case in cases) and shutil.which("aria2c") is None:
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
            commands = {
                "ours": _ours(url, ours, CONNECTIONS),
                case.reference: _reference(case.reference, url, theirs),
            }
            seconds = measure(commands, rounds, before=before)
    note = "" if case.reference.startswith("ours") else "ours is hashed and linked too"
    return Row(case.what, seconds["ours"], case.reference, seconds[case.reference], case.bar, note)


def _ours(url: str, folder: Path, connections: int) -> list[str]:
    fetch = [sys.executable, "-m", "darkroom.cli", "fetch", url, str(folder / "x.safetensors")]
    return [*fetch, "--connections", str(connections)]


def _reference(name: str, url: str, folder: Path) -> list[str]:
    if name == "ours, one connection":
        return _ours(url, folder, 1)
    if name == "huggingface_hub":
        return [sys.executable, "-c", HUB, url, str(folder / "x.safetensors")]
    streams = 1 if name == "aria2c, one stream" else CONNECTIONS
    aria2c = ["aria2c", "--quiet", "--file-allocation=none", "--min-split-size=1M", f"--dir={folder}"]
    return [*aria2c, f"--split={streams}", f"--max-connection-per-server={streams}", "--out=x.safetensors", url]


def _write_weights(path: Path, size: int) -> None:
    """A safetensors file of one tensor; its bytes don't matter to anybody."""
    from darkroom.checkpoint.header import encode_header

    with path.open("wb") as file:
        file.write(encode_header([("t", "U8", (size,), 0, size)], {}))
        file.truncate(file.tell() + size)


@contextmanager
def _served(file: Path, limit: tuple[str, ...]) -> Iterator[str]:
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
