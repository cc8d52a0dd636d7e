"""The revision of the render stage that a picture depends on: part of its job's params, and written into its metadata."""

from __future__ import annotations

import re

from darkroom.request.render_request import RenderRequest
from darkroom.revisions import RENDER, RENDER_OF_SOME, STAGE

_WEAK_FIRST_STEP = ("Euler", "Euler a", "Heun", "LMS", "DPM2", "DPM2 a", "DDIM", "PLMS")
_NEWLY_READ = re.compile(r":\s+[+-]?[.\d]+\s*\)|:[+-]?[.\d]+\s+\)|<lyco:", re.IGNORECASE)


def render_revision(request: RenderRequest) -> int:
    """The render stage's revision for a picture: higher where its prompt or its only step was once taken otherwise.

    That is prompt editing and alternation, white space around a weight, `<lyco:…>`, and one step by samplers that began with
    the weakest noise.
    """
    if request.steps == 1 and request.sampler in _WEAK_FIRST_STEP:
        return RENDER_OF_SOME
    texts = (request.prompt, request.negative_prompt, request.prompt_2, request.negative_prompt_2)
    if any(text and _NEWLY_READ.search(text) for text in texts):
        return RENDER_OF_SOME
    if request.stages:
        request = request.model_copy(update={"image": None, "stages": ()})
    is_edited = any("[" in (text or "") for text in texts) and any(
        timeline is not None and len(timeline.texts) > 1 for timeline in request.timelines
    )
    return RENDER_OF_SOME if is_edited else RENDER


def stage_revision(request: RenderRequest) -> list[int]:
    """The revisions that a stage's picture depends on: that of the render stage, and that of stages."""
    return [render_revision(request), STAGE]


def picture_revision(request: RenderRequest) -> list[int]:
    """The revisions that a picture depends on, whether stages made it or not."""
    return stage_revision(request) if request.stages else [render_revision(request)]
