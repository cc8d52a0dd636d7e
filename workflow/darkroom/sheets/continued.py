"""Settings of chains that begin with a picture: which of a sheet's may be given, and what becomes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from darkroom.errors import SheetError
from darkroom.request.assets import AssetNames
from darkroom.request.render_request import RenderRequest
from darkroom.request.stages import STAGES, DenoisingStage, Stage
from darkroom.sheets.beginnings import Beginning
from darkroom.sheets.planned import PlannedPicture
from darkroom.sheets.settings import links_of
from darkroom.sheets.study import TEXTS
from darkroom.sheets.templates import escape_dynamic_prompt, escape_template
from darkroom.sheets.then import THEN

_OF_STAGES = ("prompt", "negative_prompt", "steps", "sampler", "schedule", "cfg_scale", "control")
"""The settings that every stage which denoises may have of its own."""
_SIZE = ("width", "height")


def check_size(layers: Sequence[Mapping[str, Any]], place: str) -> None:
    """Raise SheetError (E-SHEET) for a size beside `from`, which is that of the pictures."""
    for layer in layers:
        for key in _SIZE:
            if layer.get(key) is not None:
                hint = f"write it into a stage: then: [{{img2img: {{{key}: {layer[key]}}}}}]"
                raise SheetError(key, layer[key], f"is that of the pictures which from names ({place})", hint)


def file_layer(beginning: Beginning, *, is_dynamic: bool) -> dict[str, Any]:
    """What a file's metadata says, as a layer of settings; its texts are no templates."""
    escape = escape_dynamic_prompt if is_dynamic else escape_template
    return {key: escape(value) if key in TEXTS and value else value for key, value in beginning.settings.items()}


def check_settings_of_stages(settings: Mapping[str, Any], place: str) -> None:
    """Raise SheetError (E-SHEET) for a setting that a sheet can't have for pictures of another sheet.

    It may have `then`, and what stages may have of their own: the rest is as the picture's own sheet says.
    """
    for key in settings:
        if key not in (*_OF_STAGES, "styles", THEN):
            why = f"belongs to the first pass, which the other sheet renders ({place})"
            raise SheetError("setting", key, why, f"leave it out; stages may have {', '.join(_OF_STAGES)} of their own")


def check_use(settings: Mapping[str, Any], stages: Sequence[Mapping[str, Any]], place: str) -> None:
    """Raise SheetError (E-SHEET) for a setting for pictures of another sheet that no stage of theirs has."""
    check_settings_of_stages(settings, place)
    known = {key for stage in stages for name in stage for key in STAGES[name].model_fields}
    for key in settings:
        if key in _OF_STAGES and key not in known:
            names = ", ".join(name for stage in stages for name in stage)
            raise SheetError("setting", key, f"is none of the stages {names} ({place})", "leave it out")


def check_chain(stages: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], beginning: Beginning) -> None:
    """Raise SheetError (E-SHEET) for a picture that nothing is made of, or that stages have no prompt for."""
    if not stages:
        raise SheetError("picture", beginning.title, "has no stages", "write then: and what to make of it")
    needs_prompt = beginning.picture is None and any(map(_needs_prompt, stages))
    if needs_prompt and "prompt" not in settings:
        raise SheetError("picture", beginning.title, "has no prompt in its metadata", "write prompt: and the text")


def _needs_prompt(stage: Mapping[str, Any]) -> bool:
    ((name, settings),) = stage.items()
    return issubclass(STAGES[name], DenoisingStage) and "prompt" not in settings


def continued_requests(
    picture: PlannedPicture, stages: Sequence[Stage], assets: AssetNames, where: str
) -> list[RenderRequest]:
    """The requests of the pictures that further stages make of a planned one. Raises as `make_chains`."""
    before = picture.request
    whole = RenderRequest.from_settings({**dict(before), "stages": (*before.stages, *stages)}, where)
    return links_of(whole, assets, where, first=len(before.stages) + 1)
