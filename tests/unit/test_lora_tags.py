"""LoRA tags as people write them, and what they mean."""

from __future__ import annotations

import pytest

from darkroom.errors import LoraError
from darkroom.request.lora_tags import LoraUse, take_out_loras, write_tag
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
    ],
)
def test_a_broken_tag_is_an_error_that_shows_it(tag: str, why: str) -> None:
    with pytest.raises(LoraError, match="E-LORA tag") as caught:
        take_out_loras(tag)
    assert why in str(caught.value)
    assert tag in str(caught.value)


def test_other_angle_brackets_are_text() -> None:
    for text in ("a < b > c", "<hypernet:x:1>", "<loran:x>", "<lora:a", "i <3 you"):
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
