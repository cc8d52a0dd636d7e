from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkroom.engine.rendered import UsedAsset
from darkroom.pictures.infotext import read_infotext, write_infotext
from darkroom.request.render_request import RenderRequest
from tests.fixtures.pngs import encode_png

REQUEST = RenderRequest(
    prompt="a red fox, snow",
    negative_prompt="blurry",
    width=832,
    height=1216,
    steps=20,
    cfg_scale=5.5,
    sampler="DPM++ 2M",
    schedule="Karras",
    seed=42,
)


def write(request: RenderRequest = REQUEST, model: str = "alpha", model_hash: str | None = "0123456789") -> str:
    return write_infotext(request, model=model, model_hash=model_hash, version="0.1.0")


def test_whole_text_stands_in_the_order_of_the_format() -> None:
    assert write() == (
        "a red fox, snow\n"
        "Negative prompt: blurry\n"
        "Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 5.5, Seed: 42, Size: 832x1216, "
        'Model hash: 0123456789, Model: alpha, RNG: CPU, Hashes: {"model": "0123456789"}, Version: darkroom 0.1.0'
    )


def test_hashes_of_names_with_commas_can_be_told_apart() -> None:
    used = [UsedAsset("loras", name, "1" * 64, "a" * 12) for name in ("50% grey, flat", "Dark Style (v1.2)")]
    text = write_infotext(REQUEST, model="alpha", model_hash=None, version="0.1.0", assets=used)
    settings = read_infotext(text)["settings"]
    assert settings["Lora hashes"].split(", ") == [f"50% grey flat: {'a' * 12}", f"Dark Style (v1.2): {'a' * 12}"]
    assert json.loads(settings["Hashes"])["lora:50% grey, flat"] == "1" * 10


def test_what_else_a_picture_was_made_with_stands_under_the_names_that_other_tools_know() -> None:
    request = RenderRequest(
        prompt="a fox <lora:outline:0.5>",
        loras=["soft:0.8:0"],
        variation_seed=7,
        variation_strength=0.25,
        emphasis="no_norm",
        cfg_rescale=0.7,
        freeu=True,
        prompt_2="an owl, night",
    )
    used = [
        UsedAsset("loras", "outline", "1" * 64, "a" * 12),
        UsedAsset("loras", "soft", "2" * 64, "b" * 12),
        UsedAsset("embeddings", "easy", "3" * 64, "3" * 12),
        UsedAsset("vaes", "fixed", "4" * 64, "4" * 10),
        UsedAsset("upscalers", "4x-Ultra", "5" * 64, "5" * 10),
    ]
    text = write_infotext(request, model="alpha", model_hash="0123456789", version="0.1.0", assets=used)
    assert text.startswith("a fox <lora:outline:0.5> <lora:soft:te=0:unet=0.8>\nSteps: ")
    settings = read_infotext(text)["settings"]
    assert list(settings)[8:] == [
        *("VAE hash", "VAE", "Variation seed", "Variation seed strength", "Emphasis", "CFG rescale", "FreeU"),
        *("Prompt 2", "RNG", "Lora hashes", "TI hashes", "Hashes", "Version"),
    ]
    assert (settings["VAE"], settings["VAE hash"]) == ("fixed", "4" * 10)
    assert settings["Lora hashes"] == f"outline: {'a' * 12}, soft: {'b' * 12}"
    assert settings["TI hashes"] == f"easy: {'3' * 12}"
    assert (settings["Variation seed"], settings["Variation seed strength"]) == ("7", "0.25")
    assert (settings["Emphasis"], settings["CFG rescale"]) == ("No norm", "0.7")
    assert settings["FreeU"] == "b1 1.3, b2 1.4, s1 0.9, s2 0.2"
    assert settings["Prompt 2"] == "an owl, night"
    assert json.loads(settings["Hashes"]) == {
        "model": "0123456789",
        "vae": "4" * 10,
        "lora:outline": "1" * 10,
        "lora:soft": "2" * 10,
        "embed:easy": "3" * 10,
        "upscaler:4x-Ultra": "5" * 10,
    }


def test_what_is_not_there_is_not_written() -> None:
    text = write(RenderRequest(prompt="a fox", cfg_scale=7), model_hash=None)
    assert text.startswith("a fox\nSteps: ")
    assert "CFG scale: 7," in text
    for absent in ("Negative prompt", "hash", "Hashes", "Clip skip"):
        assert absent not in text


@pytest.mark.parametrize(("clip_skip", "written"), [(0, False), (1, False), (2, True)])
def test_clip_skip_is_written_above_one(clip_skip: int, written: bool) -> None:
    text = write(REQUEST.model_copy(update={"clip_skip": clip_skip}))
    assert (f", Clip skip: {clip_skip}, RNG: CPU" in text) is written


@pytest.mark.parametrize("model", ["a, b", "a: b", "a\nb", '"quoted"', "{x}", " edge "])
def test_values_that_could_be_misread_are_quoted_and_come_back(model: str) -> None:
    text = write(model=model)
    assert read_infotext(text)["settings"]["Model"] == model
    assert text.count("\n") == 2


def test_empty_prompt_leaves_no_empty_line() -> None:
    text = write(RenderRequest(prompt="", negative_prompt="blurry"))
    assert text.startswith("Negative prompt: blurry\nSteps")
    parts = read_infotext(text)
    assert (parts["prompt"], parts["negative_prompt"]) == ("", "blurry")


def test_prompt_of_many_lines_with_colons_comes_back() -> None:
    prompt = "first line: x, y: 2\n\n(second:1.2), Steps: 3"
    parts = read_infotext(write(RenderRequest(prompt=prompt, negative_prompt="one\ntwo")))
    assert (parts["prompt"], parts["negative_prompt"]) == (prompt, "one\ntwo")


def test_text_without_settings_is_all_prompt() -> None:
    assert read_infotext("just words, nothing: else") == {
        "prompt": "just words, nothing: else",
        "negative_prompt": "",
        "settings": {},
    }


def test_text_of_a1111_is_read() -> None:
    parts = read_infotext(
        'cat\nNegative prompt: dog\nSteps: 20, Sampler: Euler a, Lora hashes: "x: 12, y: 34", '
        'TI hashes: "e: 5", Hashes: {"model": "ab", "lora:x": "12"}, Version: v1.10.1'
    )
    assert parts["negative_prompt"] == "dog"
    assert parts["settings"] == {
        "Steps": "20",
        "Sampler": "Euler a",
        "Lora hashes": "x: 12, y: 34",
        "TI hashes": "e: 5",
        "Hashes": '{"model": "ab", "lora:x": "12"}',
        "Version": "v1.10.1",
    }


@settings(deadline=None)
@given(st.text())
def test_any_text_can_be_read(text: str) -> None:
    read_infotext(text)


@settings(deadline=None)
@given(
    st.text(st.characters(exclude_categories=["Cs"])).filter(lambda t: "Negative prompt:" not in t),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
)
def test_every_part_comes_back(prompt: str, negative: str, model: str) -> None:
    parts = read_infotext(write(RenderRequest(prompt=prompt, negative_prompt=negative), model=model))
    assert (parts["prompt"], parts["negative_prompt"], parts["settings"]["Model"]) == (prompt, negative, model)
    assert parts["settings"]["Version"] == "darkroom 0.1.0"


@pytest.mark.parametrize("prompt", ["a red fox, snow", "Füchsin im Schnee", "雪の中の狐, night"])
def test_an_independent_reader_understands_the_picture(prompt: str, tmp_path) -> None:
    from PIL import Image
    from sd_parsers import ParserManager

    request = REQUEST.model_copy(update={"prompt": prompt})
    path = tmp_path / "fox.png"
    path.write_bytes(encode_png(Image.new("RGB", (8, 8)), write(request), request.to_json()))
    info = ParserManager().parse(path)
    assert info is not None
    (sampler,) = info.samplers
    assert [p.value for p in sampler.prompts] == [prompt]
    assert [p.value for p in sampler.negative_prompts] == ["blurry"]
    assert (sampler.name, sampler.parameters["seed"], sampler.parameters["scheduler"]) == ("DPM++ 2M", "42", "Karras")
    assert (sampler.model.name, sampler.model.hash) == ("alpha", "0123456789")
