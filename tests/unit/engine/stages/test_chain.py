"""Chains: every stage's picture is the same whether it is made in one go or from files, and whatever was made before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from darkroom.engine import Cancelled, Engine, Previews
from darkroom.engine.memory import MemoryPlan
from darkroom.errors import NanImageError, RequestError
from darkroom.request.stages import STAGES
from tests.unit.engine.stages.pictures import box_mask, digest, file_of, noisy_picture, on_picture, request_of

MASK = file_of(box_mask(128, 128, (32, 32, 90, 90)))
CHAIN: tuple[dict[str, Any], ...] = (
    {"hires": {"upscaler": "Latent (bicubic antialiased)", "steps": 2, "sampler": "Heun"}},
    {"img2img": {"denoising_strength": 0.5, "prompt": "[a fox|an owl]", "sampler": "Euler a"}},
    {"hires": {"upscaler": "Latent", "scale": 1, "denoising_strength": 0.6, "steps": 2}},
    {"inpaint": {"mask": digest(MASK), "masked_content": "fill", "sampler": "DPM++ 2M"}},
    {"hires": {"upscaler": "Latent (nearest)", "scale": 1, "denoising_strength": 0.6, "steps": 2}},
    {"upscale": {"scale": 1.1}},
    {"tile": {"scale": 1.1, "tile": 96, "overlap": 24, "denoising_strength": 0.3, "sampler": "DPM2 a"}},
    {"outpaint": {"right": 16, "sampler": "PLMS"}},
)


def test_every_stage_is_tested() -> None:
    assert {name for stage in CHAIN for name in stage} == set(STAGES) - {"refine"}  # by another model: test_refiner.py


def test_a_chain_equals_its_stages_made_one_by_one_from_files(small: Engine) -> None:
    made = small.render(request_of(), keep_latents=True)
    for done, (stage, size) in enumerate(zip(CHAIN, request_of(*CHAIN).sizes[1:], strict=True)):
        request = request_of(*CHAIN[: done + 1])
        masks = dict.fromkeys(request.pictures, MASK)
        files = {"before": file_of(made.image), **(masks if done == 3 else {})}
        if request.latents_at(done):
            assert made.latents is not None
            files["before.latent"] = made.latents
        made = small.render(request, pictures=files, stages_done=done, keep_latents=True)
        assert made.image.size == size
        assert (made.latents is not None) == request.stages[-1].leaves_latents, stage
        assert made.made_from == request.pictures
        if done in (1, 4, 7):  # beginning with the first picture
            whole = small.render(request, pictures=masks, keep_latents=True)
            assert whole.image.tobytes() == made.image.tobytes()
            assert whole.latents == made.latents
    assert [request_of(*CHAIN).latents_at(number) for number in range(8)] == [1, None, 1, *[None] * 5]


def test_the_first_picture_may_be_a_file_although_the_request_has_its_settings(small: Engine) -> None:
    first = small.render(request_of()).image
    request = request_of({"img2img": {}})
    assert small.render(request, pictures={"before": file_of(first)}).image == small.render(request).image
    other = noisy_picture(64, 64)
    assert small.render(request, pictures={"before": file_of(other)}).image != small.render(request).image


def test_stages_leave_no_trace(small: Engine, picture: Image.Image) -> None:
    request = request_of({"hires": {"steps": 2, "prompt": "an owl <lora:strong:1>"}})
    plain, stacked = small.render(request_of()).image, small.render(request).image
    request_2, files = on_picture(picture, {"img2img": {"prompt": "<lora:strong:-1> sky", "sampler": "LMS"}})
    small.render(request_2, pictures=files)
    assert small.render(request).image == stacked
    assert small.render(request_of()).image == plain


def test_a_stages_prompt_has_its_own_loras(small: Engine, picture: Image.Image) -> None:
    def made(stage: dict[str, Any], **settings: Any) -> Any:
        request, files = on_picture(picture, {"img2img": stage}, **settings)
        return small.render(request, pictures=files)

    alone = made({"prompt": "an owl <lora:strong:1>"})
    assert alone.image == made({}, prompt="an owl <lora:strong:1>").image
    assert alone.image != made({"prompt": "an owl"}).image
    assert [asset.name for asset in alone.facts.assets] == ["strong"]


@pytest.mark.parametrize(
    ("stage", "calls"),
    [
        ({"img2img": {"denoising_strength": 0.5}}, 3),
        ({"img2img": {"denoising_strength": 0.5, "sampler": "Heun"}}, 5),
        ({"img2img": {"denoising_strength": 0.5, "sampler": "PLMS"}}, 4),
        ({"img2img": {"denoising_strength": 0}}, 0),
        ({"hires": {"denoising_strength": 0.5}}, 4),
        ({"hires": {"denoising_strength": 0.5, "steps": 3, "sampler": "DPM2"}}, 5),
        ({"tile": {"tile": 64, "overlap": 16, "denoising_strength": 0.5, "scale": 1.5}}, 4 * 3),
        ({"upscale": {}}, 1),
    ],
    ids=str,
)
def test_progress_counts_all_stages(small: Engine, stage: dict[str, Any], calls: int) -> None:
    told: list[tuple[int, int]] = []
    small.render(request_of(stage), on_step=lambda *step: told.append(step))
    assert told == [(step, 4 + calls) for step in range(1, 4 + calls + 1)]


@pytest.mark.parametrize("after", [0, 3, 4, 6])
def test_a_chain_is_cancelled_before_the_next_step(small: Engine, after: int) -> None:
    told: list[int] = []
    with pytest.raises(Cancelled):
        small.render(
            request_of({"img2img": {}}), cancelled=lambda: len(told) >= after, on_step=lambda done, _: told.append(done)
        )
    assert len(told) == after


def test_previews_are_spread_over_all_stages(small: Engine) -> None:
    request, seen = request_of({"hires": {}}), []
    shown = small.denoise(request, previews=Previews(3, seen.append))
    assert [image.size for image in seen] == [(64, 64), (64, 64), (128, 128)]
    assert small.decode(shown).image == small.render(request).image


def test_nan_is_told_with_the_stage(small: Engine, picture: Image.Image) -> None:
    request, files = on_picture(picture, {"img2img": {"denoising_strength": 1}})
    for part, words in (("unet", "of img2img from step 1 of 4"), ("vae", "encoder")):
        module = getattr(small._pipeline, part)
        weight = (module.conv_out if part == "unet" else module.encoder.conv_in).weight
        kept = weight.clone()
        weight[0, 0, 0, 0] = float("nan")
        try:
            with pytest.raises(NanImageError, match=f"E-NANIMAGE.*{words}"):
                small.render(request, pictures=files)
        finally:
            weight.copy_(kept)


def test_the_size_that_a_stage_works_at_is_told_to_the_model(small: Engine) -> None:
    seen: list[list[float]] = []

    def look(_module: Any, _args: Any, options: dict[str, Any]) -> None:
        seen.append(options["added_cond_kwargs"]["time_ids"][0].tolist())

    handle = small._pipeline.unet.register_forward_pre_hook(look, with_kwargs=True)
    try:
        small.render(request_of({"hires": {"width": 96, "height": 128, "steps": 1}}, steps=1))
    finally:
        handle.remove()
    assert seen == [[64, 64, 0, 0, 64, 64], [128, 96, 0, 0, 128, 96]]  # height first


@pytest.mark.parametrize(
    ("stages_done", "files", "words"),
    [
        (1, {}, "'before': the picture after the stages that are done is missing"),
        (2, {"before": b""}, "stages done '2': is no number of stages from 0 to 1"),
        (0, {"before": b"x"}, "'before': cannot identify image file"),
        (0, {"before": file_of(noisy_picture(72, 64))}, "size '64x64': is not that of the picture, which has 72x64"),
        (0, {"before": file_of(noisy_picture(64, 64))}, "'before.latent': the stage works on the latents"),
        (
            0,
            {"before": file_of(noisy_picture(64, 64)), "before.latent": b"x"},
            r"latents 'before.latent': is no safetensors file with a tensor 'latent' of the shape \(1, 4, 8, 8\)",
        ),
        (0, {"0" * 64: b""}, "picture '0{64}': the request doesn't name it"),
    ],
)
def test_files_that_do_not_fit_the_chain(small: Engine, stages_done: int, files: dict[str, bytes], words: str) -> None:
    with pytest.raises(RequestError, match=f"E-REQUEST.*{words}"):
        small.render(request_of({"hires": {}}, {"img2img": {}}), pictures=files, stages_done=stages_done)


def test_files_are_what_the_request_names(small: Engine, picture: Image.Image) -> None:
    request, files = on_picture(picture, {"img2img": {}})
    with pytest.raises(RequestError, match="its file is missing"):
        small.render(request)
    with pytest.raises(RequestError, match="its bytes have another SHA-256"):
        small.render(request, pictures=dict.fromkeys(files, b"other"))
    with pytest.raises(RequestError, match="is there although the chain begins with an image"):
        small.render(request, pictures={**files, "before": file_of(picture)})


def test_more_steps_than_the_schedule_can_have_are_told_with_their_reason(small: Engine) -> None:
    stage = {"hires": {"denoising_strength": 0.66, "steps": 40, "schedule": "SGM Uniform"}}  # the end of 60.6 steps
    assert small.render(request_of(stage, steps=1), on_step=None).image.size == (128, 128)
    stage = {"hires": {"denoising_strength": 0.655, "steps": 40, "schedule": "SGM Uniform"}}  # of 61
    with pytest.raises(
        RequestError, match=r"hires: steps '40': 40 steps at a denoising strength of 0\.655 are the end of 61"
    ):
        small.render(request_of(stage, steps=1))


def test_stages_in_half_precision(small_model: Path, picture: Image.Image) -> None:
    """Latents and noise are added up in fp32, and the VAE takes its own number format."""
    engine = Engine.load(small_model, device="cpu", dtype="bf16")
    data = file_of(box_mask(64, 64, (16, 16, 47, 47)))
    request, files = on_picture(picture, {"inpaint": {"mask": digest(data)}}, {"hires": {"denoising_strength": 0.5}})
    files |= {digest(data): data}
    whole = engine.render(request, pictures=files)
    assert (whole.facts.dtype, whole.image.size) == ("bf16", (128, 128))
    first = engine.render(request.model_copy(update={"stages": request.stages[:1]}), pictures=files).image
    kept = np.asarray(first) == np.asarray(picture)
    assert kept[:4].all()
    resumed = engine.render(request, pictures={"before": file_of(first)}, stages_done=1)
    assert resumed.image == whole.image
    engine.close()


def test_large_pictures_are_encoded_in_tiles(small: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    vae, codec = small._pipeline.vae, small._parts.codec
    monkeypatch.setattr(codec, "_plan", MemoryPlan("cpu", "", 192 * 192))
    with torch.inference_mode():
        for edge, is_tiled in ((184, False), (192, True)):
            assert codec.encode(vae, noisy_picture(edge, edge)).shape == (1, 4, edge // 8, edge // 8)
            assert vae.use_tiling is is_tiled
