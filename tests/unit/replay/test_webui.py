"""Infotexts of A1111, its forks, Civitai's generator and Darkroom itself, with all that people have in their prompts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from darkroom.pictures.infotext import write_infotext
from darkroom.replay.foreign import ForeignPicture
from darkroom.replay.readers import read_foreign
from darkroom.request.render_request import RenderRequest
from tests.fixtures.foreign_pictures import save_exif, save_png, user_comment

LINE = (
    "Steps: 20, Sampler: Euler a, Schedule type: Karras, CFG scale: 7, Seed: 1, Size: 64x64, RNG: CPU, Version: v1.10.1"
)


def read(text: str, tmp_path: Path) -> ForeignPicture:
    picture = read_foreign(save_png(tmp_path / "x.png", {"parameters": text}))
    assert picture is not None
    return picture


def reasons(picture: ForeignPicture) -> dict[str, str]:
    return {each.field: each.reason for each in picture.unused}


@pytest.mark.parametrize(
    "prompt",
    [
        'a "quoted" fox, {curly|}, $x, 100%: yes',
        "two\nlines\n\nand Steps: 20, Sampler: none",
        "Steps: 30, Sampler: Euler, CFG scale: 3\nis a prompt here",
        "a text Negative prompt: inside",
        "雪の中の狐 😀, ☃",
        r"\(escaped\) ((x)) [y] (z:1.3) BREAK [a:b:0.5]",
        '{"a": 1} not JSON',
        "",
    ],
)
def test_a_prompt_stays_as_it_is(prompt: str, tmp_path: Path) -> None:
    picture = read(f"{prompt}\nNegative prompt: bad, (worse:1.2)\nand more\n{LINE}", tmp_path)
    assert picture.settings["prompt"] == prompt
    assert picture.settings["negative_prompt"] == "bad, (worse:1.2)\nand more"
    assert picture.settings["emphasis"] == "a1111", "A1111's own weights, not Darkroom's default"


def test_sampler_names_of_every_age(tmp_path: Path) -> None:
    expected = {
        "Sampler: DPM++ 2M Karras": ("DPM++ 2M", "Karras"),
        "Sampler: DPM++ 2M": (
            "DPM++ 2M",
            "Uniform",
        ),  # before 1.9 a sampler without a schedule in its name had k-diffusion's
        "Sampler: DPM++ 2M, Schedule type: Automatic": ("DPM++ 2M", "Karras"),
        "Sampler: Euler, Schedule type: Automatic": ("Euler", "Uniform"),
        "Sampler: DPM++ SDE": ("DPM++ SDE", "Normal"),
        "Sampler: DPM++ 3M SDE Exponential": ("DPM++ 3M SDE", "Exponential"),
        "Sampler: Euler, Schedule type: SGM Uniform": ("Euler", "SGM Uniform"),
    }
    for text, pair in expected.items():
        settings = read(f"x\nSteps: 20, {text}, CFG scale: 7, Seed: 1, Size: 64x64, RNG: CPU", tmp_path).settings
        assert (settings["sampler"], settings["schedule"]) == pair, text
    picture = read("x\nSteps: 20, Sampler: DPM++ 2S a Karras, CFG scale: 7, Seed: 1, Size: 64x64", tmp_path)
    assert "sampler" not in picture.settings
    assert "Darkroom doesn't" in reasons(picture)["sampler"]


def test_what_differs_is_said(tmp_path: Path) -> None:
    picture = read(
        LINE.replace(", RNG: CPU", "").replace("Size: 64x64", "Size: 64x64, Clip skip: 2, ENSD: 31337"), tmp_path
    )
    found = reasons(picture)
    assert "another picture" in found["RNG"]
    assert "ignores it for SDXL" in found["Clip skip"]
    assert "noise" in found["ENSD"]
    assert any("generator" in each for each in picture.differs)
    assert any("all zeros" in each for each in picture.differs)
    assert "clip_skip" not in picture.settings


def test_hires_fix_is_a_stage(tmp_path: Path) -> None:
    text = (
        f"x <lora:a:0.5>\nNegative prompt: y\n{LINE}, Denoising strength: 0.4, Hires upscale: 2, Hires steps: 10, "
        'Hires upscaler: 4x-UltraSharp, Hires prompt: "x, sharp", Hires sampler: DPM++ 2M, Hires schedule type: Karras, Hires CFG Scale: 5'
    )
    picture = read(text, tmp_path)
    (stage,) = picture.settings["stages"]
    assert stage == {
        "hires": {
            "denoising_strength": 0.4,
            "scale": 2.0,
            "steps": 10,
            "upscaler": "4x-UltraSharp",
            "prompt": "x, sharp",
            "cfg_scale": 5.0,
            "sampler": "DPM++ 2M",
            "schedule": "Karras",
        }
    }
    assert ("upscaler", "4x-UltraSharp") in [(each.kind, each.name) for each in picture.models]
    old = read(
        "x\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 128x192, Denoising strength: 0.7, First pass size: 64x96",
        tmp_path,
    )
    assert (old.settings["width"], old.settings["height"]) == (64, 96)
    assert old.settings["stages"] == [{"hires": {"denoising_strength": 0.7, "width": 128, "height": 192}}]


def test_what_darkroom_does_not_do_is_listed_with_its_reason(tmp_path: Path) -> None:
    text = (
        f'x <hypernet:h:1>\n{LINE}, Denoising strength: 0.75, Mask blur: 4, ADetailer model: face.pt, ADetailer prompt: "a, b: c", '
        'ControlNet 0: "Module: canny, Weight: 1", Tiled Diffusion: {"Method": "MultiDiffusion", "Tiles": [1, 2]}, RP Active: True, '
        "Refiner: refiner [abc], Refiner switch at: 0.8, Face restoration: CodeFormer, Some Extension: on, User: me"
    )
    found = reasons(read(text, tmp_path))
    expected = {
        "tag": "no LoRA",
        "Denoising strength": "another picture",
        "Mask blur": "another picture",
        "ADetailer model": "faces",
        "ADetailer prompt": "faces",
        "ControlNet 0": "another one",
        "Tiled Diffusion": "tiles",
        "RP Active": "regions",
        "Refiner": "another checkpoint",
        "Refiner switch at": "another checkpoint",
        "Face restoration": "faces",
        "Some Extension": "no such setting",
        "User": "no pixel",
    }
    assert expected.keys() == found.keys()
    assert all(part in found[field] for field, part in expected.items())


def test_loras_keep_a1111s_meaning(tmp_path: Path) -> None:
    picture = read(f"<lora:a:0.5> <lora:b:0.8:0.2> x\nNegative prompt: <lora:c:1>\n{LINE}", tmp_path)
    assert picture.settings["prompt"] == "<lora:a:0.5> <lora:b:te=0.8:unet=0.2> x"
    assert RenderRequest.from_settings(picture.settings).all_loras[1].te == 0.8
    assert picture.settings["negative_prompt"] == "< lora:c:1>", "a text for A1111, and refused here if it were a tag"


def test_hashes_of_all_fields_come_together(tmp_path: Path) -> None:
    text = (
        f"<lora:Add Detail:0.5> charm, x\n{LINE}, Model hash: 0123456789, Model: sub/alpha.safetensors, VAE hash: 9876543210, "
        'VAE: soft.safetensors, Lora hashes: "Add Detail: abcdef012345, empty: ", TI hashes: "charm: 0123abcd4567", '
        'Hashes: {"model": "0123456789", "vae": "9876543210", "lora:Add Detail": "fedcba9876", "embed:charm": "0123abcd45"}'
    )
    found = {(each.kind, each.name): dict(each.hashes) for each in read(text, tmp_path).models}
    assert found == {
        ("checkpoint", "alpha"): {"sha256": "0123456789", "autov2": "0123456789"},
        ("vae", "soft"): {"sha256": "9876543210", "autov2": "9876543210"},
        ("lora", "Add Detail"): {"autov3": "abcdef012345", "autov2": "fedcba9876"},
        ("lora", "empty"): {},
        ("embedding", "charm"): {"sha256": "0123abcd4567", "autov2": "0123abcd45"},
    }


def test_forks_and_civitai(tmp_path: Path) -> None:
    forge = read(f"x\n{LINE.replace('v1.10.1', 'f2.0.1v1.10.1-previous-633')}, Clip skip: 3, Module 1: t5xxl", tmp_path)
    assert forge.tool == "Forge f2.0.1v1.10.1-previous-633"
    assert forge.settings["clip_skip"] == 2
    nextdiff = read(
        "x\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 64x64, App: SD.Next, Version: 8e2, Backend: Diffusers",
        tmp_path,
    )
    assert nextdiff.tool == "SD.Next 8e2"
    resources = [
        {"type": "checkpoint", "modelVersionId": 11, "modelName": "Alpha", "modelVersionName": "v1"},
        {"type": "lora", "weight": 0.65, "modelVersionId": 22, "modelName": "Outline", "modelVersionName": "v2"},
        {"type": "embed", "weight": 1, "modelVersionId": 33, "modelName": "Charm"},
        {"weight": 1, "air": "urn:air:sdxl:motion:civitai:1@44", "modelName": "Other"},
    ]
    text = (
        "a fox\nNegative prompt: bad\nSteps: 25, Sampler: DPM++ 2M Karras, CFG scale: 7, Seed: 5, Size: 64x64, Clip skip: 2, "
        f"Created Date: 2026-11-28T09:18:43.5269343Z, Civitai resources: {json.dumps(resources)}, Civitai metadata: {{}}"
    )
    picture = read_foreign(save_exif(tmp_path / "c.jpg", user_comment(text)))
    assert picture is not None
    assert picture.tool == "Civitai"
    assert picture.settings["loras"] == [{"name": "Outline v2", "unet": 0.65, "te": 0.65}]
    assert "clip_skip" not in picture.settings or picture.settings["clip_skip"] == 0, "2 is SDXL's usual layer"
    assert [(each.kind, each.origin) for each in picture.models] == [
        ("checkpoint", "civitai:11"),
        ("lora", "civitai:22"),
        ("embedding", "civitai:33"),
    ]
    assert reasons(picture).keys() == {"Created Date", "Civitai resources"}
    assert picture.settings["cfg_scale"] == 7


def test_infotexts_of_programs_that_render_as_comfyui(tmp_path: Path) -> None:
    text = (
        "a ((snow:1.3) x:1.5) [calm], <lora:a:0.5>\nNegative prompt: [b]\nSteps: 30, Sampler: DPM++ 2M SDE Karras, Seed: 7, Size: 64x64, "
        'CFG scale: 4, Sharpness: 2, Model: alpha, Model hash: 0123456789, Scheduler: karras, Raw prompt: "a, b", '
        'Lora hashes: "outline: abcdef0123, lost: 1234567890", Lora weights: "outline: 0.5", Version: Fooocus v2.5.5'
    )
    picture = read(text, tmp_path)
    assert picture.tool == "Fooocus v2.5.5"
    assert picture.settings["prompt"] == r"a (snow:1.3)( x:1.5) \[calm\],  <lora:a:0.5>"
    assert picture.settings["negative_prompt"] == r"\[b\]"
    assert (picture.settings["emphasis"], picture.settings["schedule"]) == ("comfy", "Karras")
    assert picture.settings["loras"] == [{"name": "outline", "unet": 0.5, "te": 0.5}]
    assert reasons(picture).keys() == {"Sharpness", "Raw prompt", "LoRA"}
    assert "lost" in next(each.value for each in picture.unused if each.field == "LoRA")


def test_lines_that_extensions_write_behind_are_no_settings(tmp_path: Path) -> None:
    picture = read(f"a red fox\n{LINE}\nTemplate: a {{red|blue}} fox\nNegative Template: y", tmp_path)
    assert picture.settings["prompt"] == "a red fox"
    assert reasons(picture).keys() == {"Template", "Negative Template"}


def test_values_that_cannot_be_are_listed_and_nothing_is_guessed(tmp_path: Path) -> None:
    text = "x\nSteps: many, Sampler: Undefined, CFG scale: NaN, Seed: -1, Size: 65x64, RNG: CPU"
    picture = read(text, tmp_path)
    assert reasons(picture).keys() == {"Steps", "Sampler", "CFG scale", "Seed", "Size"}
    RenderRequest.from_settings(picture.settings)


def test_darkrooms_own_jpeg_gives_the_request_back(tmp_path: Path) -> None:
    given = {
        "prompt": "a (red:1.3) fox <lora:a:0.8:0.5>",
        "negative_prompt": "b",
        "steps": 9,
        "sampler": "DPM++ 2M",
        "seed": 5,
    }
    stages = [{"hires": {"scale": 1.5, "upscaler": "Lanczos", "denoising_strength": 0.3}}]
    request = RenderRequest.from_settings(
        {**given, "width": 64, "height": 64, "clip_skip": 2, "stages": stages, "emphasis": "lpw"}
    )
    infotext = write_infotext(request, model="alpha", model_hash="0123456789", version="0.1.0")
    path = save_exif(tmp_path / "x.jpg", user_comment(infotext), size=(96, 96))
    picture = read_foreign(path)
    assert picture is not None
    assert picture.tool == "Darkroom 0.1.0"
    assert picture.differs == ()
    assert RenderRequest.from_settings(picture.settings).model_dump() == {
        **request.model_dump(),
        "prompt": "a (red:1.3) fox <lora:a:te=0.5:unet=0.8>",
    }


def test_an_independent_reader_agrees(tmp_path: Path) -> None:
    from sd_parsers import ParserManager

    text = f'a "fox", (snow:1.2)\nNegative prompt: bad, "x: y"\n{LINE}, Model hash: 0123456789, Model: alpha'
    path = save_png(tmp_path / "x.png", {"parameters": text})
    other, picture = ParserManager().parse(path), read_foreign(path)
    assert other is not None and picture is not None
    (sampler,) = other.samplers
    assert [each.value for each in sampler.prompts] == [picture.settings["prompt"]]
    assert [each.value for each in sampler.negative_prompts] == [picture.settings["negative_prompt"]]
    assert sampler.parameters["seed"] == str(picture.settings["seed"])
    assert sampler.name == picture.settings["sampler"]
    assert (sampler.model.name, sampler.model.hash) == (picture.models[0].name, picture.models[0].hashes["sha256"])
