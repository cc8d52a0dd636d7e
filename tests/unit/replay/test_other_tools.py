"""SwarmUI, InvokeAI, NovelAI and Fooocus: their fields, grammars and places."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from darkroom.errors import ImageError
from darkroom.prompting.grammar import parse_pieces
from darkroom.replay.foreign import ForeignPicture
from darkroom.replay.other_grammars import comfy_pieces, compel_pieces, nai_pieces, write_pieces
from darkroom.replay.readers import read_foreign
from tests.fixtures.foreign_pictures import (
    FOOOCUS,
    INVOKE,
    NOVELAI,
    NOVELAI_TEXTS,
    SWARM,
    save_exif,
    save_png,
    user_comment,
)
from tests.unit.prompting.encoders import make_tokenizers


def read(texts: dict[str, str], tmp_path: Path) -> ForeignPicture:
    picture = read_foreign(save_png(tmp_path / "x.png", texts))
    assert picture is not None
    return picture


def names(picture: ForeignPicture) -> set[str]:
    return {each.field for each in picture.unused}


def test_swarmui(tmp_path: Path) -> None:
    picture = read({"parameters": json.dumps(SWARM, indent=2)}, tmp_path)
    assert picture.tool == "SwarmUI 0.9.7.0"
    assert picture.settings["prompt"] == "a fox (in snow:1.3) embedding:charm"
    assert (picture.settings["sampler"], picture.settings["schedule"]) == ("DPM++ 2M SDE", "Karras")
    assert picture.settings["loras"] == [{"name": "outline", "unet": 0.8, "te": 0.8}]
    hashes = {(each.kind, each.name): each.hashes["autov3"][0] for each in picture.models}
    assert hashes == {("checkpoint", "alpha"): "a", ("lora", "outline"): "b", ("embedding", "charm"): "c"}
    assert names(picture) == {"aspectratio", "automaticvae", "date", "original_prompt"}
    for suffix in ("jpg", "webp"):
        assert (
            read_foreign(save_exif(tmp_path / f"x.{suffix}", user_comment(json.dumps(SWARM), "utf-16-le"))) is not None
        )


def test_swarmui_says_what_works_on_parts_of_the_picture(tmp_path: Path) -> None:
    changed = {
        **SWARM["sui_image_params"],
        "prompt": "a <segment:face,0.5> [red|blue] [x] fox",
        "refinerupscale": 2.0,
        "initimage": True,
        "loras": "a,b",
        "loraweights": "1,0.5",
        "lorasectionconfinement": ["-1", "3"],
        "clipstopatlayer": -4,
    }
    del changed["sampler"], changed["scheduler"]
    picture = read({"parameters": json.dumps({"sui_image_params": changed})}, tmp_path)
    assert {"tag in prompt", "[…] in prompt", "refinerupscale", "initimage", "lorasectionconfinement"} <= names(picture)
    assert picture.settings["loras"] == [{"name": "a", "unet": 1.0, "te": 1.0}]
    assert (picture.settings["sampler"], picture.settings["schedule"], picture.settings["clip_skip"]) == (
        "Euler",
        "Normal",
        3,
    )
    with pytest.raises(ImageError, match="can't be read"):
        read({"parameters": '{"sui_image_params": []}'}, tmp_path)


def test_invokeai(tmp_path: Path) -> None:
    picture = read({"invokeai_metadata": json.dumps(INVOKE), "invokeai_graph": "{}"}, tmp_path)
    assert picture.tool == "InvokeAI 5.4.0"
    assert picture.settings["prompt"] == r"a fox, (snow:1.21) \[calm\]"
    assert (picture.settings["sampler"], picture.settings["schedule"]) == ("DPM++ 2M", "Karras")
    assert picture.settings["loras"] == [{"name": "outline", "unet": 0.75, "te": 0.75}]
    assert [(each.kind, each.name, dict(each.hashes)) for each in picture.models] == [
        ("checkpoint", "alpha", {}),
        ("lora", "outline", {}),
    ]
    changed = {
        **INVOKE,
        "positive_prompt": '("a", "b").blend(1, 1)',
        "positive_style_prompt": "dark",
        "rand_device": "cuda",
        "generation_mode": "sdxl_img2img",
        "strength": 0.5,
        "init_image": "x.png",
        "clip_skip": 2,
        "hrf_enabled": True,
        "controlnets": [{"x": 1}],
        "refiner_steps": 5,
        "vae": {"model_name": "soft"},
        "scheduler": "tcd",
    }
    picture = read({"invokeai_metadata": json.dumps(changed)}, tmp_path)
    expected = {"positive_prompt", "rand_device", "generation_mode", "strength", "init_image", "clip_skip", "sampler"}
    assert expected | {"hrf_enabled", "controlnets", "refiner_steps", "schedule"} == names(picture)
    assert picture.settings["prompt"] == r'\("a", "b"\).blend\(1, 1\)'
    assert picture.settings["prompt_2"] == "dark"
    assert any("(sdxl_img2img), which can't be repeated" in each for each in picture.differs)
    assert picture.settings["vae"] == "soft"


def test_older_invokeai(tmp_path: Path) -> None:
    image = {
        "prompt": [{"prompt": "a fox [blurry] in snow+", "weight": 1.0}],
        "steps": 20,
        "cfg_scale": 5.5,
        "seed": 7,
        "width": 64,
        "height": 64,
        "sampler": "k_euler_a",
        "type": "txt2img",
        "seamless": False,
        "perlin": 0.1,
    }
    data = {"app_version": "2.3.5", "model_weights": "alpha", "model_hash": "0" * 63 + "1", "image": image}
    dream = '"a fox [blurry] in snow+" -s 20 -S 7 -W 64 -H 64 -C 5.5 -A k_euler_a -G 0.8 -U 4 0.95 --seamless'
    for texts, unused in (({"sd-metadata": json.dumps(data)}, "perlin"), ({"Dream": dream}, "gfpgan_strength")):
        picture = read(texts, tmp_path)
        assert picture.settings["prompt"] == "a fox  in (snow:1.1)"
        assert picture.settings["negative_prompt"] == "blurry"
        assert (picture.settings["steps"], picture.settings["seed"], picture.settings["cfg_scale"]) == (20, 7, 5.5)
        assert picture.settings["sampler"] == "Euler a"
        assert unused in names(picture)
    assert {e.field: e.value for e in picture.unused} == {
        "gfpgan_strength": "0.8",
        "upscale": "4 0.95",
        "--seamless": "True",
    }
    for texts in ({"sd-metadata": "[]"}, {"sd-metadata": "{}"}, {"Dream": '"open'}, {"invokeai_metadata": "{"}):
        with pytest.raises(ImageError):
            read(texts, tmp_path)


def test_novelai(tmp_path: Path) -> None:
    picture = read(NOVELAI_TEXTS, tmp_path)
    assert picture.tool == "NovelAI Diffusion V3 9CC2F394"
    assert picture.settings["prompt"] == "(a fox:1.05), (snow:0.952381)"
    assert (picture.settings["sampler"], picture.settings["schedule"]) == ("Euler a", "Karras")
    assert picture.settings["cfg_rescale"] == 0.2
    assert names(picture) == {"sm", "n_samples", "request_type", "signed_hash"}
    v4: dict[str, Any] = {
        **NOVELAI,
        "v4_prompt": {
            "caption": {
                "base_caption": "1.5::a fox::, x|y",
                "char_captions": [{"char_caption": "a girl", "centers": []}],
            },
        },
    }
    comment = user_comment(json.dumps(v4))
    webp = read_foreign(save_exif(tmp_path / "x.webp", comment, tags={0x0131: "NovelAI Diffusion V4 37442FCA"}))
    assert webp is not None
    assert webp.settings["prompt"] == "(a fox:1.5), x|y"
    assert "v4_prompt: character" in names(webp)
    assert any("'|'" in each for each in webp.differs)


def test_fooocus(tmp_path: Path) -> None:
    picture = read({"parameters": json.dumps(FOOOCUS), "fooocus_scheme": "fooocus"}, tmp_path)
    assert picture.tool == "Fooocus v2.5.5"
    assert picture.settings["prompt"] == "a fox, cinematic still a fox"
    assert picture.settings["loras"] == [{"name": "outline", "unet": 0.5, "te": 0.5}]
    assert (picture.settings["width"], picture.settings["seed"]) == (64, 7)
    assert {"sharpness", "adm_guidance", "styles"} <= names(picture)
    outside = {0x9286: json.dumps(FOOOCUS), 0x927C: "fooocus", 0x0131: "Fooocus v2.5.5"}
    jpeg = read_foreign(save_exif(tmp_path / "x.jpg", tags=outside))
    assert jpeg is not None
    assert jpeg.settings == picture.settings


@pytest.mark.parametrize(
    ("read_grammar", "text", "expected"),
    [
        (comfy_pieces, "a (b) c", "a (b:1.1) c"),
        (comfy_pieces, "((a:0.5) b:2)", "(a:0.5)( b:2)"),
        (comfy_pieces, "(a: b)", "(a: b:1.1)"),
        (comfy_pieces, "(a:1e-9)", "(a:0)"),
        (comfy_pieces, "a) (b)", r"a\) \(b\)"),
        (comfy_pieces, "C:\\dir \\(x\\)", r"C:\\dir \(x\)"),
        (compel_pieces, "fire (flames)0.5, x", "fire (flames:0.5), x"),
        (compel_pieces, "hot-dog well--", "hot-dog (well:0.81)"),
        (compel_pieces, "(a (b)1.3 c)1.1", "(a :1.1)(b:1.43)( c:1.1)"),
        (compel_pieces, "a ((b)) (c", r"a b \(c"),
        (nai_pieces, "{{a}} [[b]]", "(a:1.1025) (b:0.907029)"),
        (nai_pieces, "(a) -1::b::", r"\(a\) (b:-1)"),
    ],
)
def test_grammars(read_grammar: Any, text: str, expected: str) -> None:
    assert write_pieces(read_grammar(text)) == expected


def test_what_is_rewritten_has_the_same_tokens(tmp_path: Path) -> None:
    for tokenizer in make_tokenizers(tmp_path):
        for text in ("a AND b", "x BREAK y", "<lora:a:0.5>, z", "AND<lyco:x>"):
            (piece,) = parse_pieces(write_pieces([(text, 1.0)]))
            assert tokenizer(piece.text)["input_ids"] == tokenizer(text)["input_ids"], text


def test_brackets_without_end_take_no_time_and_no_stack() -> None:
    for read_grammar in (comfy_pieces, compel_pieces, nai_pieces):
        for text in ("(" * 20_000, "{" * 20_000, "[" * 20_000, "::" * 10_000, "a+" * 10_000):
            try:
                write_pieces(read_grammar(text))
            except ValueError as error:
                assert "brackets" in str(error) or "finite" in str(error)
    with pytest.raises(ValueError, match="brackets in each other"):
        comfy_pieces("(" * 200 + "a" + ")" * 200)
