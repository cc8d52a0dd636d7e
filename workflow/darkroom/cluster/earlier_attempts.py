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


def keep_picture(picture: Path, kept: Path, latents: Path | None = None) -> None:
    """Link a finished picture to its second name, if the file system can; first its latents, if it has any."""
    names = ([] if latents is None else [(latents, _of_latents(kept))]) + [(picture, kept)]
    with suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        for path, name in names:
            name.unlink(missing_ok=True)
            os.link(path, name)


def restore_picture(kept: Path, picture: Path, latents: Path | None = None) -> bool:
    """Link a kept picture and its latents to their paths; False if one is missing, or the picture is truncated."""
    try:
        if not format_of(kept).is_whole(kept):
            kept.unlink()
            return False
        for name, path in [(kept, picture)] + ([] if latents is None else [(_of_latents(kept), latents)]):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            os.link(name, path)
    except OSError:
        return False
    return True


def _of_latents(kept: Path) -> Path:
    return kept.with_suffix(".latent.safetensors")
