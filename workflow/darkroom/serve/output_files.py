"""The files that clients get of finished pictures: in the format that a request names, by the formats of `pictures`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from darkroom.base.text import did_you_mean, shorten
from darkroom.errors import LimitError, RequestError, UnsupportedError
from darkroom.pictures.formats import FORMATS, PNG, check_can_write, convert_png

if TYPE_CHECKING:
    from darkroom.pictures.formats import PictureFormat

_HIGHEST = 100


@dataclass(frozen=True, slots=True)
class OutputFile:
    """The kind of file that a client gets; `quality` is the encoder's, None for the format's usual one.

    `field` is the client's name of the format, for errors.
    """

    kind: PictureFormat = PNG
    quality: int | None = None
    field: str = "request: format"

    async def encode(self, png: bytes) -> bytes:
        """The file of a finished PNG, without holding up other requests. Raises LimitError (E-LIMIT)."""
        if self.kind is PNG:
            return png
        try:
            return await asyncio.to_thread(convert_png, png, self.kind, self.quality)
        except LimitError as error:
            raise LimitError(self.field, error.value, error.why, error.hint) from None

    async def encode_all(self, pngs: Iterable[bytes]) -> list[bytes]:
        """The files of finished PNGs, one after the other."""
        return [await self.encode(png) for png in pngs]


PNG_FILE = OutputFile()


def read_output(name: Any, quality: Any, names: tuple[str, str], where: str = "request", least: int = 1) -> OutputFile:
    """The kind of file for a format's name, as far as it isn't None; `names` are the client's of format and quality.

    `jpg` is JPEG. Raises RequestError (E-REQUEST) for an unknown format or a quality out of range, UnsupportedError
    (E-UNSUPPORTED) for a quality of a PNG and for a format that this machine's Pillow lacks.
    """
    of_format, of_quality = (f"{where}: {each}" for each in names)
    key = "png" if name is None else str(name).lower()
    kind = FORMATS.get({"jpg": "jpeg"}.get(key, key))
    if kind is None:
        hint = did_you_mean(key, FORMATS, f"send one of {', '.join(FORMATS)}", most=1)
        raise RequestError(of_format, shorten(name), "is no format that pictures are sent in", hint)
    if quality is not None:
        if kind is PNG:
            hint = f"send {names[0]} as webp, jpeg or avif, or leave {names[1]} out"
            raise UnsupportedError(of_quality, shorten(quality), "a PNG loses nothing", hint)
        if isinstance(quality, bool) or not isinstance(quality, int) or not least <= quality <= _HIGHEST:
            why = f"is no whole number from {least} to {_HIGHEST}"
            raise RequestError(of_quality, shorten(quality), why, f"give {names[1]} another value")
    check_can_write(kind)
    return OutputFile(kind, quality, of_format)
