"""`darkroom init`: a new project, a folder of its own that renders with the installed workflow.

All files in it are the user's. None is needed to install or upgrade Darkroom, and none is ever written again.
"""

from __future__ import annotations

import errno
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from darkroom.errors import ProjectError

if TYPE_CHECKING:
    import argparse

_SNAKEFILE = '''\
"""Renders this project's pictures with the installed Darkroom: snakemake --cores 1 results/"""

import darkroom


include: darkroom.snakefile()


rule make_default:  # of a Snakefile that is included, Snakemake ignores the default target
    input:
        get_pictures,
    message:
        results_message
'''
_GITIGNORE = """\
.snakemake/
config/.*.claim.*
logs/
models/
results/
sources/
"""
_SOURCES = "sources"


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """The argument of `darkroom init`."""
    sub.add_argument("folder", type=Path, metavar="FOLDER", help="the project's folder, which must not exist yet")


def run(arguments: argparse.Namespace) -> str:
    """Make the project. Raises ProjectError (E-PROJECT) if there is something of that name, DiskError (E-DISK)."""
    folder: Path = arguments.folder
    create(folder)
    return f"{folder} is a project with the demo's pictures. Next: cd {shlex.quote(str(folder))} && snakemake --cores 1 results/"


def create(folder: Path) -> None:
    """Make a project in `folder`, whole or not at all. Raises what `run` raises."""
    from darkroom.base.claims import staging_folder
    from darkroom.base.files import sync_folder, write_bytes

    folder = folder.absolute()
    if folder.exists() or folder.is_symlink():
        raise _exists(folder)
    with staging_folder(folder) as staging:
        for name, data in _files().items():
            write_bytes(staging.new / name, data)
        try:
            staging.new.rename(folder)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise _exists(folder) from None
            raise
        sync_folder(folder.parent)


def _exists(folder: Path) -> ProjectError:
    return ProjectError("folder", folder, "exists already", "name a folder that doesn't exist yet")


def _files() -> dict[str, bytes]:
    """The project's files by their place in it: those of the repository, with the demo's checkpoint, LoRA and upscaler in `sources/`."""
    from darkroom.installation import DEMO, ROOT

    config = (ROOT / "config/config.yaml").read_text(encoding="utf-8")
    config = config.replace(f"{DEMO.as_posix()}/", f"{_SOURCES}/")
    config = config.replace("in docs/reference/config.md.", "in docs/reference/config.md of Darkroom's repository.")
    copied = [
        *(str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("prompts/*.yaml"))),
        *(str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("profiles/*/config.yaml"))),
    ]
    return {
        "Snakefile": _SNAKEFILE.encode(),
        ".gitignore": _GITIGNORE.encode(),
        "config/config.yaml": config.encode(),
        **{name: (ROOT / name).read_bytes() for name in copied},
        **{f"{_SOURCES}/{path.name}": path.read_bytes() for path in sorted((ROOT / DEMO).glob("*.safetensors"))},
    }
