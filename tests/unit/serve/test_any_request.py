"""Any request, through every interface: it is read to settings that survive their way to the engine, or gets a coded error."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from darkroom.base.logs import JsonLines, TextLines
from darkroom.config import ServeConfig
from darkroom.errors import DarkroomError, LoraError
from darkroom.request.assets import AssetNames, settle
from darkroom.request.lora_tags import take_out_loras
from darkroom.request.render_request import RenderRequest
from darkroom.request.samplers import SAMPLERS, SCHEDULES
from darkroom.serve.a1111_schemas import Txt2Img
from darkroom.serve.a1111_settings import read_txt2img
from darkroom.serve.answers import as_error
from darkroom.serve.openai_images import ImageGeneration, read_settings
from darkroom.serve.runpod_schema import read_input
from darkroom.serve.service import check_limits
from darkroom.sheets.settings import unfold

NAMES = AssetNames(vaes=["soft"], loras=["outline", "no"], embeddings=["glow", "007"])
LIMITS = ServeConfig()
FRAGMENTS = [
    *("a cat", "(", ")", "[", "]", ":", "::", "<lora:", "<lora:outline>", "<lora:outline:60>", "<", ">", "\\", "BREAK"),
    *(
        "<lora:" + "x" * 201 + ":1>",
        "embedding:",
        "embedding:glow",
        "glow",
        "1e999",
        "nan",
        "-",
        "1.3",
        ",",
        "\x00",
        "𝔘",
    ),
    *("\u2028", "é", "a" * 15_000, " AND ", "|", "<lyco:x>"),
]
prompts = st.lists(st.sampled_from(FRAGMENTS), max_size=6).map("".join)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | prompts | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
weights = st.sampled_from([0, -1, 0.8, 60, 100, 101, True, None, "1", [1], {"unet": 60}, {"te": 1}, float("inf")])
loras = st.one_of(
    st.lists(
        st.sampled_from(["outline:60", "outline", "no", ":", "outline:60:60", "outline:x", "x" * 300]), max_size=3
    ),
    st.dictionaries(st.sampled_from(["outline", "no", "", "x" * 300]), weights, max_size=3),
    st.lists(st.fixed_dictionaries({"name": st.sampled_from(["outline", 1]), "unet": weights}), max_size=3),
)
plausible: dict[str, st.SearchStrategy[Any]] = {
    "prompt": prompts,
    "negative_prompt": prompts,
    "prompt_2": prompts,
    "loras": loras,
    "embeddings": st.lists(st.sampled_from(["glow", "007", "none"]), max_size=2),
    "sampler": st.sampled_from([*(sampler.name for sampler in SAMPLERS), "DPM++ 2M Karras", "x"]),
    "schedule": st.sampled_from([*SCHEDULES, "x"]),
    "steps": st.integers(0, 1001),
    "seed": st.integers(-2, 2**63),
    "freeu": st.booleans() | st.fixed_dictionaries({"b1": weights}),
    "preset": st.sampled_from(["lcm", "x"]),
    "vae": st.sampled_from(["soft", "none"]),
}
fields = [*RenderRequest.model_fields, "preset", "nonsense"]
bodies = st.lists(st.sampled_from(fields), unique=True, max_size=4).flatmap(
    lambda keys: st.fixed_dictionaries({key: plausible.get(key, anything) | anything for key in keys})
)


def of_native(body: dict[str, Any]) -> list[dict[str, Any]]:
    return [body]


def of_openai(body: dict[str, Any]) -> list[dict[str, Any]]:
    return read_settings(ImageGeneration.model_validate(body))


def of_a1111(body: dict[str, Any]) -> list[dict[str, Any]]:
    return read_txt2img(Txt2Img.model_validate(body)).settings


def of_runpod(body: dict[str, Any]) -> list[dict[str, Any]]:
    return read_input(body, LIMITS).settings


def read(each: dict[str, Any]) -> RenderRequest:
    """As `Service` reads settings."""
    request = RenderRequest.from_settings(unfold(each, "request"))
    check_limits(request, LIMITS)
    return settle(request, NAMES)


@pytest.mark.parametrize("interface", [of_native, of_openai, of_a1111, of_runpod])
@settings(deadline=None)
@given(body=bodies)
def test_any_request_is_read_or_refused_with_a_code(
    interface: Callable[[dict[str, Any]], list[dict[str, Any]]], body: dict[str, Any]
) -> None:
    try:
        requests = [read(each) for each in interface({"prompt": "x", **body})]
    except (DarkroomError, ValidationError):  # FastAPI makes a coded error of the latter
        return
    for request in requests:
        assert RenderRequest.model_validate(request.model_dump(mode="json")) == request
        assert RenderRequest.from_json(request.to_json()) == request


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "x", "loras": ["outline:60", "outline:60"]},
        {"prompt": "<lora:outline:1:60> <lora:outline:1:60>"},
        {"prompt": "<lora:outline:60>", "loras": {"outline": 60}},
        {"prompt": "<lora:outline:60>", "prompt_2": "<lora:outline:60>"},
    ],
)
def test_weights_that_add_up_over_the_limit_are_an_error_of_the_lora(body: dict[str, Any]) -> None:
    with pytest.raises(LoraError, match=r"outline.*add up to (120|121)"):
        read(body)


def test_a_tag_with_a_long_name_is_an_error_of_the_lora() -> None:
    with pytest.raises(LoraError, match=r"201 characters; at most 200"):
        take_out_loras(f"a cat <lora:{'x' * 201}:1>")


@pytest.mark.parametrize("form", [TextLines(), JsonLines()])
@pytest.mark.parametrize("kind", [ValueError, KeyError, LookupError, UnicodeError])
def test_no_traceback_carries_a_prompt(form: logging.Formatter, kind: type[Exception]) -> None:
    handler = Kept()
    handler.setFormatter(form)
    logging.getLogger().addHandler(handler)
    try:
        shown = as_error(raised(kind))
    finally:
        logging.getLogger().removeHandler(handler)
    assert "a secret prompt" not in handler.text + str(shown)
    assert kind.__name__ in handler.text
    assert "ZeroDivisionError: division by zero" in handler.text  # what can't quote anything is told
    assert "in raised" in handler.text


def raised(kind: type[Exception]) -> Exception:
    prompt = "a secret prompt"
    try:
        try:
            RenderRequest.model_validate({"prompt": prompt, "steps": prompt})
        except ValidationError:
            _ = 1 / 0
    except ZeroDivisionError as error:
        try:
            raise kind(prompt) from error
        except kind as last:
            return last
    raise AssertionError


class Kept(logging.Handler):
    text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text += self.format(record)
