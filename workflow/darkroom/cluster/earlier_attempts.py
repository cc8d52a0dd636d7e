"""Pictures that earlier attempts of a cluster job finished, kept until the end of the run. Standard library only.

A group of pictures is submitted again as a whole, by Snakemake after a failure or by the scheduler after a lost node,
and Snakemake deletes each picture before it starts its job. So each finished picture gets a second name, a hard link
named by a hash of everything that decides it, from which the next attempt restores it. Without hard links the picture is
rendered again.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from darkroom.pictures.formats import format_of

FOLDER = Path(".snakemake/darkroom/kept")


def keep_picture(picture: Path, kept: Path) -> None:
    """Link a finished picture to its second name, if the file system can."""
    with suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.unlink(missing_ok=True)
        os.link(picture, kept)


def restore_picture(kept: Path, picture: Path) -> bool:
    """Link a kept picture to its path; False if there is none, or only a truncated one."""
    try:
        if not format_of(kept).is_whole(kept):
            kept.unlink()
            return False
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.unlink(missing_ok=True)
        os.link(kept, picture)
    except OSError:
        return False
    return True
