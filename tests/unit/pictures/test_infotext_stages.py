"""What a picture of stages says of itself: A1111's own fields, read back by our reader and an independent one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from darkroom.pictures.infotext import read_infotext, write_infotext
from darkroom.request.render_request import RenderRequest
from tests.fixtures.pngs import encode_png

BASE = {"prompt": "a red fox", "negative_prompt": "blurry", "width": 832, "height": 1216, "steps": 20, "seed": 42}
MASK, PHOTO = "a" * 64, "b" * 64
PLAIN = ["Steps", "Sampler", "Schedule type", "CFG scale", "Seed", "Size", "Model hash", "Model"]


def make(*stages: dict[str, Any], **settings: Any) -> RenderRequest:
    return RenderRequest.from_settings({**BASE, **settings, "stages": list(stages)})


def write(request: RenderRequest) -> str:
    return write_infotext(request, model="alpha", model_hash="0123456789", version="0.1.0")


def told(*stages: dict[str, Any], **settings: Any) -> dict[str, str]:
    """The fields that come with stages, and the size."""
    found = read_infotext(write(make(*stages, **settings)))["settings"]
    return {key: value for key, value in found.items() if key not in [*PLAIN, "RNG", "Hashes", "Version"]}


def settings_of(*stages: dict[str, Any], **settings: Any) -> dict[str, str]:
    return read_infotext(write(make(*stages, **settings)))["settings"]


def test_a_second_pass_is_told_as_a1111_tells_hires_fix() -> None:
    text = write(make({"hires": {"upscaler": "Lanczos", "scale": 1.5, "denoising_strength": 0.4, "steps": 12}}))
    assert text == (
        "a red fox\nNegative prompt: blurry\n"
        "Steps: 20, Sampler: Euler, Schedule type: Automatic, CFG scale: 7, Seed: 42, Size: 832x1216, "
        "Model hash: 0123456789, Model: alpha, Denoising strength: 0.4, RNG: CPU, "
        "Hires upscale: 1.5, Hires steps: 12, Hires upscaler: Lanczos, "
        'Hashes: {"model": "0123456789"}, Version: darkroom 0.1.0'
    )


@pytest.mark.parametrize(
    ("stage", "fields"),
    [
        ({}, {"Hires upscale": "2", "Hires upscaler": "Latent"}),
        ({"width": 1664}, {"Hires resize": "1664x0", "Hires upscaler": "Latent"}),
        (
            {"width": 1024, "height": 1024, "upscaler": "Latent (nearest-exact)"},
            {"Hires resize": "1024x1024", "Hires upscaler": "Latent (nearest-exact)"},
        ),
        (
            {"sampler": "DPM++ 2M", "schedule": "Karras", "cfg_scale": 5.5},
            {
                "Hires sampler": "DPM++ 2M",
                "Hires schedule type": "Karras",
                "Hires CFG Scale": "5.5",
                "Hires upscale": "2",
                "Hires upscaler": "Latent",
            },
        ),
        (
            {"prompt": "a fox, \nin detail", "negative_prompt": ""},
            {
                "Hires prompt": "a fox, \nin detail",
                "Hires negative prompt": "",
                "Hires upscale": "2",
                "Hires upscaler": "Latent",
            },
        ),
        ({"prompt": "a red fox", "steps": 20, "sampler": "Euler"}, {"Hires upscale": "2", "Hires upscaler": "Latent"}),
    ],
)
def test_a_second_passs_own_settings_stand_under_a1111s_names(stage: dict[str, Any], fields: dict[str, str]) -> None:
    assert told({"hires": stage}) == {"Denoising strength": "0.7", **fields}


@pytest.mark.parametrize(
    ("stage", "fields"),
    [
        ({"img2img": {}}, {"Denoising strength": "0.75"}),
        (
            {"inpaint": {"mask": MASK}},
            {"Denoising strength": "0.75", "Mask blur": "4"},
        ),
        (
            {"inpaint": {"mask": MASK, "invert": True, "mask_blur": 0, "only_masked": True, "padding": 16}},
            {
                "Denoising strength": "0.75",
                "Mask mode": "Inpaint not masked",
                "Inpaint area": "Only masked",
                "Masked area padding": "16",
            },
        ),
        (
            {"inpaint": {"mask": MASK, "masked_content": "latent noise"}},
            {"Denoising strength": "0.75", "Mask blur": "4", "Masked content": "latent noise"},
        ),
        (
            {"outpaint": {"left": 64, "down": 128}},
            {
                "Denoising strength": "0.9",
                "Mask blur": "8",
                "Masked content": "fill",
                "Outpaint": "left 64, down 128",
            },
        ),
        (
            {"tile": {"upscaler": "Lanczos", "overlap": 64}},
            {"Denoising strength": "0.3", "SD upscale overlap": "64", "SD upscale upscaler": "Lanczos"},
        ),
        ({"upscale": {"scale": 4}}, {"Postprocess upscale by": "4", "Postprocess upscaler": "Lanczos"}),
        (
            {"upscale": {"width": 1664, "upscaler": "Nearest"}},
            {"Postprocess upscale to": "1664x2432", "Postprocess upscaler": "Nearest"},
        ),
    ],
)
def test_each_stage_has_a1111s_fields(stage: dict[str, Any], fields: dict[str, str]) -> None:
    assert told(stage) == fields
    assert told(stage, image=PHOTO) == fields


@pytest.mark.parametrize(
    ("stages", "size"),
    [
        ([{"hires": {}}], "832x1216"),
        ([{"upscale": {}}], "832x1216"),
        ([{"img2img": {"width": 1024, "height": 768}}], "1024x768"),
        ([{"outpaint": {"left": 64}}], "896x1216"),
        ([{"tile": {"tile": 512, "overlap": 64}}], "512x512"),
        ([{"inpaint": {"mask": MASK, "only_masked": True, "width": 512, "height": 512}}], "512x512"),
        ([{"hires": {}}, {"img2img": {}}], "1664x2432"),
        ([{"img2img": {}}, {"hires": {}}], "832x1216"),
    ],
)
def test_the_size_is_that_of_the_pass_that_is_told(stages: list[dict[str, Any]], size: str) -> None:
    """A1111 writes the size of the first pass beside Hires. fix, and of a tile beside SD upscale."""
    assert settings_of(*stages)["Size"] == size


def test_an_img2img_pass_is_told_with_its_own_prompt_and_settings() -> None:
    stage = {"prompt": "an owl", "negative_prompt": "", "steps": 30, "sampler": "DPM++ 2M", "cfg_scale": 3}
    text = write(make({"hires": {}}, {"img2img": stage}, {"upscale": {}}, schedule="Karras"))
    assert text.startswith("an owl\nSteps: 30, Sampler: DPM++ 2M, Schedule type: ")
    settings = read_infotext(text)["settings"]
    assert (settings["CFG scale"], settings["Denoising strength"]) == ("3", "0.75")
    assert not [key for key in settings if key.startswith("Hires")]  # done before it, as A1111's text has it
    assert settings["Postprocess upscale by"] == "2"
    assert settings["Stages"] == "hires, img2img, upscale"


def test_a_second_pass_after_img2img_is_compared_with_it() -> None:
    fields = told({"img2img": {"prompt": "an owl"}}, {"hires": {"denoising_strength": 0.5}})
    assert fields["Hires prompt"] == "a red fox"  # the request's, which A1111 would not know otherwise
    assert (fields["Denoising strength"], fields["Stages"]) == ("0.5", "img2img, hires")


def test_an_independent_reader_understands_the_stages(tmp_path: Path) -> None:
    from sd_parsers import ParserManager

    request = make({"hires": {"upscaler": "Lanczos", "denoising_strength": 0.4}}, {"upscale": {"scale": 1.5}})
    path = tmp_path / "fox.png"
    path.write_bytes(encode_png(Image.new("RGB", (8, 8)), write(request), request.to_json()))
    info = ParserManager().parse(path)
    assert info is not None
    assert [p.value for p in info.samplers[0].prompts] == ["a red fox"]
    assert info.metadata["Denoising strength"] == "0.4"
    assert (info.metadata["Hires upscale"], info.metadata["Hires upscaler"]) == ("2", "Lanczos")
    assert (info.metadata["Postprocess upscale by"], info.metadata["Postprocess upscaler"]) == ("1.5", "Lanczos")
