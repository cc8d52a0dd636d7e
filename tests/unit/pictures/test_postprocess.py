"""What is added to the metadata of a picture that was upscaled."""

from __future__ import annotations

import json

import pytest

from darkroom import __version__
from darkroom.pictures.infotext import read_infotext
from darkroom.pictures.postprocess import add_fields, add_step, upscale_fields

A1111 = 'a fox, (red:1.2)\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512, Lora hashes: "x: 1234, y: 5678", Version: v1.10.1'
OURS = 'a fox\nSteps: 20, Sampler: Euler, Seed: 1, Hashes: {"model": "0123456789"}, Version: darkroom 0.1.0'
BY_TWO = upscale_fields("4x-UltraSharp", 2.0, (1024, 1024))


def test_a_scale_and_a_size_have_a1111s_spelling() -> None:
    assert BY_TWO == {"Postprocess upscale by": "2", "Postprocess upscaler": "4x-UltraSharp"}
    assert upscale_fields("x", 1.5, (9, 9))["Postprocess upscale by"] == "1.5"
    assert upscale_fields("x", None, (640, 480)) == {"Postprocess upscale to": "640x480", "Postprocess upscaler": "x"}


@pytest.mark.parametrize("infotext", [A1111, OURS])
def test_all_else_stays_letter_by_letter(infotext: str) -> None:
    added = ", Postprocess upscale by: 2, Postprocess upscaler: 4x-UltraSharp"
    assert add_fields(infotext, BY_TWO) == infotext.replace(", Version: ", f"{added}, Version: ")


@pytest.mark.parametrize("infotext", [A1111, OURS])
def test_a_second_upscaling_replaces_the_first_ones_fields(infotext: str) -> None:
    again = add_fields(add_fields(infotext, BY_TWO), upscale_fields('R-ESRGAN 4x+, "my"', None, (99, 88)))
    settings = read_infotext(infotext)["settings"]
    assert read_infotext(again) == read_infotext(infotext) | {
        "settings": settings | {"Postprocess upscale to": "99x88", "Postprocess upscaler": 'R-ESRGAN 4x+, "my"'}
    }
    assert again.rpartition(", Version: ")[2] == infotext.rpartition(", Version: ")[2]


@pytest.mark.parametrize("infotext", ["", "a fox in the snow", "a fox\nin: the snow"])
def test_a_picture_without_settings_gets_a_line_that_is_read_as_settings(infotext: str) -> None:
    found = read_infotext(add_fields(infotext, BY_TWO))
    assert found["prompt"] == infotext
    assert found["settings"] == BY_TWO | {"Version": f"darkroom {__version__}"}


def test_the_request_stays_and_each_step_is_listed() -> None:
    texts = {"parameters": OURS, "darkroom": '{"request": {"seed": 1}}', "study": "{}"}
    once = add_step(texts, BY_TWO, {"upscaler": "a"})
    twice = add_step(once, BY_TWO, {"upscaler": "b"})
    made = {"request": {"seed": 1}, "postprocess": [{"upscaler": "a"}, {"upscaler": "b"}]}
    assert json.loads(twice["darkroom"]) == made and twice["study"] == "{}"


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"postprocess": 3}'])
def test_a_broken_text_is_no_reason_to_stop(text: str) -> None:
    assert json.loads(add_step({"darkroom": text}, BY_TWO, {"a": 1})["darkroom"]) == {"postprocess": [{"a": 1}]}
