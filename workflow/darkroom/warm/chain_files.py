"""The files that a picture of stages is made from, read for the engine and checked. Standard library only.

A request names a picture by the SHA-256 of its file's bytes, and a job has the path: what lies there is read once, and is
what was planned or an error.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from darkroom.errors import ImageError, LimitError
from darkroom.serve.frames import BEFORE, BEFORE_LATENT, MAX_FILES_BYTES

TYPE_CHECKING = False  # as in typing, whose import every picture would pay for
if TYPE_CHECKING:
    from collections.abc import Mapping

_PLAN_AGAIN = "put the picture back, or run snakemake again, which plans with what is there"
_MAKE_AGAIN = "run the same command again: it makes what is missing first"


class Chain:
    """A chain's files by their paths: `pictures` by the SHA-256 that the request has, `before` the picture after
    `stages_done` stages, `before_latent` its latents, for a next stage that needs them. `checkpoint` is the name of the
    picture's own, where the next stage is another one's.
    """

    def __init__(
        self,
        pictures: Mapping[str, Path],
        before: Path | None = None,
        before_latent: Path | None = None,
        stages_done: int = 0,
        checkpoint: str | None = None,
    ) -> None:
        self.pictures = pictures
        self.before = before
        self.before_latent = before_latent
        self.stages_done = stages_done
        self.checkpoint = checkpoint

    def read(self) -> dict[str, bytes]:
        """The files' bytes by the names that the engine knows. Raises ImageError (E-IMAGE), LimitError (E-LIMIT)."""
        files = {sha256: _read_named(path, sha256) for sha256, path in self.pictures.items()}
        for name, path in ((BEFORE, self.before), (BEFORE_LATENT, self.before_latent)):
            if path is not None:
                files[name] = _read(path, _MAKE_AGAIN)
        size = sum(map(len, files.values()))
        if size > MAX_FILES_BYTES:
            why = f"have {size:,} bytes together, and an engine takes {MAX_FILES_BYTES:,}"
            raise LimitError("pictures", None, why, "save the largest as JPEG, or make it smaller")
        return files


def _read_named(path: Path, sha256: str) -> bytes:
    data = _read(path, _PLAN_AGAIN)
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        why = f"is another one than was planned with: its SHA-256 is {found[:12]}…, not {sha256[:12]}…"
        raise ImageError("picture", path, why, _PLAN_AGAIN)
    return data


def _read(path: Path, hint: str) -> bytes:
    try:
        if path.stat().st_size > MAX_FILES_BYTES:
            raise LimitError("picture", path, f"has more than {MAX_FILES_BYTES:,} bytes", "make it smaller")
        return path.read_bytes()
    except FileNotFoundError:
        raise ImageError("picture", path, "is missing", hint) from None
    except OSError as error:
        raise ImageError("picture", path, error.strerror or "can't be read", "check the file") from None
