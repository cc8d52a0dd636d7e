"""Whether requirements.lock can be installed on every Python and platform that it is for: `python -m tools.check_lock`.

Nothing is installed, and no wheel is downloaded. For each pair uv resolves the lock file with that machine's markers, and
each package that it takes must have a wheel for it in uv.lock. pip's own dry run would evaluate markers for the Python that
it runs in.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from packaging.requirements import Requirement
from packaging.tags import Tag, compatible_tags, cpython_tags, mac_platforms
from packaging.utils import parse_wheel_filename

from tools.export_lock import LOCK, ROOT

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
# sys_platform, platform_machine, and what uv calls them.
PLATFORMS = {
    ("linux", "x86_64"): "x86_64-manylinux_2_28",
    ("linux", "aarch64"): "aarch64-manylinux_2_28",
    ("darwin", "arm64"): "aarch64-apple-darwin",
}
# What pip builds from source: anywhere, since it is pure Python; and with a C compiler, until there are wheels.
BUILT = {"connection-pool": PYTHONS, "immutables": ("3.14",)}


def needed(python: str, system: str, machine: str) -> list[Requirement]:
    """The lock file's lines that apply to one machine, whose Python is `3.14` and the like."""
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": system,
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
    }
    lines = LOCK.read_text(encoding="utf-8").splitlines()
    all_lines = [Requirement(line) for line in lines if not line.startswith("#")]
    return [line for line in all_lines if line.marker is None or line.marker.evaluate(environment)]


def without_wheel(python: str, system: str, machine: str) -> list[str]:
    """The packages that have no wheel for one machine in uv.lock."""
    wheels = _wheels()
    fits = _tags(python, system, machine)
    names = [line.name for line in needed(python, system, machine)]
    return [name for name in names if not any(tags & fits for tags in wheels[name])]


@cache
def _wheels() -> dict[str, list[frozenset[Tag]]]:
    """The tags of each package's wheels."""
    packages = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))["package"]
    names = {p["name"]: [wheel["url"].rpartition("/")[2] for wheel in p.get("wheels", [])] for p in packages}
    return {name: [parse_wheel_filename(wheel)[3] for wheel in wheels] for name, wheels in names.items()}


def _tags(python: str, system: str, machine: str) -> set[Tag]:
    """What pip takes on macOS 14 or glibc 2.28, the oldest that torch has builds for."""
    version = tuple(map(int, python.split(".")))
    platforms = list(mac_platforms((14, 0), machine)) if system == "darwin" else list(_manylinux(machine))
    interpreter = f"cp{python.replace('.', '')}"
    return {*cpython_tags(version, platforms=platforms), *compatible_tags(version, interpreter, platforms)}


def _manylinux(machine: str) -> Iterable[str]:
    yield from (f"manylinux_2_{minor}_{machine}" for minor in range(28, 4, -1))
    yield from (f"{name}_{machine}" for name in ("manylinux2014", "manylinux2010", "manylinux1"))


def resolve(python: str, platform: str, folder: Path) -> str | None:
    """What uv says against the lock file for one machine, or None."""
    command = ["uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--python-version", python]
    command += ["--python-platform", platform, "--output-file", str(folder / f"{python}-{platform}.txt"), str(LOCK)]
    done = subprocess.run(
        command, env=os.environ | {"MACOSX_DEPLOYMENT_TARGET": "14.0"}, capture_output=True, text=True
    )
    return " ".join(done.stderr.split()) if done.returncode else None


def main() -> int:
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for python in PYTHONS:
            for (system, machine), platform in PLATFORMS.items():
                lacking = without_wheel(python, system, machine)
                unknown = [name for name in lacking if python not in BUILT.get(name, ())]
                wrong = resolve(python, platform, Path(folder)) or (
                    f"no wheel of {', '.join(unknown)}" if unknown else None
                )
                failed += wrong is not None
                print(f"Python {python}, {platform}: {wrong or 'good; pip builds ' + ', '.join(lacking)}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
