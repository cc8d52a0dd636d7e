"""Pictures that results/ already holds: found by their request and the model's hash, checked before they are given out.

The run's manifest says which request made which file. A picture is the one asked for if its own metadata says so too:
the same request, model and files of LoRAs, embeddings and VAE.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from darkroom.assets import used_assets
from darkroom.engine.library import Library
from darkroom.errors import DarkroomError
from darkroom.outputs.manifest import MANIFEST
from darkroom.outputs.png import text_of_png
from darkroom.request import RenderRequest
from darkroom.serve.models import Model


class FinishedPictures:
    """Looks pictures up in a results folder; its manifest is read again when it changes."""

    def __init__(self, results: Path, library: Library) -> None:
        self._results = results
        self._library = library
        self._stamp: tuple[int, int] | None = None
        self._files: dict[tuple[str, str], tuple[str, str]] = {}

    def find(self, request: RenderRequest, model: Model) -> bytes | None:
        """The PNG of a settled request, or None where there is none that is surely the same."""
        if model.model_hash is None:
            return None
        self._refresh()
        known = self._files.get((model.model_hash, request.to_json()))
        if known is None:
            return None
        path, sha256 = known
        try:
            png = (self._results / path).read_bytes()
            is_same = hashlib.sha256(png).hexdigest() == sha256 and self._is_same(png, request, model)
        except (OSError, DarkroomError, ValueError, KeyError, TypeError):
            return None
        return png if is_same else None

    def _is_same(self, png: bytes, request: RenderRequest, model: Model) -> bool:
        made = json.loads(text_of_png(png, "results")["darkroom"])
        wanted = {(kind, name): self._library.find(kind, name).sha256 for kind, name in used_assets(request)}
        used = {(asset["kind"], asset["name"]): asset["sha256"] for asset in made["assets"]}
        return made["model_hash"] == model.model_hash and used == wanted and _read(made["request"]) == request

    def _refresh(self) -> None:
        path = self._results / MANIFEST
        try:
            status = path.stat()
            stamp = (status.st_mtime_ns, status.st_size)
            if stamp == self._stamp:
                return
            entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            self._files = {
                (entry["model_hash"], _read(entry["request"]).to_json()): (entry["file"], entry["sha256"])
                for entry in entries
                if entry["model_hash"] and _is_inside(entry["file"])
            }
            self._stamp = stamp
        except (OSError, DarkroomError, ValueError, KeyError, TypeError, AttributeError):
            self._files, self._stamp = {}, None


def _read(request: dict[str, Any]) -> RenderRequest:
    return RenderRequest.from_settings(request)


def _is_inside(file: str) -> bool:
    """Whether a path of the manifest stays below the results folder."""
    path = Path(file)
    return not path.is_absolute() and ".." not in path.parts
