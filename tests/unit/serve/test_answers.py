"""The one object that carries a picture from an engine to every interface."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from darkroom.engine import RenderedImage, RenderFacts, UsedAsset
from darkroom.errors import DarkroomError, RequestError
from darkroom.pictures.marking import XMP
from darkroom.pictures.png import read_png_text, text_of_png
from darkroom.request.render_request import RenderRequest
from darkroom.revisions import RENDER
from darkroom.serve.answers import Rendered, as_error, encode

LORA = UsedAsset("loras", "outline", "ab" * 32, "abababababab")
REQUEST = RenderRequest(prompt="a secret fox", width=64, height=72, steps=2, cfg_scale=4, seed=7)


def render(
    *assets: UsedAsset,
    device: str = "cuda:0",
    warnings: tuple[str, ...] = (),
    arithmetic: dict[str, Any] | None = None,
) -> Rendered:
    times = (0.25, 0.01, 1.2, 0.05, 1.51)
    facts = RenderFacts(3, 0, 1, *times, device, "fp16", "resident, fp16", "tiny", "0123456789", assets, warnings)
    facts = replace(facts, arithmetic=arithmetic)
    return encode(RenderedImage(Image.new("RGB", (64, 72)), REQUEST, facts))


def test_what_it_says_is_what_its_png_says(tmp_path: Path) -> None:
    rendered = render(LORA, warnings=("shows one colour",))
    (tmp_path / "a.png").write_bytes(rendered.png)
    texts = read_png_text(tmp_path / "a.png")
    made = json.loads(texts["darkroom"])
    assert rendered.infotext == texts["parameters"]
    assert rendered.request == RenderRequest.from_settings(made["request"])
    assert list(rendered.warnings) == made["warnings"] == ["shows one colour"]
    assert (rendered.model, rendered.model_hash) == (made["model"], made["model_hash"]) == ("tiny", "0123456789")
    assert render(LORA, warnings=("shows one colour",)) == rendered


def test_its_metadata_without_stages_are_what_readers_know(tmp_path: Path) -> None:
    """Whoever reads them finds each key where it has been; a new one is written here too."""
    (tmp_path / "a.png").write_bytes(render().png)
    texts = read_png_text(tmp_path / "a.png")
    assert list(texts) == ["parameters", "darkroom", XMP]
    made = json.loads(texts["darkroom"])
    assert list(made) == ["request", "model", "model_hash", "assets", "warnings", "versions", "revision", "made_on"]
    assert made["made_on"] == {"device": "cuda", "dtype": "fp16"} and made["revision"] == [RENDER]
    assert list(made["request"]) == [
        *("prompt", "negative_prompt", "width", "height", "steps", "cfg_scale", "sampler", "schedule", "seed"),
        *("variation_seed", "variation_strength", "prompt_2", "negative_prompt_2", "emphasis", "clip_skip", "loras"),
        *("embeddings", "vae", "cfg_rescale", "freeu"),
    ]
    assert texts["parameters"].startswith(
        "a secret fox\nSteps: 2, Sampler: Euler, Schedule type: Automatic, CFG scale: 4, Seed: 7, Size: 64x72, "
        "Model hash: 0123456789, Model: tiny, RNG: CPU, Hashes: "
    )


def test_how_a_gpu_computed_stands_in_its_pictures(tmp_path: Path) -> None:
    how = {"cuda": "12.6", "tf32": False, "attention": ["flash", "math"]}
    (tmp_path / "a.png").write_bytes(render(arithmetic=how).png)
    assert json.loads(read_png_text(tmp_path / "a.png")["darkroom"])["arithmetic"] == how


def test_a_picture_of_stages_says_them_and_what_it_went_on_from() -> None:
    request = RenderRequest.from_settings(
        {**REQUEST.model_dump(), "stages": [{"hires": {"upscaler": "Lanczos"}}, {"upscale": {}}]}
    )
    facts = RenderFacts(3, 0, 1, *(0.25, 0.01, 1.2, 0.05, 1.51), "cuda:0", "fp16", "m", "tiny", "0123456789", (), ())
    image = RenderedImage(Image.new("RGB", (256, 288)), request, facts, latents=b"latents")
    rendered = encode(image, "c" * 64)
    made = json.loads(text_of_png(rendered.png, "picture")["darkroom"])
    assert made["made_from"] == "c" * 64
    assert RenderRequest.from_settings(made["request"]) == request
    assert "made_from" not in json.loads(text_of_png(encode(image).png, "picture")["darkroom"])
    assert rendered.facts["stages"] == ["hires", "upscale"]
    assert (rendered.facts["width"], rendered.facts["height"]) == (256, 288)
    assert "256×288 cfg 4 seed 7 | then hires, upscale | " in rendered.summary
    assert rendered.files == {"picture": rendered.png, "latents": b"latents"}


def test_its_facts_are_plain_data_without_a_prompt() -> None:
    rendered = render(LORA)
    assert json.loads(json.dumps(rendered.facts))["assets"][0]["name"] == "outline"
    assert "secret" not in json.dumps(rendered.facts) + rendered.summary


@pytest.mark.parametrize(
    ("assets", "device", "warnings", "summary"),
    [
        (
            (),
            "cuda:0",
            (),
            "prompt 3 tokens in 1 chunk | model tiny [0123456789] | cuda:0 resident, fp16 | "
            "Euler 2 steps 64×72 cfg 4 seed 7 | encode 0.01 s, denoise 1.20 s, decode 0.05 s, total 1.51 s",
        ),
        (
            (LORA,),
            "resident",
            ("shows one colour",),
            "prompt 3 tokens in 1 chunk | model tiny [0123456789] | with outline [abababababab], applied in 0.25 s | "
            "resident, fp16 | Euler 2 steps 64×72 cfg 4 seed 7 | "
            "encode 0.01 s, denoise 1.20 s, decode 0.05 s, total 1.51 s | WARNING: shows one colour",
        ),
    ],
)
def test_its_summary_is_one_line(
    assets: tuple[UsedAsset, ...], device: str, warnings: tuple[str, ...], summary: str
) -> None:
    assert render(*assets, device=device, warnings=warnings).summary == summary


def test_an_error_without_a_code_gets_one(caplog: pytest.LogCaptureFixture) -> None:
    coded = RequestError("request", None, "is wrong")
    assert as_error(coded) is coded
    assert caplog.text == ""
    shown: Any = as_error(ZeroDivisionError("a mistake"))
    assert isinstance(shown, DarkroomError)
    assert "ZeroDivisionError: a mistake" in str(shown)
    assert "Traceback" not in str(shown)
    assert "unexpected error" in caplog.text
