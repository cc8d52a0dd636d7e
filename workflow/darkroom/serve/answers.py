"""What is given back for a rendered picture: the PNG with its metadata, its facts as plain data, or a coded error."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any, Protocol

from darkroom import __version__
from darkroom.errors import DarkroomError
from darkroom.request.render_request import RenderRequest

logger = logging.getLogger(__name__)


class Named(Protocol):
    """A model's name and AutoV2 hash, as a `darkroom.engine.Engine` has them."""

    @property
    def name(self) -> str: ...
    @property
    def model_hash(self) -> str | None: ...


class Rendered(Protocol):
    """What `darkroom.engine.RenderedImage` is: a PIL picture, its request, and `darkroom.engine.RenderFacts`."""

    @property
    def image(self) -> Any: ...
    @property
    def request(self) -> RenderRequest: ...
    @property
    def facts(self) -> Any: ...


def encode_answer(engine: Named, picture: Rendered) -> bytes:
    """The picture as PNG bytes that say how it was made; equal pictures give equal bytes."""
    from darkroom.pictures.infotext import write_infotext
    from darkroom.pictures.png import encode_png, library_versions

    model, model_hash, used = engine.name, engine.model_hash, picture.facts
    infotext = write_infotext(
        picture.request, model=model, model_hash=model_hash, version=__version__, assets=used.assets
    )
    facts = {
        "model": model,
        "model_hash": model_hash,
        "assets": [asdict(asset) for asset in used.assets],
        "warnings": list(used.warnings),
        "versions": library_versions(),
    }
    return encode_png(picture.image, infotext, picture.request.to_json(), facts=facts)


def collect_facts(picture: Rendered) -> dict[str, Any]:
    """How the picture was made, as JSON-ready data without any prompt text (for `darkroom.warm.summary`)."""
    kept = {"sampler", "schedule", "steps", "width", "height", "cfg_scale", "seed"}
    return {**asdict(picture.facts), **picture.request.model_dump(include=kept)}


def as_error(error: BaseException) -> DarkroomError:
    """The error to show for whatever went wrong; anything without a code is logged with its traceback."""
    if isinstance(error, DarkroomError):
        return error
    logger.error("unexpected error", exc_info=error)
    why = f"{type(error).__name__}: {error}"
    return DarkroomError("unexpected error in the engine", None, why, "read the engine's log")
