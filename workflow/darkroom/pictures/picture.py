"""GalleryPicture: one finished picture as the contact sheet, the gallery and the manifest know it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Any


@dataclass(frozen=True, slots=True)
class GalleryPicture:
    """Where a picture belongs and where it lies.

    `path` is relative to the results folder, with forward slashes; `request` is the RenderRequest as a dict.
    """

    sheet: str
    checkpoint: str
    id: str
    seed: int
    path: str
    request: dict[str, Any]

    @property
    def name(self) -> str:
        """`SHEET/CHECKPOINT/ID-SEED`: unique within the results folder, whatever the file is called."""
        return f"{self.sheet}/{self.checkpoint}/{self.id}-{self.seed}"


def group_pictures(pictures: list[GalleryPicture]) -> list[tuple[str, str, list[GalleryPicture]]]:
    """(sheet, checkpoint, its pictures), in the order in which each pair first appears."""
    pairs = {(p.sheet, p.checkpoint): place for place, p in reversed(list(enumerate(pictures)))}
    ordered = sorted(pictures, key=lambda p: pairs[p.sheet, p.checkpoint])
    return [
        (sheet, checkpoint, list(members))
        for (sheet, checkpoint), members in groupby(ordered, key=lambda p: (p.sheet, p.checkpoint))
    ]


def shorten_middle(text: str, limit: int) -> str:
    """At most `limit` characters on one line: prompts of a sweep differ at their end, so the middle goes first."""
    text = " ".join(text.split())
    if len(text) <= limit:
        return text
    room = limit - 3
    if room < 2:
        return "…"[:limit]
    head, tail = text[: room * 2 // 5], text[-(room - room * 2 // 5) :]
    head, tail = head.rpartition(" ")[0] or head, tail.partition(" ")[2] or tail
    return f"{head.rstrip(' ,')} … {tail}"
