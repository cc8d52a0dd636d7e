"""What of a plan decides whether a picture is rendered again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from darkroom.request.picture_revision import render_revision, stage_revision
from darkroom.request.render_request import RenderRequest
from darkroom.revisions import RENDER, RENDER_OF_SOME, STAGE
from darkroom.run.priorities import costs_of_change, rank_pictures
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
    first, hires, other = (costs_of_change(each) for each in (
        picture(),
        picture({"hires": {"scale": 2}}),
        picture({"hires": {"prompt": "a cat <lora:soft:1>"}}),
    ))  # fmt: skip
    assert first[:3] == hires[:3] != other[:3]
    assert (first[3], hires[3]) == ((1024, 1024), (2048, 2048))


PHOTO = "0" * 64


def chain(own: str, *checkpoints: str | None) -> list[PlannedPicture]:
    """The pictures of a chain on `own`, with an img2img pass on each of the others."""
    stages = [{"img2img": {"checkpoint": name}} for name in checkpoints]
    request = RenderRequest.from_settings({"prompt": "a cat", "stages": stages}).of_checkpoint(own)
    parts = [request.model_copy(update={"stages": request.stages[:count]}) for count in range(len(stages) + 1)]
    return [PlannedPicture("sheet", own, "cat", 0, part) for part in parts]


def loaded(pictures: list[PlannedPicture], *checkpoints: str) -> list[str]:
    """The checkpoints in the order in which they are loaded."""
    ranks = rank_pictures(pictures, list(checkpoints))
    renderers = [each.renderer for each in sorted(pictures, key=lambda each: ranks[costs_of_change(each)])]
    return [name for name, other in zip(renderers, [None, *renderers], strict=False) if name != other]


def test_each_checkpoint_is_loaded_as_seldom_as_the_order_of_stages_allows() -> None:
    assert loaded([*chain("b"), *chain("a")], "a", "b") == ["a", "b"]
    assert loaded([*chain("a", "b"), *chain("a", "b", None)], "a", "b") == ["a", "b", "a"]
    # What both have on b is rendered together, and so is what both have on a.
    assert loaded([*chain("b", "a"), *chain("a", "b")], "a", "b") in (["a", "b", "a"], ["b", "a", "b"])
    assert loaded([*chain("c"), *chain("a", "b"), *chain("b")], "a", "b", "c") == ["a", "c", "b"]


def test_a_stage_on_another_checkpoint_depends_on_both() -> None:
    first, second, third = chain("a", "b", None)
    assert [(each.renderer, each.checkpoints) for each in (first, second, third)] == [
        ("a", ["a"]),
        ("b", ["b", "a"]),
        ("a", ["a", "b"]),
    ]
    assert [each.turn for each in (first, second, third)] == [0, 1, 2]
    begun = PlannedPicture(
        "sheet", "a", "cat", 0, second.request.model_copy(update={"image": PHOTO}), files={PHOTO: "a.png"}
    )
    assert (begun.checkpoints, begun.turn) == (["b"], 0)
    assert chain("b", "b")[-1].request.stages[0] == chain("b", None)[-1].request.stages[0]
    assert StageJob(second, first).options[-2:] == ["--checkpoint", "a"]
    assert "--checkpoint" not in StageJob(third, second).options + StageJob(begun, None).options


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
