"""The pictures on a page as it was drawn before: those that have not changed are copied from there, not decoded again.

The page is a PNG, a contact sheet or a grid. In a private chunk it has JSON: for each picture on it 16 hex digits, which stand
for the picture's bytes, for how it was fitted and for the Pillow that did it, and the picture's place in pixels.
"""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from threading import Lock

from PIL import Image, __version__
from PIL.PngImagePlugin import PngInfo

from darkroom.errors import ImageError
from darkroom.pictures.png import check_png, read_picture

_CHUNK = b"drKC"  # ancillary, private, not to be kept by who changes the pixels: PNG specification, 5.4
_MOST_JSON = 2**24

Box = tuple[int, int, int, int]
"""Left edge, top, width and height in pixels."""


class DrawnCells:
    """Where pictures stand on the page at `path`, as long as it is the page before, and on the one that is drawn now.

    Nothing stands on a page that is missing, damaged, or without the chunk. Threads may share it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = Lock()
        self._boxes: dict[str, Box] = {}

    def copy(self, key: str) -> Image.Image | None:
        """The picture with this key as it was drawn before, in RGB; None if it was not."""
        with self._lock:
            before, boxes = self._before
            if before is None or key not in boxes:
                return None
            left, top, width, height = boxes[key]
            return before.crop((left, top, left + width, top + height))

    def add(self, key: str, box: Box) -> None:
        """Say where a picture stands on the page that is drawn now. Of equal pictures the first place counts, whichever is drawn first."""
        with self._lock:
            self._boxes[key] = min(box, self._boxes.get(key, box))

    def write(self, info: PngInfo) -> None:
        """Add the chunk for the page that is drawn now."""
        info.add(*cells_chunk(self._boxes))

    @cached_property
    def _before(self) -> tuple[Image.Image | None, dict[str, Box]]:
        try:
            data = read_picture(self._path)
            check_png(data, self._path)
            page = Image.open(io.BytesIO(data), formats=["PNG"])
            packed = next((body for kind, body, *_ in getattr(page, "private_chunks", ()) if kind == _CHUNK), None)
            if packed is None:
                return None, {}
            text = zlib.decompressobj().decompress(packed, _MOST_JSON)
            boxes = {str(key): tuple(map(int, box)) for key, box in json.loads(text).items()}
            return page.convert("RGB"), {key: box for key, box in boxes.items() if len(box) == 4}
        except (ImageError, OSError, SyntaxError, ValueError, TypeError, AttributeError, zlib.error):
            return None, {}


def cell_key(sha256: str, *fitted: float) -> str:
    """What a picture on a page is known by: its bytes' hash, and the numbers that decide how it is fitted."""
    return hashlib.sha256(" ".join(map(str, (sha256, *fitted, __version__))).encode()).hexdigest()[:16]


def cells_chunk(boxes: Mapping[str, Box]) -> tuple[bytes, bytes]:
    """Kind and body of the chunk that says where pictures stand on a page, by their keys."""
    return _CHUNK, zlib.compress(json.dumps(dict(sorted(boxes.items())), separators=(",", ":")).encode(), 1)
