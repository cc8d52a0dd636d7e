"""The engine's pixels are those of a plain diffusers pipeline with the same scheduler, noise and embeddings."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from darkroom.engine import Engine
from darkroom.engine.schedulers import build
from darkroom.errors import RequestError
from darkroom.prompting import encode_prompt
from darkroom.request import RenderRequest
from darkroom.samplers import SAMPLERS, SCHEDULES, Sampler

KARRAS = {"use_karras_sigmas": True}
CASES: list[tuple[str, str, str, dict[str, Any]]] = [
    ("Euler", "Automatic", "EulerDiscreteScheduler", {}),
    ("Euler", "Karras", "EulerDiscreteScheduler", KARRAS),
    ("Euler", "SGM Uniform", "EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),
    ("Euler a", "Automatic", "EulerAncestralDiscreteScheduler", {}),
    ("DPM++ 2M", "Automatic", "DPMSolverMultistepScheduler", {}),
    ("DPM++ 2M", "Karras", "DPMSolverMultistepScheduler", KARRAS),
    ("DDIM", "Automatic", "DDIMScheduler", {}),
]


@pytest.fixture(scope="module")
def plain(model_dir: Path) -> Any:
    import torch
    from diffusers import StableDiffusionXLPipeline

    pipeline = StableDiffusionXLPipeline.from_pretrained(
        model_dir, dtype=torch.float32, variant="fp16", use_safetensors=True, local_files_only=True
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize(("sampler", "schedule", "scheduler", "options"), CASES)
def test_pixels_equal_a_plain_pipelines(
    engine: Engine,
    plain: Any,
    model_dir: Path,
    request_: RenderRequest,
    sampler: str,
    schedule: str,
    scheduler: str,
    options: Any,
) -> None:
    import diffusers
    import torch

    request = request_.model_copy(update={"sampler": sampler, "schedule": schedule, "steps": 4, "width": 96})
    settings = diffusers.EulerDiscreteScheduler.load_config(model_dir / "scheduler")
    encoders = (plain.text_encoder, plain.text_encoder_2)
    prompt = encode_prompt((plain.tokenizer, plain.tokenizer_2), encoders, request.prompt, request.negative_prompt)
    plain.scheduler = getattr(diffusers, scheduler).from_config(settings, **options)
    original = plain(
        prompt_embeds=prompt.prompt_embeds,
        negative_prompt_embeds=prompt.negative_prompt_embeds,
        pooled_prompt_embeds=prompt.pooled_prompt_embeds,
        negative_pooled_prompt_embeds=prompt.negative_pooled_prompt_embeds,
        width=request.width,
        height=request.height,
        num_inference_steps=request.steps,
        guidance_scale=request.cfg_scale,
        generator=torch.Generator("cpu").manual_seed(request.seed),
    ).images[0]
    assert engine.render(request).image.tobytes() == original.tobytes()


def test_each_scheduler_is_fresh_and_knows_what_the_model_predicts() -> None:
    config = {"prediction_type": "v_prediction", "beta_end": 0.02, "skip_prk_steps": True, "_class_name": "X"}
    first, second = build("Euler", "Automatic", config), build("Euler", "Automatic", config)
    assert first is not second
    assert (first.config.prediction_type, first.config.beta_end) == ("v_prediction", 0.02)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: sampler.name)
def test_no_schedule_is_silently_ignored(sampler: Sampler) -> None:
    import diffusers

    known = inspect.signature(getattr(diffusers, sampler.scheduler).__init__).parameters
    for schedule, options in SCHEDULES.items():
        settings = {"prompt": "", "sampler": sampler.name, "schedule": schedule}
        if options.keys() <= known.keys():
            assert RenderRequest.from_settings(settings).schedule == schedule
        else:
            with pytest.raises(RequestError, match=f"the sampler {sampler.name} can't follow the schedule"):
                RenderRequest.from_settings(settings)
