"""OpenAI's fields as settings: what is honoured, what has no effect, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from darkroom.errors import DarkroomError, RequestError, UnsupportedError
from darkroom.request.render_request import MAX_SEED, RenderRequest
from darkroom.serve.openai_schemas import ImageGeneration
from darkroom.serve.openai_settings import ignored_fields, read_settings


def read(**fields: Any) -> list[dict[str, Any]]:
    return read_settings(ImageGeneration.model_validate({"prompt": "a circle", "seed": 5, **fields}))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {}),
        ({"size": "832x1216"}, {"width": 832, "height": 1216}),
        ({"size": "auto", "width": 64}, {"width": 64}),
        ({"size": None, "n": None, "seed": 7}, {"seed": 7}),
        (
            {"negative_prompt": "red", "steps": 4, "cfg_scale": 1.5},
            {"negative_prompt": "red", "steps": 4, "cfg_scale": 1.5},
        ),
        ({"sampler": "DPM++ 2M Karras", "vae": "soft"}, {"sampler": "DPM++ 2M Karras", "vae": "soft"}),
        ({"loras": {"outline": 0.8}, "preset": "turbo"}, {"loras": {"outline": 0.8}, "preset": "turbo"}),
        ({"steps": None, "vae": None}, {}),
    ],
)
def test_fields_become_settings(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    assert read(**fields) == [{"prompt": "a circle", "seed": 5, **expected}]


def test_every_setting_of_a_picture_can_be_sent_beside_openais_fields() -> None:
    shown = ImageGeneration.model_json_schema()["properties"]
    assert {*RenderRequest.model_fields, "preset"} - {"image"} <= shown.keys()
    assert {"maximum": 1000, "minimum": 1, "type": "integer"} in shown["steps"]["anyOf"]
    assert shown["background"]["enum"] == ["opaque", "auto", None]


def test_numbers_and_switches_may_be_sent_as_texts() -> None:
    settings = read(n="2", seed="5", steps="20", cfg_scale="7.5", clip_skip="2", stream="true", partial_images="1")[1]
    request = RenderRequest.from_settings(settings)
    assert (request.seed, request.steps, request.cfg_scale, request.clip_skip) == (6, 20, 7.5, 2)


def test_pictures_have_consecutive_seeds() -> None:
    assert [one["seed"] for one in read(n=3)] == [5, 6, 7]


@pytest.mark.parametrize("seed", [-1, None])
def test_any_seed_is_drawn_anew_from_32_bits(seed: int | None) -> None:
    first, second = ([one["seed"] for one in read(n=16, seed=seed)] for _ in range(2))
    assert first != second
    assert first == list(range(first[0], first[0] + 16))
    assert 0 <= first[0] <= first[-1] < 2**32


@pytest.mark.parametrize(
    ("field", "value", "is_named"),
    [
        ("quality", "auto", False),
        ("quality", "standard", False),
        ("quality", "hd", True),
        ("quality", "high", True),
        ("style", "vivid", True),
        ("complexity", "low", True),
        ("moderation", "auto", False),
        ("moderation", "low", True),
        ("user", "somebody", False),
        ("safety_identifier", "somebody", False),
    ],
)
def test_what_means_nothing_here_has_no_effect_and_is_named_if_it_asks_for_something(
    field: str, value: str, is_named: bool
) -> None:
    assert read(**{field: value}) == read()
    assert (field in ignored_fields(ImageGeneration.model_validate({"prompt": "x", field: value}))) is is_named


@pytest.mark.parametrize(
    "fields",
    [
        {"background": "opaque", "output_format": "png", "output_compression": 100, "partial_images": 0},
        {"output_format": "webp", "output_compression": 0},
        {"output_format": "jpeg", "n": "1", "seed": "5"},
        {"stream": True, "partial_images": 3, "response_format": "b64_json"},
        {"stream": True, "partial_images": None},
    ],
)
def test_what_decides_how_pictures_are_sent_changes_no_setting(fields: dict[str, Any]) -> None:
    assert read(**fields) == read()


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"background": "transparent"}, "background"),
        ({"svg": {"model": "x"}}, "svg"),
        ({"frame_count": 4}, "frame_count"),
        ({"output_compression": 50}, "output_compression"),
        ({"partial_images": 2}, "partial_images"),
        ({"partial_images": 2, "stream": False}, "partial_images"),
        ({"stream": True, "response_format": "url"}, "response_format"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(fields: dict[str, Any], field: str) -> None:
    with pytest.raises((UnsupportedError, RequestError)) as caught:
        read(**fields)
    assert caught.value.what == f"request: {field}"
    assert caught.value.hint


@pytest.mark.parametrize(
    ("field", "near"), [("negative_promt", "negative_prompt"), ("num_steps", "steps"), ("cfgscale", "cfg_scale")]
)
def test_an_unknown_field_is_refused_with_the_near_one(field: str, near: str) -> None:
    with pytest.raises(RequestError) as caught:
        read(**{field: "x"})
    assert caught.value.value == field
    assert near in caught.value.why


def test_a_size_given_twice_is_refused() -> None:
    with pytest.raises(RequestError, match="width or height"):
        read(size="64x64", height=128)


@pytest.mark.parametrize(
    "fields",
    [
        {"size": "large"},
        {"size": "64x"},
        {"n": 0},
        {"n": "many"},
        {"seed": -2},
        {"seed": MAX_SEED + 1},
        {"output_format": "gif"},
        {"output_compression": 101},
        {"partial_images": 4},
        {"quality": "best"},
        {"style": "noir"},
        {"response_format": "base64"},
        {"prompt": None},
    ],
)
def test_wrong_values_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises((ValidationError, DarkroomError)):
        read(**fields)
