"""Pictures that need no engine: those in results/, and those kept for an hour behind links.

The manifest of results/ says which request made which file. A file is used if its own metadata agrees: the same request,
model, and files of LoRAs, embeddings and VAE.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from darkroom.base.files import Stamp, file_stamp
from darkroom.checkpoint.audit import read_origin
from darkroom.config_output import WHOLE_METADATA, MetadataConfig
from darkroom.engine.chain_models import CHECKPOINTS, find_checkpoint
from darkroom.engine.library import Library
from darkroom.errors import DarkroomError
from darkroom.pictures.embedded import digest_request, left_out, limit_png
from darkroom.pictures.png import read_warnings, text_of_png
from darkroom.pictures.records import MANIFEST
from darkroom.request.assets import used_assets
from darkroom.request.render_request import RenderRequest
from darkroom.serve.answers import Rendered
from darkroom.serve.catalog import Model

LIFETIME_S = 3600.0
"""As long as OpenAI keeps the pictures behind its links."""
MAX_BYTES = 256 * 2**20


class LinkedPictures:
    """Pictures by name; the oldest are dropped when all together have more than `MAX_BYTES`."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._pictures: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        self._bytes = 0

    def add(self, data: bytes, suffix: str = "png") -> str:
        """Keep a picture's bytes; returns its name, which ends in `.` and the suffix."""
        name = f"{secrets.token_urlsafe(24)}.{suffix}"
        self._pictures[name] = (self._now() + LIFETIME_S, data)
        self._bytes += len(data)
        while self._bytes > MAX_BYTES and len(self._pictures) > 1:
            self._drop_oldest()
        return name

    def get(self, name: str) -> bytes | None:
        """The picture of that name, or None if there is none (any more)."""
        while self._pictures and next(iter(self._pictures.values()))[0] <= self._now():
            self._drop_oldest()
        found = self._pictures.get(name)
        return None if found is None else found[1]

    def _drop_oldest(self) -> None:
        _, (_, data) = self._pictures.popitem(last=False)
        self._bytes -= len(data)


class ResultCache:
    """Looks pictures up in a results folder; reads its manifest again when that has changed.

    `metadata` says what is in the pictures that are given out, whatever the files hold.
    """

    def __init__(self, results: Path, library: Library, metadata: MetadataConfig = WHOLE_METADATA) -> None:
        self._metadata = metadata
        self._results = results
        self._library = library
        self._stamp: Stamp | None = None
        self._files: dict[tuple[str, str], tuple[str, str]] = {}

    def find(self, request: RenderRequest, model: Model) -> Rendered | None:
        """The picture of a settled request, or None if there is none that is certainly the same."""
        if model.model_hash is None:
            return None
        self._refresh()
        known = self._files.get((model.model_hash, request.to_json()))
        if known is None:
            return None
        path, sha256 = known
        try:
            png = (self._results / path).read_bytes()
            if hashlib.sha256(png).hexdigest() != sha256:
                return None
            return self._read(png, request, model)
        except (OSError, DarkroomError, ValueError, KeyError, TypeError):
            return None

    def _read(self, png: bytes, request: RenderRequest, model: Model) -> Rendered | None:
        texts = text_of_png(png, "results")
        made = json.loads(texts["darkroom"])
        wanted = {(kind, name): self._library.find(kind, name).sha256 for kind, name in used_assets(request)}
        used = {(asset["kind"], asset["name"]): asset["sha256"] for asset in made["assets"]}
        origins = {asset["name"]: asset.get("origin") for asset in made["assets"] if asset["kind"] == CHECKPOINTS}
        for name in set(filter(None, request.checkpoints)):
            other = find_checkpoint(self._library, name)
            if origins.get(name) not in (None, other.origin):
                return None
            wanted[CHECKPOINTS, name] = other.sha256
        digest = left_out(texts)
        if digest is not None and self._metadata.prompt:
            return None  # a picture with its prompts is wanted
        is_made_of = digest == digest_request(request) if digest else _as_request(made["request"]) == request
        origin = read_origin(model.files.model_dir)  # one checkpoint may be converted in several ways
        is_of_model = made["model_hash"] == model.model_hash and made.get("origin", origin) == origin
        if not (is_of_model and used == wanted and is_made_of):
            return None
        png, warnings = limit_png(png, self._metadata, "results"), tuple(read_warnings(texts))
        return Rendered(png, request, texts["parameters"], {}, warnings, model.name, model.model_hash, is_cached=True)

    def _refresh(self) -> None:
        path = self._results / MANIFEST
        try:
            stamp = file_stamp(path.stat())
            if stamp == self._stamp:
                return
            entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            self._files = {
                (entry["model_hash"], _as_request(entry["request"]).to_json()): (entry["file"], entry["sha256"])
                for entry in entries
                if entry["model_hash"] and _is_inside(entry["file"])
            }
            self._stamp = stamp
        except (OSError, DarkroomError, ValueError, KeyError, TypeError, AttributeError):
            self._files, self._stamp = {}, None


def _as_request(request: dict[str, Any]) -> RenderRequest:
    return RenderRequest.from_settings(request)


def _is_inside(file: str) -> bool:
    """Whether a path in the manifest stays inside the results folder."""
    path = Path(file)
    return not path.is_absolute() and ".." not in path.parts
