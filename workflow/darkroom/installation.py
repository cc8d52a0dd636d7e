"""Where the workflow's own files are, and how another environment gets the same Darkroom.

A wheel carries the files in `darkroom/bundle`; otherwise they are those of the checkout that the package lies in. Both have the
repository's layout.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import shutil
import zipfile
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_BUNDLE = _PACKAGE / "bundle"
_IS_CHECKOUT = not _BUNDLE.is_dir()

ROOT = _PACKAGE.parents[1] if _IS_CHECKOUT else _BUNDLE
SNAKEFILE = ROOT / "workflow/Snakefile"
DEMO = Path("workflow/resources/demo")


def write_requirements(folder: Path) -> None:
    """Write what pip needs to install the same Darkroom elsewhere, without asking an index for it.

    `requirements.lock` pins what it depends on. `darkroom.txt` is Darkroom itself, to be installed with `--no-deps`: the
    checkout, editable, or a wheel of the installed files, which is written beside it.
    """
    shutil.copyfile(ROOT / "requirements.lock", folder / "requirements.lock")
    line = f"--editable {ROOT.as_uri()}" if _IS_CHECKOUT else _write_wheel(folder).as_uri()
    (folder / "darkroom.txt").write_text(f"{line}\n", encoding="utf-8")


def _write_wheel(folder: Path) -> Path:
    """Pack the installed distribution's files again. What pip wrote itself while it installed them is left out."""
    distribution = importlib.metadata.distribution("darkroom")
    info = f"darkroom-{distribution.version}.dist-info"
    files = [file for file in distribution.files or [] if file.suffix != ".pyc" and file.parts[0] in ("darkroom", info)]
    files = [file for file in files if file.name not in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")]
    wheel = folder / f"darkroom-{distribution.version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.write(str(file.locate()), file.as_posix())
        archive.writestr(f"{info}/RECORD", "".join(f"{file.as_posix()},,\n" for file in files) + f"{info}/RECORD,,\n")
    return wheel.resolve()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Write requirements.lock and darkroom.txt, from which pip installs this Darkroom."
    )
    parser.add_argument("folder", type=Path)
    write_requirements(parser.parse_args().folder.resolve())
