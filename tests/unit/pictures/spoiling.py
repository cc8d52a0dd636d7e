"""Pictures that nobody may read any more."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from darkroom.pictures.picture import GalleryPicture


def spoil(results: Path, pictures: Iterable[GalleryPicture]) -> None:
    """Make them something else of the same size and time: whoever reads one fails."""
    for picture in pictures:
        path = results / picture.path
        state = path.stat()
        path.write_bytes(bytes(state.st_size))
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
