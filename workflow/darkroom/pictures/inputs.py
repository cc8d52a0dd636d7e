"""Pictures that people give: the files that stages begin with, and masks. Checked and hashed while a run is planned.

A file is read once: what was found is remembered by its size and modification time, as for every other file that planning
looks at. Nothing here depends on Darkroom having made the picture.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from darkroom.base.files import read_json_object, write_bytes
from darkroom.errors import DiskError, ImageError
from darkroom.pictures.formats import PNG, recognize
from darkroom.pictures.png import MAX_PIXELS, read_picture

MEMORY = Path(".snakemake/darkroom/inputs.json")
MAX_BYTES = 256 * 2**20
_ORIENTATION, _ON_ITS_SIDE = 0x0112, (5, 6, 7, 8)
_GIVE = "give a PNG, JPEG, WebP or AVIF with one picture"


@dataclass(frozen=True, slots=True)
class InputPicture:
    """A whole picture file: the SHA256 of its bytes, width and height in pixels as it is looked at, and its metadata.

    `texts` are the infotext as `parameters` and Darkroom's own text as `darkroom`, as far as it has them.
    """

    path: str
    sha256: str
    width: int
    height: int
    texts: Mapping[str, str]


class InputPictures:
    """Reads input pictures. `memory` is the file that remembers them; losing it costs time only."""

    def __init__(self, memory: Path = MEMORY) -> None:
        self._memory = memory.absolute()
        self._known: dict[str, Any] | None = None
        self._found: dict[str, Any] = {}

    def read(self, path: Path | str) -> InputPicture:
        """The picture at `path`. Raises ImageError (E-IMAGE) for one that is missing, broken, animated or too large."""
        name = str(Path(path).absolute())
        stamp = _stamp(path)
        entry = self._found.get(name) or self._remembered().get(name)
        if not (isinstance(entry, dict) and entry.get("stamp") == stamp):
            entry = {"stamp": stamp, **_inspect(path)}
        self._found[name] = entry
        return InputPicture(str(path), **{key: value for key, value in entry.items() if key != "stamp"})

    def save(self) -> None:
        """Remember what was read; where the disk refuses, it is read again."""
        if self._found and (found := self._remembered() | self._found) != self._known:
            with suppress(DiskError):
                write_bytes(self._memory, json.dumps(found, ensure_ascii=False).encode())

    def _remembered(self) -> dict[str, Any]:
        if self._known is None:
            self._known = read_json_object(self._memory)
        return self._known


def _stamp(path: Path | str) -> list[int]:
    """Size in bytes and modification time in ns."""
    try:
        status = Path(path).stat()
    except OSError as error:
        why = "does not exist" if isinstance(error, FileNotFoundError) else error.strerror or "can't be read"
        raise ImageError("picture", path, why, "check the path") from None
    if status.st_size > MAX_BYTES:
        why = f"has {status.st_size:,} bytes; at most {MAX_BYTES:,} are read"
        raise ImageError("picture", path, why, "save it smaller")
    return [status.st_size, status.st_mtime_ns]


def _inspect(path: Path | str) -> dict[str, Any]:
    """All about a picture but its path and stamp; its bytes are read once, and all checked."""
    data = read_picture(path)
    try:
        texts = _texts(data, path)
    except ImageError as error:
        raise ImageError("picture", path, error.why, _GIVE) from None
    width, height = _size(data, path)
    kept: dict[str, str] = {key: texts[key] for key in ("parameters", "darkroom") if key in texts}
    picture = InputPicture(str(path), hashlib.sha256(data).hexdigest(), width, height, kept)
    return {key: value for key, value in asdict(picture).items() if key != "path"}


def _texts(data: bytes, path: Path | str) -> dict[str, str]:
    """The metadata by keyword; a PNG is checked as well."""
    kind = recognize(data, path)
    if kind is PNG:
        kind.check(data, path)
    return kind.read_text(data, path)


def _size(data: bytes, path: Path | str) -> tuple[int, int]:
    """Width and height after the turn that EXIF asks for. Raises ImageError (E-IMAGE) for what can't be decoded."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=["PNG", "JPEG", "WEBP", "AVIF"]) as image:
            if getattr(image, "n_frames", 1) > 1:
                raise ImageError("picture", path, "is animated", _GIVE)
            width, height = image.size
            if width * height > MAX_PIXELS:
                why = f"has {width} x {height} pixels; at most {MAX_PIXELS:,} are possible"
                raise ImageError("picture", path, why, "save it smaller")
            is_turned = image.getexif().get(_ORIENTATION) in _ON_ITS_SIDE
            image.load()
    except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError) as error:
        raise ImageError("picture", path, f"can't be read ({error})", _GIVE) from None
    return (height, width) if is_turned else (width, height)
