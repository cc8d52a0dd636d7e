"""What an engine gives back: a rendered picture, which every interface hands on as it is, or an error with a code."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from darkroom import __version__
from darkroom.base.logs import describe_exception
from darkroom.config_output import WHOLE_METADATA, MetadataConfig
from darkroom.errors import DarkroomError
from darkroom.request.render_request import RenderRequest

if TYPE_CHECKING:
    from darkroom.engine import RenderedImage

logger = logging.getLogger(__name__)

_SETTINGS = {"sampler", "schedule", "steps", "width", "height", "cfg_scale", "seed"}
_TIMED = ("encode", "denoise", "decode", "total")


@dataclass(frozen=True, slots=True)
class Rendered:
    """A finished picture and all that is known about it, so that no interface has to read its PNG again.

    `png` holds the infotext and the request as metadata, without prompts where the configuration leaves them out. `facts` say how the picture was made: JSON-ready, without any
    prompt text, and empty where `is_cached` says that results/ already held the picture. `warnings` say what deserves a
    look although the picture was made. `model` is the model's name, `model_hash` its AutoV2 hash (None if unknown).
    `latents` are a safetensors file, where they were asked for.
    """

    png: bytes
    request: RenderRequest
    infotext: str
    facts: dict[str, Any]
    warnings: tuple[str, ...]
    model: str
    model_hash: str | None
    is_cached: bool = False
    latents: bytes | None = None

    @classmethod
    def from_message(
        cls, message: Mapping[str, Any], files: Mapping[str, bytes], request: RenderRequest, model: str
    ) -> Self:
        """What an engine's process sends of a picture."""
        facts = message["facts"]
        about = (request, message["infotext"], facts, tuple(facts["warnings"]), model, facts["model_hash"])
        return cls(files["picture"], *about, latents=files.get("latents"))

    @property
    def files(self) -> dict[str, bytes]:
        """What a frame carries of it: `picture`, and `latents` if there are any."""
        return {"picture": self.png} | ({} if self.latents is None else {"latents": self.latents})

    @property
    def summary(self) -> str:
        """One line for a log, from `facts`: settings, seconds and warnings."""
        return _summarise(self.facts)


def encode(
    picture: RenderedImage,
    made_from: str | None = None,
    *,
    metadata: MetadataConfig = WHOLE_METADATA,
    files: Mapping[str, bytes] = MappingProxyType({}),
) -> Rendered:
    """The picture as PNG bytes with its metadata; equal pictures give equal bytes.

    `made_from` is the SHA-256 of the file that its chain went on from, `files` are those that the engine was given, and
    `metadata` says what is written into the PNG.
    """
    from darkroom.pictures.embedded import source_of, write_texts
    from darkroom.pictures.formats import PNG
    from darkroom.pictures.infotext import write_infotext
    from darkroom.pictures.png import library_versions
    from darkroom.request.picture_revision import picture_revision

    request, made = picture.request, picture.facts
    model, model_hash = made.model_name, made.model_hash
    assets = [asset.as_dict() for asset in made.assets]
    infotext = write_infotext(request, model=model, model_hash=model_hash, version=__version__, assets=made.assets)
    known = {
        "model": model,
        "model_hash": model_hash,
        "assets": assets,
        "warnings": list(made.warnings),
        "versions": library_versions(),
        "revision": picture_revision(request),
        "made_on": made.made_on,
        **({"origin": dict(made.origin)} if made.origin else {}),
        **({} if made_from is None else {"made_from": made_from}),
        **({} if made.arithmetic is None else {"arithmetic": made.arithmetic}),
    }
    png = PNG.encode(picture.image, write_texts(request, infotext, known, metadata, source_of(request, files)))
    width, height = request.sizes[-1]
    settings = request.model_dump(include=_SETTINGS)
    facts = {**asdict(made), "assets": assets, **settings, "width": width, "height": height}
    if request.stages:
        facts["stages"] = [stage.name for stage in request.stages]
    return Rendered(png, request, infotext, facts, made.warnings, model, model_hash, latents=picture.latents)


def as_error(error: BaseException) -> DarkroomError:
    """The error to show for any failure; one without a code is logged with its traceback."""
    if isinstance(error, DarkroomError):
        return error
    logger.error("unexpected error", exc_info=error)
    return DarkroomError("unexpected error", None, describe_exception(error), "read the server's log")


def _summarise(facts: Mapping[str, Any]) -> str:
    chunks, device, memory = facts["chunks"], facts["device"], facts["memory"]
    parts = [
        f"prompt {facts['prompt_tokens']} tokens in {chunks} chunk{'' if chunks == 1 else 's'}",
        f"model {facts['model_name']}" + (f" [{facts['model_hash']}]" if facts["model_hash"] else ""),
        memory if memory.startswith(device) else f"{device} {memory}",
        f"{facts['sampler']} {facts['steps']} steps {facts['width']}×{facts['height']} "
        f"cfg {facts['cfg_scale']:g} seed {facts['seed']}",
        *([f"then {', '.join(facts['stages'])}"] if facts.get("stages") else []),
        ", ".join(f"{stage} {facts[f'{stage}_s']:.2f} s" for stage in _TIMED),
    ]
    if facts["assets"]:
        used = ", ".join(f"{asset['name']} [{asset['short']}]" for asset in facts["assets"])
        parts.insert(2, f"with {used}, applied in {facts['apply_s']:.2f} s")
    parts += [f"WARNING: {warning}" for warning in facts["warnings"]]
    return " | ".join(parts)
