"""Settings of chains that begin with a picture: which of a sheet's may be given, and what becomes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from darkroom.errors import SheetError
from darkroom.request.assets import AssetNames
from darkroom.request.render_request import RenderRequest
from darkroom.request.stages import DenoisingStage, Stage
from darkroom.sheets.beginnings import Beginning
from darkroom.sheets.planned import PlannedPicture
from darkroom.sheets.settings import links_of
from darkroom.sheets.study import TEXTS
from darkroom.sheets.templates import escape_dynamic_prompt, escape_template
from darkroom.sheets.then import THEN

_OF_STAGES = ("prompt", "negative_prompt", "steps", "sampler", "schedule", "cfg_scale")
"""The settings that every stage which denoises may have of its own."""
_SIZE = ("width", "height")


def file_layer(
    beginning: Beginning, layers: Sequence[Mapping[str, Any]], *, is_dynamic: bool, place: str
) -> dict[str, Any]:
    """What a file's metadata says, as a layer below the sheet's `layers`; its texts are no templates.

    Raises SheetError (E-SHEET) with the place for a size in these, and for a picture that nothing is to be made of.
    """
    for layer in layers:
        for key in _SIZE:
            if layer.get(key) is not None:
                why = f"is that of the picture {beginning.title} ({place})"
                raise SheetError(key, layer[key], why, f"write it into a stage: then: [{{img2img: {{{key}: …}}}}]")
    given = next((layer[THEN] for layer in reversed(layers) if THEN in layer), None)
    if given == [] or (given is None and not any(THEN in layer for layer in layers)):
        raise SheetError("picture", beginning.title, f"has no stages ({place})", "write then: and what to make of it")
    escape = escape_dynamic_prompt if is_dynamic else escape_template
    own = {key: escape(value) if key in TEXTS and value else value for key, value in beginning.settings.items()}
    needs_prompt = any(_needs_prompt(stage) for stage in given or [])
    if needs_prompt and "prompt" not in own and not any("prompt" in layer for layer in layers):
        why = f"has no prompt in its metadata ({place})"
        raise SheetError("picture", beginning.title, why, "write prompt: and the text")
    return {"prompt": "", **own}


def _needs_prompt(stage: Mapping[str, Any]) -> bool:
    from darkroom.request.stages import STAGES

    ((name, settings),) = stage.items()
    return issubclass(STAGES[name], DenoisingStage) and "prompt" not in settings


def stage_defaults(settings: Mapping[str, Any], where: str, place: str) -> dict[str, Any]:
    """A sheet's settings for pictures of another sheet: `then`, and what its stages may have of their own.

    Raises SheetError (E-SHEET) for others: they belong to the picture, which is made as its own sheet says.
    """
    for key in settings:
        if key not in (*_OF_STAGES, "styles", THEN):
            why = f"belongs to the first pass, which that sheet has rendered ({place})"
            hint = f"leave it out; stages may have {', '.join(_OF_STAGES)} of their own"
            raise SheetError(f"{where}: setting", key, why, hint)
    if not settings.get(THEN):
        raise SheetError(where, None, f"has no stages ({place})", "write then: and what to make of the pictures")
    return dict(settings)


def continued_requests(
    picture: PlannedPicture, stages: Sequence[Stage], assets: AssetNames, where: str
) -> list[RenderRequest]:
    """The requests of the pictures that further stages make of a planned one. Raises as `make_chains`."""
    before = picture.request
    whole = RenderRequest.from_settings({**dict(before), "stages": (*before.stages, *stages)}, where)
    return links_of(whole, assets, where, first=len(before.stages) + 1)
