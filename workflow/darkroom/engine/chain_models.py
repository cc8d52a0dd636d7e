"""The checkpoints that a chain is made with: the picture's own, and those of its stages, by their names in the models folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darkroom.base.text import did_you_mean
from darkroom.checkpoint.audit import read_audit, read_identity, read_origin
from darkroom.checkpoint.index import components_in
from darkroom.engine.library import Library
from darkroom.engine.rendered import UsedAsset
from darkroom.errors import RequestError
from darkroom.request.render_request import RenderRequest
from darkroom.request.stages import DenoisingStage, Refine, Upscale

CHECKPOINTS = "checkpoints"
"""The kind of stages' checkpoints among a picture's assets."""


@dataclass(frozen=True, slots=True)
class ChainModels:
    """Name and AutoV2 hash (None if unknown) of the checkpoint that a picture counts as made with, and those of its stages.

    `origin` is what that checkpoint was converted from, and how.
    """

    name: str
    model_hash: str | None
    origin: Mapping[str, Any]
    others: tuple[UsedAsset, ...] = ()


def find_models(
    request: RenderRequest, folder: Path, library: Library, own: str | None, done: int, *, is_first_made: bool
) -> ChainModels:
    """The models of a chain that the engine of the model in `folder` goes on with after `done` stages.

    `own` is the name of the picture's own checkpoint if that is another model. Raises RequestError (E-REQUEST) for a
    checkpoint that isn't in the models folder, and for a pass that needs another engine than this one.
    """
    first = None if own is None else find_folder(library, own)
    is_own = first is None or first.resolve() == folder.resolve()
    if not is_first_made and not is_own:
        raise _other_engine("checkpoint", own)
    for stage, name in list(zip(request.stages, request.checkpoints, strict=True))[done:]:
        is_here = is_own if name is None else find_folder(library, name).resolve() == folder.resolve()
        if not (is_here or isinstance(stage, Upscale)):
            raise _other_engine(f"{stage.name}: checkpoint", own if name is None else name)
    names = list(dict.fromkeys(filter(None, request.checkpoints)))
    others = tuple(find_checkpoint(library, name) for name in names)
    if not request.needs_own_checkpoint:
        first = find_folder(library, names[0])
    return read_model(folder if first is None else first, others)


def check_roles(request: RenderRequest, stages_done: int, *, refiner: str | None, is_first_made: bool) -> None:
    """Raise RequestError (E-REQUEST) if the model is SDXL's `refiner`, by that name, and has to do something else, or has to refine and is none."""
    if refiner and not is_first_made:
        raise _not_for_refiners("checkpoint", refiner, "can't begin a picture")
    for stage in request.stages[stages_done:]:
        if not isinstance(stage, DenoisingStage) or isinstance(stage, Refine) == bool(refiner):
            continue
        if refiner:
            raise _not_for_refiners(f"{stage.name}: checkpoint", refiner, "refines alone")
        why, hint = "is no SDXL refiner, which this stage goes on with", "name a checkpoint that is one"
        raise RequestError("refine: checkpoint", stage.checkpoint, why, hint)


def read_model(folder: Path, others: tuple[UsedAsset, ...] = ()) -> ChainModels:
    """The models of a chain whose own checkpoint is the one in `folder`."""
    return ChainModels(*read_identity(folder), read_origin(folder), others)


def find_checkpoint(library: Library, name: str) -> UsedAsset:
    """A checkpoint by the name of its converted folder, with its hashes and origin. Raises RequestError (E-REQUEST)."""
    folder = find_folder(library, name).resolve()
    audit = read_audit(folder)
    known_as = ("", "") if audit is None else (audit.source_sha256, audit.autov2 or "")
    return UsedAsset(CHECKPOINTS, name, *known_as, read_origin(folder))


def find_folder(library: Library, name: str) -> Path:
    """The converted folder of a checkpoint, or the one that was added. Raises RequestError (E-REQUEST) if there is none."""
    if (added := library.added(CHECKPOINTS, name)) is not None:
        return added
    known = converted(library.models_dir)
    if name not in known:  # a look into the folder's list: nothing in a name can lead out of it
        hint = did_you_mean(name, known, f"known are {', '.join(known)}" if known else "convert it first")
        raise RequestError("checkpoint", name, f"is none of the converted models in {library.models_dir}", hint)
    return library.models_dir / "diffusers" / name


def converted(models_dir: Path) -> list[str]:
    """The names of the converted models."""
    return sorted(path.name for path in (models_dir / "diffusers").glob("*") if path.is_dir())


def is_refiner(folder: Path) -> bool:
    """Whether a converted model is SDXL's refiner. Raises ModelError (E-MODEL) and IndexFileError (E-INDEX) for none."""
    return "text_encoder" not in components_in(folder)


def _not_for_refiners(what: str, name: str, why: str) -> RequestError:
    hint = "name it in a stage, then: [{refine: {checkpoint: NAME}}], and set refiner: true for it in the configuration"
    return RequestError(what, name, f"is an SDXL refiner, which {why}", hint)


def _other_engine(what: str, name: str | None) -> RequestError:
    return RequestError(what, name, "is another model than the one that is loaded", "render that stage with its own")
