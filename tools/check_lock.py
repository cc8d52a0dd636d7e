"""Whether requirements.lock can be installed on every Python and platform that it is for: `python -m tools.check_lock`.

Nothing is installed. For each pair, uv resolves every dependency with that machine's markers, then pip looks for a wheel of
each package. pip alone can't do both: it evaluates markers for the Python that it runs in.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.export_lock import LOCK

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
# What uv calls a platform, and the tags of the wheels that pip takes there.
PLATFORMS = {
    "x86_64-manylinux_2_28": ["manylinux2014_x86_64", *(f"manylinux_2_{minor}_x86_64" for minor in range(28, 4, -1))],
    "aarch64-manylinux_2_28": [
        "manylinux2014_aarch64",
        *(f"manylinux_2_{minor}_aarch64" for minor in range(28, 16, -1)),
    ],
    "aarch64-apple-darwin": ["macosx_14_0_arm64"],
}
MACOS = {"MACOSX_DEPLOYMENT_TARGET": "14.0"}  # the oldest that torch has builds for
# Without a wheel: pip builds it, on any machine.
SOURCE_ONLY = "connection-pool"
PIN = re.compile(r"^[a-z0-9._-]+==\S+", re.MULTILINE)


def check(python: str, platform: str, folder: Path) -> str | None:
    """What is wrong for one Python (`3.14`) and platform (a key of `PLATFORMS`), or None."""
    resolved = folder / f"{python}-{platform}.txt"
    resolve = ["uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate"]
    resolve += ["--python-version", python, "--python-platform", platform, "--output-file", str(resolved), str(LOCK)]
    if problem := _run(resolve):
        return problem
    pinned = dict(pin.split("==") for pin in PIN.findall(LOCK.read_text(encoding="utf-8")))
    found = dict(pin.split("==") for pin in PIN.findall(resolved.read_text(encoding="utf-8")))
    if moved := {name for name in found.keys() & pinned.keys() if found[name] != pinned[name]}:
        return f"other versions than the lock file's: {', '.join(sorted(moved))}"
    look = [
        str(folder / "pip/bin/python"),
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--quiet",
        "--no-deps",
        "--ignore-installed",
    ]
    look += [
        "--only-binary=:all:",
        f"--no-binary={SOURCE_ONLY}",
        "--python-version",
        python,
        "--implementation",
        "cp",
        "--abi",
        "cp" + python.replace(".", ""),
    ]
    look += ["--abi", "abi3", "--abi", "none", *(f"--platform={tag}" for tag in PLATFORMS[platform])]
    look += ["--target", str(folder / "nothing"), "--requirement", str(resolved)]
    return _run(look)


def _run(command: list[str]) -> str | None:
    done = subprocess.run(command, env=os.environ | MACOS, capture_output=True, text=True)
    if done.returncode == 0:
        return None
    errors = [line for line in done.stderr.splitlines() if not line.startswith("WARNING")]
    return " ".join(" ".join(errors).split())


def main() -> int:
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        # A new pip, since old ones download every wheel to look at it.
        subprocess.run(["uv", "venv", "--quiet", "--seed", "--python", sys.executable, f"{folder}/pip"], check=True)
        for python in PYTHONS:
            for platform in PLATFORMS:
                problem = check(python, platform, Path(folder))
                failed += problem is not None
                print(f"Python {python}, {platform}: {problem or 'every package has a wheel'}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
