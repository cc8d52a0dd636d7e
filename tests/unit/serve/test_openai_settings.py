"""OpenAI's fields as settings: what is honoured, what has no effect, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from darkroom.errors import DarkroomError, RequestError, UnsupportedError
from darkroom.request.render_request import MAX_SEED, RenderRequest
from darkroom.serve.openai_images import ImageGeneration, read_settings


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
    assert {*RenderRequest.model_fields, "preset"} <= shown.keys()
    assert {"maximum": 1000, "minimum": 1, "type": "integer"} in shown["steps"]["anyOf"]
    assert shown["stream"]["enum"] == [False, None]


def test_pictures_have_consecutive_seeds() -> None:
    assert [one["seed"] for one in read(n=3)] == [5, 6, 7]


@pytest.mark.parametrize("seed", [-1, None])
def test_any_seed_is_drawn_anew_from_32_bits(seed: int | None) -> None:
    first, second = ([one["seed"] for one in read(n=16, seed=seed)] for _ in range(2))
    assert first != second
    assert first == list(range(first[0], first[0] + 16))
    assert 0 <= first[0] <= first[-1] < 2**32


@pytest.mark.parametrize("field", ["quality", "style", "user", "safety_identifier", "moderation", "complexity"])
def test_what_means_nothing_here_has_no_effect(field: str) -> None:
    assert read(**{field: "high"}) == read()
    assert read(background="opaque", output_format="png", output_compression=100, partial_images=0) == read()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stream", True),
        ("partial_images", 2),
        ("background", "transparent"),
        ("svg", {"model": "x"}),
        ("frame_count", 4),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(UnsupportedError) as caught:
        read(**{field: value})
    assert caught.value.what == f"request: {field}"
    assert field in caught.value.hint


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
        {"output_format": "jpeg"},
        {"response_format": "base64"},
        {"prompt": None},
    ],
)
def test_wrong_values_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises((ValidationError, DarkroomError)):
        read(**fields)
