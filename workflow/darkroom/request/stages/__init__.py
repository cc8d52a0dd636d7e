"""The stages of a picture after its first pass, by their names. A new one is a class and a line in STAGES.

Takes `{NAME: {setting: value}}`. Gives frozen, validated stages, which say what size, steps and other pictures they need.
Never opens a picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from darkroom.base.text import did_you_mean
from darkroom.base.validation import first_problem
from darkroom.request.stages.hires import Hires
from darkroom.request.stages.img2img import Img2Img
from darkroom.request.stages.inpaint import Inpaint, Outpaint
from darkroom.request.stages.refine import Refine
from darkroom.request.stages.stage import DenoisingStage, Stage
from darkroom.request.stages.upscale import Tile, Upscale

__all__ = ["STAGES", "DenoisingStage", "Hires", "Img2Img", "Inpaint", "Outpaint", "Refine", "Stage", "Tile", "Upscale"]

STAGES: dict[str, type[Stage]] = {
    stage.name: stage for stage in (Hires, Img2Img, Inpaint, Outpaint, Upscale, Tile, Refine)
}

_LATER = ("checkpoint", "control")


def read_stage(given: Any) -> Stage:
    """A stage from `{NAME: {setting: value}}`, as `write_stage` gives it. Raises ValueError with the setting's name."""
    if isinstance(given, Stage):
        return given
    known = f"known are {', '.join(STAGES)}"
    if not isinstance(given, Mapping) or len(given) != 1:
        raise ValueError(f"a stage is a name with its settings, such as hires: {{scale: 2}}; {known}")
    ((name, settings),) = given.items()
    if name not in STAGES:
        raise ValueError(f"{name} is no stage: {did_you_mean(str(name), STAGES, known)}")
    try:
        return STAGES[name].model_validate({} if settings is None else settings)
    except ValidationError as error:
        first = first_problem(error)
        where = f"{name}.{first.name}" if first.name else name
        raise ValueError(f"{where}: {first.reason}") from None


def write_stage(stage: Stage) -> dict[str, Any]:
    """A stage as JSON-ready data: `{NAME: {setting: value}}`.

    Without what earlier versions don't have, if it isn't set: requests are compared as texts with theirs.
    """
    written = stage.model_dump(mode="json")
    return {stage.name: {key: value for key, value in written.items() if key not in _LATER or value is not None}}
