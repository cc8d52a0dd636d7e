"""What of a plan decides whether a picture is rendered again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from darkroom.request.picture_revision import render_revision, stage_revision
from darkroom.request.render_request import RenderRequest
from darkroom.revisions import RENDER, RENDER_OF_SOME, STAGE
from darkroom.run.plan import _costs_of_change
from darkroom.run.stage_jobs import StageJob
from darkroom.sheets.planned import PlannedPicture


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


def picture(*stages: dict[str, object], **settings: object) -> PlannedPicture:
    request = RenderRequest.from_settings({"prompt": "a cat <lora:line:1>", "stages": list(stages), **settings})
    return PlannedPicture("s", "base", "cat", 1, request)


def test_a_stage_follows_its_first_pass_with_the_same_models() -> None:
    first, hires, other = (_costs_of_change(each) for each in (
        picture(),
        picture({"hires": {"scale": 2}}),
        picture({"hires": {"prompt": "a cat <lora:soft:1>"}}),
    ))  # fmt: skip
    assert first[:3] == hires[:3] != other[:3]
    assert (first[3], hires[3]) == ((1024, 1024), (2048, 2048))


def test_a_stage_is_rendered_again_where_its_first_pass_is() -> None:
    stages = [{"hires": {}}]
    assert stage_revision(RenderRequest(prompt="a cat", stages=stages)) == [RENDER, STAGE]
    assert stage_revision(RenderRequest(prompt="a [red:green:0.5] cat", stages=stages)) == [RENDER_OF_SOME, STAGE]


def test_a_stages_job_is_told_what_goes_in() -> None:
    digest = "ab" * 32
    first = picture()
    hires = replace(picture({"hires": {}}), stage="1-hires", before=first.path)
    paint = picture({"hires": {}}, {"inpaint": {"mask": digest}})
    paint = replace(paint, stage="2-inpaint", before=hires.path, files={digest: "mask.png"})
    assert StageJob(hires, first).inputs == ["results/s/base/cat-1.png", "results/s/base/cat-1.latent.safetensors"]
    assert StageJob(hires, first).options == [
        "--stages-done", "0", "--before", "results/s/base/cat-1.png",
        "--before-latent", "results/s/base/cat-1.latent.safetensors",
    ]  # fmt: skip
    assert StageJob(paint, hires).inputs == ["results/s/base/cat-1.1-hires.png"]
    assert StageJob(paint, hires).options == [
        "--stages-done", "1", "--before", "results/s/base/cat-1.1-hires.png", "--picture", f"{digest}=mask.png",
    ]  # fmt: skip
    given = replace(picture({"img2img": {}}, image=digest), stage="1-img2img", files={digest: "a.png"})
    assert StageJob(given, None).options == ["--stages-done", "0", "--picture", f"{digest}=a.png"]
