"""Writes requirements.lock, which pip installs, from uv.lock: `python -m tools.export_lock`.

Left out is what only PyTorch's CUDA builds need. pip takes that from the metadata of the torch that is installed, so
that a machine with the CPU build installs none of it.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
CUDA_ONLY = re.compile(r"(cuda|nvidia)-.*|triton")
HEADER = """\
# Every package at one version, for Python 3.11 to 3.14 on Linux (x86-64, aarch64) and macOS (arm64). Made from uv.lock by
# `make lock`. Install torch first: docs/how-to/install.md says which build.
"""


def export() -> str:
    """The lock file's text. Raises CalledProcessError if uv.lock is out of step with pyproject.toml."""
    packages = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))["package"]
    left_out = [package["name"] for package in packages if CUDA_ONLY.fullmatch(package["name"])]
    command = ["uv", "export", "--locked", "--quiet", "--python", sys.executable, "--all-extras", "--no-emit-project"]
    command += ["--no-hashes", "--no-annotate", "--no-header"]
    command += [word for name in left_out for word in ("--no-emit-package", name)]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return HEADER + done.stdout


if __name__ == "__main__":
    LOCK.write_text(export(), encoding="utf-8")
