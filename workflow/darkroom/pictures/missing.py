"""Why pictures are not there, from what their jobs have logged."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from darkroom.pictures.picture import GalleryPicture


def find_missing(results: Path, pictures: Iterable[GalleryPicture], logs: Path = Path("logs/render")) -> dict[str, str]:
    """By name the reason for each picture whose file isn't there: its log's last line with a code, or that it wasn't rendered."""
    return {each.name: _reason(logs / f"{each.name}.log") for each in pictures if not (results / each.path).exists()}


def _reason(log: Path) -> str:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    return next((line for line in reversed(lines) if line.startswith("E-")), "not rendered yet")
