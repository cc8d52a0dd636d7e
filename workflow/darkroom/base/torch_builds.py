"""Which build of torch is installed, and which one suits a driver. Imports no torch; standard library only.

Which drivers run which CUDA: https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html. Which builds
there are, and for which GPUs: torch/cuda/__init__.py of torch 2.13, PYTORCH_RELEASES_CODE_CC.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from darkroom.base.nvidia import Nvidia, find_nvidia

INDEX = "https://download.pytorch.org/whl"
OLDEST_DRIVERS = {13: 580, 12: 525}
"""The first driver that runs programs of a CUDA, by its major version: with any minor version of it."""
_USUAL, _OLD_GPUS, _NEW_GPUS = "cu130", "cu126", "cu129"
_OLDEST_USUAL = (7, 5)
_NEWEST_OLD = (9, 0)
"""Compute capabilities: CUDA 13 and 12.9 begin with Turing (GeForce RTX 20), 12.6 ends with Hopper (H100)."""


@dataclass(frozen=True, slots=True)
class TorchBuild:
    """The installed torch: its version such as `2.13.0+cu126`, and the CUDA or ROCm (hip) that it was built for."""

    version: str
    cuda: str | None = None
    hip: str | None = None

    @property
    def release(self) -> str:
        """The version without the build."""
        return self.version.partition("+")[0]

    @property
    def title(self) -> str:
        """The version and the build in a few words, such as `torch 2.13.0+cu126 (CUDA 12.6)`."""
        kind = f"CUDA {self.cuda}" if self.cuda else f"AMD's ROCm {self.hip}" if self.hip else "without CUDA"
        return f"torch {self.version} ({kind})"

    @property
    def cuda_major(self) -> int | None:
        """The major version of its CUDA."""
        return int(self.cuda.partition(".")[0]) if self.cuda else None


def read_build(folder: Path | None = None) -> TorchBuild | None:
    """What torch/version.py says, also of an installation that can't be imported; None if there is none."""
    if folder is None:
        spec = importlib.util.find_spec("torch")
        if spec is None or spec.origin is None:
            return None
        folder = Path(spec.origin).parent
    try:
        said = dict(_values((folder / "version.py").read_text("utf-8")))
    except (OSError, ValueError, SyntaxError):
        return None
    version, cuda, hip = (said.get(name) for name in ("__version__", "cuda", "hip"))
    if not version:
        return None
    return TorchBuild(str(version), str(cuda) if cuda else None, str(hip) if hip else None)


def _values(source: str) -> Iterator[tuple[str, object]]:
    """The names that a module sets to plain values, without running it."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Constant):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name):
                    yield target.id, node.value.value


def choose_build(found: Nvidia) -> str | None:
    """The build, such as `cu126`, for the driver and the GPUs of a machine; None if its driver is too old for any."""
    knows = cuda_of_driver(found)
    capabilities = [gpu.capability for gpu in found.gpus if gpu.capability]
    if knows is None or knows < min(OLDEST_DRIVERS):
        return None
    if any(each < _OLDEST_USUAL for each in capabilities):
        return _OLD_GPUS
    if knows >= max(OLDEST_DRIVERS):
        return _USUAL
    return _NEW_GPUS if any(each > _NEWEST_OLD for each in capabilities) else _OLD_GPUS


def cuda_of_driver(found: Nvidia) -> int | None:
    """The major version of the newest CUDA that a driver runs; by the driver's own version if it doesn't say."""
    if found.cuda:
        return found.cuda[0]
    if found.driver is None:
        return None
    number = int(found.driver.partition(".")[0])
    return next((major for major, oldest in OLDEST_DRIVERS.items() if number >= oldest), 0)


def install_command(build: str, release: str) -> str:
    """The command that puts another build in the place of the installed one."""
    return f"pip install torch=={release}+{build} --index-url {INDEX}/{build}"


def main() -> None:
    """Print the build for this machine, nothing where PyPI's is right: of CUDA 13, or whatever where no GPU is found."""
    build = choose_build(find_nvidia())
    if build not in (None, _USUAL):
        print(build)


if __name__ == "__main__":
    main()
