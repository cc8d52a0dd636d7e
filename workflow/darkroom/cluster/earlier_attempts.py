"""Pictures that earlier attempts of a cluster's job finished, kept until the run is over. Standard library only.

A group of pictures that is submitted again, by Snakemake after a failure or by the scheduler after it lost a node,
runs as a whole, and Snakemake deletes each picture before it starts its job. So each finished picture gets a second
name, a hard link, that says what it is of; the next attempt takes it from there. Where there are no hard links, it is
rendered again.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from darkroom.pictures.formats import format_of

FOLDER = Path(".snakemake/darkroom/kept")


def keep(picture: Path, kept: Path) -> None:
    """Give a finished picture its second name."""
    with suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.unlink(missing_ok=True)
        os.link(picture, kept)


def bring_back(kept: Path, picture: Path) -> bool:
    """Put a kept picture in its place, whole; whether there was one."""
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
