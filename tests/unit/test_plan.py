"""What of a plan decides whether a picture is rendered again."""

from __future__ import annotations

import pytest

from darkroom.request.render_request import RenderRequest
from darkroom.revisions import RENDER, RENDER_OF_SOME
from darkroom.run.plan import render_revision


@pytest.mark.parametrize(
    "settings",
    [
        {"prompt": "a [red:green:0.5] cat"},
        {"prompt": "a cat", "negative_prompt": "[grey|brown]"},
        {"prompt": "a (red: 1.3) cat"},
        {"prompt": "a (red:1.3 ) cat"},
        {"prompt": "a cat <lyco:line:1>"},
        {"prompt": "a cat", "steps": 1, "sampler": "Heun"},
    ],
    ids=str,
)
def test_pictures_that_were_drawn_otherwise_are_rendered_again(settings: dict[str, object]) -> None:
    assert render_revision(RenderRequest.from_settings(settings)) == RENDER_OF_SOME


@pytest.mark.parametrize(
    "settings",
    [
        {"prompt": "a (red:1.3) cat, [blue], (green :1.1), a: b"},
        {"prompt": "(a [b] c:0.5) <lora:line:1>"},
        {"prompt": "a cat", "steps": 1, "sampler": "DPM++ 2M"},
        {"prompt": "a cat", "steps": 2},
    ],
    ids=str,
)
def test_all_others_stay(settings: dict[str, object]) -> None:
    assert render_revision(RenderRequest.from_settings(settings)) == RENDER
