"""Puts the workflow into the wheel, beside the package; everything else about the build stands in pyproject.toml."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
# Kept in the repository's layout below darkroom/bundle, since rules name their environment by a relative path.
BUNDLED = (
    "config/config.yaml",
    "envs/darkroom.post-deploy.sh",
    "envs/darkroom.yaml",
    "profiles",
    "prompts",
    "requirements.lock",
    "workflow/Snakefile",
    "workflow/report",
    "workflow/resources/demo",
    "workflow/rules",
)


class BuildWithWorkflow(build_py):
    """An editable install takes these files from the checkout."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for source, target in self._bundled():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        bundled = [] if self.editable_mode else [str(target) for _, target in self._bundled()]
        return super().get_outputs(include_bytecode) + bundled

    def get_source_files(self) -> list[str]:
        return super().get_source_files() + [str(source.relative_to(ROOT)) for source, _ in self._bundled()]

    def _bundled(self) -> list[tuple[Path, Path]]:
        paths = [ROOT / name for name in BUNDLED]
        files = [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*")))]
        bundle = Path(self.build_lib) / "darkroom/bundle"
        return [(file, bundle / file.relative_to(ROOT)) for file in files if file.is_file()]


setup(cmdclass={"build_py": BuildWithWorkflow})
