"""What a request with stages may ask for: sizes after each, the steps of all, and the files that have to be there."""

from __future__ import annotations

from typing import Any

import pytest

from darkroom.config import ServeConfig
from darkroom.errors import LimitError, RequestError
from darkroom.request.render_request import RenderRequest
from darkroom.serve.limits import check_limits, check_pictures, count_steps

MASK, PHOTO = "a" * 64, "b" * 64
LIMITS = ServeConfig(max_pixels=512 * 512, max_steps=40)


def make(*stages: dict[str, Any], **settings: Any) -> RenderRequest:
    size = {"width": 256, "height": 256, "steps": 20}
    return RenderRequest.from_settings({"prompt": "x", **size, **settings, "stages": list(stages)})


@pytest.mark.parametrize(
    ("stages", "settings", "steps"),
    [
        ([], {}, 20),
        ([{"hires": {}}], {}, 40),
        ([{"hires": {"steps": 5}}], {}, 25),
        ([{"upscale": {}}], {}, 20),
        ([{"img2img": {"denoising_strength": 0.5}}], {}, 31),
        ([{"img2img": {"denoising_strength": 1}}], {}, 40),
        ([{"img2img": {"denoising_strength": 0.5}}], {"image": PHOTO}, 11),
        ([{"inpaint": {"mask": MASK, "steps": 4, "denoising_strength": 0.75}}], {"image": PHOTO}, 4),
        ([{"tile": {"tile": 256, "overlap": 64, "denoising_strength": 0.3}}], {"image": PHOTO}, 9 * 7),
        ([{"tile": {"tile": 1024, "denoising_strength": 0.3}}], {"image": PHOTO}, 7),
    ],
)
def test_the_steps_of_all_stages_count(stages: list[dict[str, Any]], settings: dict[str, Any], steps: int) -> None:
    request = make(*stages, **settings)
    assert count_steps(request) == steps
    if steps > LIMITS.max_steps:
        with pytest.raises(LimitError, match=f"steps '{steps}'"):
            check_limits(request, LIMITS)
    else:
        check_limits(request, LIMITS)


def test_what_is_there_already_takes_no_steps() -> None:
    request = make({"hires": {"steps": 5}}, {"img2img": {"denoising_strength": 0.5}})
    assert [count_steps(request, done) for done in (0, 1)] == [36, 11]
    assert count_steps(request, is_first_done=True) == 16


def test_the_size_after_each_stage_counts_and_that_of_a_given_picture_does_not() -> None:
    check_limits(make({"hires": {"steps": 1}}), LIMITS)
    with pytest.raises(LimitError, match="size '768x768'"):
        check_limits(make({"hires": {"scale": 3, "steps": 1}}, {"img2img": {"width": 256, "height": 256}}), LIMITS)
    smaller = {"img2img": {"width": 512, "height": 512}}
    check_limits(make(smaller, image=PHOTO, width=1024, height=1024), LIMITS)
    with pytest.raises(LimitError, match="size '1024x1024'"):
        check_limits(make(smaller, width=1024, height=1024), LIMITS)


INPAINT = {"inpaint": {"mask": MASK}}


@pytest.mark.parametrize(
    ("request_", "given", "done"),
    [
        (make(), [], 0),
        (make(INPAINT), [MASK], 0),
        (make(INPAINT), [MASK, "before"], 0),
        (make(INPAINT, image=PHOTO), [MASK, PHOTO], 0),
        (make(INPAINT, {"upscale": {}}, image=PHOTO), ["before"], 1),
        (make(INPAINT, {"upscale": {}}, image=PHOTO), ["before", MASK, PHOTO], 1),
        (make({"upscale": {}}, INPAINT, image=PHOTO), ["before", MASK], 1),
        (make({"hires": {}}), ["before", "before.latent"], 0),
    ],
)
def test_files_that_fit(request_: RenderRequest, given: list[str], done: int) -> None:
    check_pictures(request_, given, done)


@pytest.mark.parametrize(
    ("request_", "given", "done", "named"),
    [
        (make(INPAINT), [], 0, MASK),
        (make(INPAINT, image=PHOTO), [MASK], 0, PHOTO),
        (make(INPAINT, image=PHOTO), [MASK, PHOTO, "before"], 0, "before"),
        (make(INPAINT, image=PHOTO), [MASK, PHOTO, "c" * 64], 0, "c" * 64),
        (make({"upscale": {}}, INPAINT), ["before"], 1, MASK),
        (make({"upscale": {}}, INPAINT), [MASK], 1, "before"),
        (make({"hires": {}}), ["before.latent"], 0, "before"),
        (make(), ["before"], 0, "before"),
        (make({"hires": {}}), ["before"], 1, "stages done"),
        (make({"hires": {}}), ["before"], -1, "stages done"),
    ],
)
def test_files_that_are_missing_or_too_many(request_: RenderRequest, given: list[str], done: int, named: str) -> None:
    with pytest.raises(RequestError, match=named):
        check_pictures(request_, given, done)
