"""Whether a volume has room for what is about to be downloaded."""

from __future__ import annotations

import shutil
from pathlib import Path

from darkroom.errors import DiskError
from darkroom.sources.progress import in_bytes


def check_room(folder: Path, source: str, need: int | None) -> None:
    """Raise DiskError (E-DISK) if fewer than `need` bytes are free where `folder` lies."""
    free = shutil.disk_usage(folder).free
    if need is not None and need > free:
        why = f"{in_bytes(need)} are needed for {source}, {in_bytes(free)} are free"
        raise DiskError("no room to download to", folder, why, "free some disk space and run the same command again")
