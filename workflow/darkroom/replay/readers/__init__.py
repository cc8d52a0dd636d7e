"""The readers of other tools' pictures. A new one is a module with a Reader and a line in READERS.

Takes a picture's texts. Gives a ForeignPicture: settings, models, and what was not used.
Never decides by a file's name, and never reads a text that another tool's reader has claimed.
"""

from __future__ import annotations

from pathlib import Path

from darkroom.replay.foreign import ForeignPicture, Reader, complete
from darkroom.replay.picture_texts import PictureTexts, read_picture_texts
from darkroom.replay.readers.comfyui import COMFYUI
from darkroom.replay.readers.fooocus import FOOOCUS
from darkroom.replay.readers.invokeai import INVOKEAI
from darkroom.replay.readers.novelai import NOVELAI
from darkroom.replay.readers.swarmui import SWARMUI
from darkroom.replay.readers.webui import WEBUI

READERS: tuple[Reader, ...] = (SWARMUI, FOOOCUS, INVOKEAI, NOVELAI, WEBUI, COMFYUI)
"""In the order in which they are asked: a text that two could read belongs to the first."""


def read_foreign(path: Path | str) -> ForeignPicture | None:
    """What a picture's metadata says; None if it has none that a tool here is known to write.

    Raises ImageError (E-IMAGE) for a file that is damaged or no picture, and for metadata that can't be understood.
    """
    return read_texts(read_picture_texts(path))


def read_texts(found: PictureTexts) -> ForeignPicture | None:
    """As `read_foreign`, of texts that have been read already."""
    for reader in READERS:
        if reader.detect(found):
            return complete(reader.read(found), found.size, found.path)
    return None
