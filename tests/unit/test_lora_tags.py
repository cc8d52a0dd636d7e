"""LoRA tags as people write them, and what they mean."""

from __future__ import annotations

from typing import Any

import pytest

from darkroom.errors import LoraError, UnsupportedError
from darkroom.request.assets import AssetNames, settle
from darkroom.request.lora_tags import LoraUse, name_weights, take_out_loras, write_tag
from darkroom.request.render_request import RenderRequest


@pytest.mark.parametrize(
    ("tag", "name", "unet", "te"),
    [
        ("<lora:outline>", "outline", 1, 1),
        ("<lora:outline:0.8>", "outline", 0.8, 0.8),
        ("<lora:outline:0.8:0.5>", "outline", 0.8, 0.5),
        ("<lora:outline:-1:0>", "outline", -1, 0),
        ("<LORA: my.style-v2 : .5 >", "my.style-v2", 0.5, 0.5),
        ("<lora:outline:te=0.5:unet=1>", "outline", 1, 0.5),
        ("<lora:outline:1:te=0>", "outline", 1, 0),
        ("<lyco:outline:0.8>", "outline", 0.8, 0.8),
        ("<lyco:outline>", "outline", 1, 1),
    ],
)
def test_a_tag_is_taken_out_and_read(tag: str, name: str, unet: float, te: float) -> None:
    text, uses = take_out_loras(f"a (red:1.2) fox {tag}, snow")
    assert text == "a (red:1.2) fox , snow"
    assert uses == [LoraUse(name=name, unet=unet, te=te)]


@pytest.mark.parametrize(
    ("tag", "why"),
    [
        ("<lora:>", "names no LoRA"),
        ("<lora:a:strong>", "'strong' is not a number"),
        ("<lora:a:1:1:1>", "more than a name and two weights"),
        ("<lora:a:dyn=4>", "more than a name and two weights"),
        ("<lora:a:1000>", "at most 100"),
        ("<lora:a:nan>", "at most 100"),
        ("<lora:a", "no '>' at its end"),
        ("<lyco:a:1", "no '>' at its end"),
        ("<lora:a:te=1:te=1>", "more than a name and two weights"),
    ],
)
def test_a_broken_tag_is_an_error_that_shows_it(tag: str, why: str) -> None:
    with pytest.raises(LoraError, match="E-LORA tag") as caught:
        take_out_loras(tag)
    assert why in str(caught.value)
    assert tag in str(caught.value)


def test_other_angle_brackets_are_text() -> None:
    for text in ("a < b > c", "< hypernet:x:1>", "<loran>", "<lora>", "i <3 you", "a<b:c"):
        assert take_out_loras(text) == (text, [])


def test_a_request_joins_tags_and_settings_and_their_order_decides_nothing() -> None:
    one = RenderRequest.from_settings({"prompt": "fox <lora:b:0.5>", "loras": ["c:1:0", "a:0.25"]})
    other = RenderRequest.from_settings({"prompt": "fox <lora:b:0.5>", "loras": {"a": 0.25, "c": {"unet": 1, "te": 0}}})
    assert one == other
    assert [(use.name, use.unet, use.te) for use in one.all_loras] == [("a", 0.25, 0.25), ("b", 0.5, 0.5), ("c", 1, 0)]
    assert RenderRequest.from_json(one.to_json()) == one


def test_weights_of_a_lora_that_is_named_twice_add_up() -> None:
    request = RenderRequest(prompt="<lora:a:0.5:1> <lora:a:0.25:0>", loras=["a"])
    assert [(use.unet, use.te) for use in request.all_loras] == [(1.75, 2)]


def test_a_tag_in_a_negative_prompt_is_refused() -> None:
    with pytest.raises(LoraError, match="negative prompt"):
        _ = RenderRequest(prompt="fox", negative_prompt="<lora:a:1>").all_loras


@pytest.mark.parametrize("use", [LoraUse(name="a", unet=0.8, te=0.8), LoraUse(name="a", unet=1, te=0.25)], ids=str)
def test_a_written_tag_is_read_as_the_same(use: LoraUse) -> None:
    assert take_out_loras(write_tag(use)) == ("", [use])


@pytest.mark.parametrize("tag", ["<hypernet:x:1>", "<loran:x>", "<embedding:x>", "<word:>", "<ipadapter:a:1:2>"])
@pytest.mark.parametrize("field", ["prompt", "negative_prompt", "prompt_2", "negative_prompt_2"])
def test_a_tag_of_another_kind_is_refused_by_name_in_every_prompt(tag: str, field: str) -> None:
    request = RenderRequest.from_settings({"prompt": "a fox", field: f"a fox {tag}"})
    with pytest.raises(UnsupportedError, match=f"E-UNSUPPORTED tag '{tag}': .*Hint: take it out, or write a space"):
        settle(request, AssetNames())


def test_the_hint_for_a_tag_of_another_kind_is_right_when_followed() -> None:
    settle(RenderRequest(prompt="a fox < hypernet:x:1>"), AssetNames())


@pytest.mark.parametrize("name", ["a" * 201, "a" * 30_000])
def test_a_tag_with_a_name_too_long_is_an_error_of_one_short_line(name: str) -> None:
    with pytest.raises(LoraError, match="at most 200 are allowed") as caught:
        take_out_loras(f"<lora:{name}:1>")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("settings", [{"loras": ["a:60", "a:60"]}, {"loras": {"a": 60}, "prompt": "<lora:a:1:60>"}])
def test_weights_that_add_up_to_more_than_the_limit_are_an_error(settings: dict[str, Any]) -> None:
    with pytest.raises(LoraError, match=r"E-LORA .*'a': its weights add up to 120; at most 100"):
        _ = RenderRequest.from_settings({"prompt": "", **settings}).all_loras


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("a <lora:x:1:0.1> b", "a <lora:x:te=0.1:unet=1> b"),
        ("<lora:x:te=0.1234567>", "<lora:x:te=0.1234567:unet=1>"),
        ("<lora:x:0.5>", "<lora:x:0.5>"),
        ("<lora:x>", "<lora:x>"),
        ("<lora:x:te=1:unet=0>", "<lora:x:te=1:unet=0>"),
    ],
)
def test_tags_are_written_so_that_a1111_reads_the_same(ours: str, theirs: str) -> None:
    assert name_weights(ours) == theirs
    assert take_out_loras(name_weights(theirs, te_first=True)) == take_out_loras(ours)


@pytest.mark.parametrize(
    ("theirs", "unet", "te"),
    [
        ("<lora:x:1:0.1>", 0.1, 1),
        ("<lora:x:te=0.5>", 0.5, 0.5),
        ("<lora:x:0.3:unet=1>", 1, 0.3),
        ("<lyco:x:1:2>", 2, 1),
    ],
)
def test_a1111_reads_the_text_encoders_weight_first(theirs: str, unet: float, te: float) -> None:
    assert take_out_loras(name_weights(theirs, te_first=True))[1] == [LoraUse(name="x", unet=unet, te=te)]
