"""Darkroom's own pictures: all that is needed to make one again, read from its metadata.

The metadata come from anybody. What isn't of the kind that Darkroom writes is an error where it decides the picture, and
counts as not stated elsewhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from darkroom.engine.chain_models import CHECKPOINTS
from darkroom.errors import DarkroomError, ImageError
from darkroom.pictures.infotext import DIGEST
from darkroom.pictures.made_by import MadeBy, made_by_of
from darkroom.pictures.png import STUDY
from darkroom.pictures.records import MANIFEST
from darkroom.replay.left_out import FindRequest
from darkroom.request.assets import used_assets
from darkroom.request.render_request import RenderRequest

_GIVE = "give a picture as it was made: programs that edit or send pictures leave its metadata out"
_HASH = re.compile(r"[0-9a-f]{10,64}")
_OF_NOTHING = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
"""The SHA-256 of no bytes, which some tools wrote for files that they could not read."""


@dataclass(frozen=True, slots=True)
class WantedModel:
    """The model of a picture: its `name`, its AutoV2 hash, and what it was converted from and how, as far as known.

    `origin` has the fields `darkroom.checkpoint.audit.ORIGIN`, and is empty for pictures of earlier versions.
    """

    name: str
    autov2: str | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The name with what is known of its hash: `demo [2f4e0a91c3]`."""
        known = usable_hash(self.origin.get("source_sha256")) or self.autov2
        return f"{self.name} [{known}]" if known else self.name


@dataclass(frozen=True, slots=True)
class WantedAsset:
    """A VAE, LoRA, embedding or upscaler of a picture: its kind (of `ASSETS`), name, and SHA-256 if the picture states it."""

    kind: str
    name: str
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Recipe:
    """What makes a picture again.

    `steps` are what was done to the finished picture (`darkroom upscale`), `study` is its cell of a study as JSON. `made_by`
    and `revision` are for a comparison. `is_lossy` says that its file doesn't hold the pixels that were made.
    `tool` made it, empty for Darkroom. `checkpoints` are those of its stages, in addition to its own. Without `has_prompts`
    its file doesn't hold its prompts, which are the request's.
    """

    path: Path
    request: RenderRequest
    model: WantedModel
    assets: tuple[WantedAsset, ...]
    steps: tuple[Mapping[str, Any], ...] = ()
    study: str | None = None
    made_by: MadeBy = field(default_factory=MadeBy)
    revision: tuple[int, ...] | None = None
    is_lossy: bool = False
    tool: str = ""
    checkpoints: tuple[WantedModel, ...] = ()
    has_prompts: bool = True


def read_own(
    texts: Mapping[str, str], path: Path, find_request: FindRequest, *, is_lossy: bool = False
) -> Recipe | None:
    """What makes the picture with these texts again; None if Darkroom hasn't made it, or if its metadata have no request.

    `find_request` knows the requests of pictures whose prompts were left out, by the SHA-256 that these state.
    Raises ImageError (E-IMAGE) with `path` for metadata of Darkroom that can't be read.
    """
    made = _parse(texts, path)
    if "request" not in made:
        return None
    digest = made.get(DIGEST)
    known = find_request(digest) if isinstance(digest, str) else None
    if digest is not None and known is None:
        why = f"was written without its prompts, and no {MANIFEST} above it has them"
        raise ImageError(
            "picture", path, why, "name it where it lies in results/, or make it from its sheet: `snakemake`"
        )
    try:
        request = known or RenderRequest.model_validate(made["request"])
        wanted = used_assets(request)
    except (ValueError, TypeError, RecursionError, DarkroomError) as error:
        why = (
            "has settings that can't be read" if not isinstance(error, DarkroomError) else f"{error.what}: {error.why}"
        )
        hint = "it may be of a later version of Darkroom: see `darkroom show`"
        raise ImageError("picture", path, why, hint) from None
    steps = _read_steps(made, path)
    wanted += [("upscalers", str(step["upscaler"])) for step in steps if step.get("sha256")]
    stated = _stated_hashes(made, steps)
    return Recipe(
        path,
        request,
        _read_model(made),
        tuple(WantedAsset(kind, name, stated.get((kind, name))) for kind, name in dict.fromkeys(wanted)),
        steps,
        texts.get(STUDY),
        made_by_of(made.get("versions"), made.get("made_on")),
        _read_revision(made.get("revision")),
        is_lossy=is_lossy,
        checkpoints=_read_checkpoints(made, request),
        has_prompts=digest is None,
    )


def usable_hash(value: object) -> str | None:
    """A hash in lower case that tells one file from others: at least 10 digits, and not that of no bytes; else None."""
    text = str(value or "").strip().lower()
    return text if _HASH.fullmatch(text) and not _OF_NOTHING.startswith(text) else None


def _parse(texts: Mapping[str, str], path: Path) -> dict[str, Any]:
    """The JSON that Darkroom writes into its pictures; empty without it."""
    try:
        made = json.loads(texts.get("darkroom") or "{}")
    except (ValueError, RecursionError):
        raise ImageError("picture", path, "has metadata of Darkroom that can't be read", _GIVE) from None
    return made if isinstance(made, dict) else {}


def _read_model(made: Mapping[str, Any]) -> WantedModel:
    origin = made.get("origin")
    return WantedModel(
        str(made.get("model") or ""), usable_hash(made.get("model_hash")), origin if isinstance(origin, dict) else {}
    )


def _read_checkpoints(made: Mapping[str, Any], request: RenderRequest) -> tuple[WantedModel, ...]:
    """The checkpoints of stages. Pictures of earlier versions state their hashes only, and not how they were converted."""
    found = []
    for name in dict.fromkeys(filter(None, request.checkpoints)):
        stated = next(
            (each for each in _assets(made) if (each.get("kind"), each.get("name")) == (CHECKPOINTS, name)), {}
        )
        origin = stated.get("origin")
        if not isinstance(origin, dict) or not origin:
            origin = {"source_sha256": sha256} if (sha256 := usable_hash(stated.get("sha256"))) else {}
        found.append(WantedModel(name, usable_hash(stated.get("short")), origin))
    return tuple(found)


def _assets(made: Mapping[str, Any]) -> list[dict[str, Any]]:
    listed = made.get("assets")
    return [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []


def _read_steps(made: Mapping[str, Any], path: Path) -> tuple[Mapping[str, Any], ...]:
    found = made.get("postprocess", [])
    for step in found if isinstance(found, list) else [None]:
        size = step.get("to") if isinstance(step, dict) else None
        is_size = isinstance(size, list) and len(size) == 2 and all(isinstance(edge, int) for edge in size)
        if not (isinstance(step, dict) and is_size and isinstance(step.get("upscaler"), str)):
            raise ImageError("picture", path, "was changed after it was made, in a way that it doesn't say", _GIVE)
    return tuple(found)


def _stated_hashes(made: Mapping[str, Any], steps: tuple[Mapping[str, Any], ...]) -> dict[tuple[str, str], str]:
    """The SHA-256 of assets by kind and name, of those that are usable."""
    entries = _assets(made)
    entries += [{"kind": "upscalers", "name": step["upscaler"], "sha256": step.get("sha256")} for step in steps]
    found = {(str(each.get("kind")), str(each.get("name"))): usable_hash(each.get("sha256")) for each in entries}
    return {key: sha256 for key, sha256 in found.items() if sha256 and len(sha256) == 64}


def _read_revision(value: Any) -> tuple[int, ...] | None:
    is_list = isinstance(value, list) and all(isinstance(each, int) for each in value)
    return tuple(value) if is_list and value else None
