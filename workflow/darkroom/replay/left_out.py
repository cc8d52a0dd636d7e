"""Finds the whole request of a picture whose prompts were left out: in a manifest, by the SHA-256 that the picture states of it.

The manifest has the prompts from the sheets, and lies in the results folder that the picture is in, or in an exported sheet.
What it says counts only if its SHA-256 is the picture's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from darkroom.errors import DarkroomError
from darkroom.pictures.embedded import digest_request
from darkroom.pictures.records import MANIFEST
from darkroom.request.render_request import RenderRequest
from darkroom.run.results import RESULTS

FindRequest = Callable[[str], RenderRequest | None]
_HIGHEST = 4
"""How many folders above a picture its manifest may lie."""


def requests_near(picture: Path) -> FindRequest:
    """Finds requests in the manifests of the folders that the picture is in, then in the project's."""
    folders = [*list(picture.absolute().parents)[:_HIGHEST], RESULTS]

    def find(digest: str) -> RenderRequest | None:
        found = (_read_file(folder / MANIFEST).get(digest) for folder in folders)
        return next((request for request in found if request is not None), None)

    return find


def read_requests(manifest: bytes) -> Mapping[str, RenderRequest]:
    """The requests of a manifest by their SHA-256; without those that can't be read."""
    found = {}
    for line in manifest.splitlines():
        try:
            request = RenderRequest.model_validate(json.loads(line)["request"])
        except (ValueError, KeyError, TypeError, RecursionError, DarkroomError):
            continue
        found[digest_request(request)] = request
    return found


@cache
def _read_file(path: Path) -> Mapping[str, RenderRequest]:
    try:
        return read_requests(path.read_bytes())
    except OSError:
        return {}
