"""Where A1111's and diffusers' semantics agree, latents equal those of diffusers' own pipelines of the same model."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from PIL import Image
from safetensors.torch import load

from darkroom.engine import Engine
from darkroom.request.render_request import RenderRequest
from tests.fixtures.plain import plain_arguments, plain_latents
from tests.unit.engine.stages.pictures import box_mask, digest, file_of, on_picture, request_of

STEPS = 5


def run(plain: Any, name: str, request: RenderRequest, latents: Any, scheduler: str, run: int, **options: Any) -> Any:
    """What diffusers' pipeline of that name makes of latents with the last `run` of the request's steps."""
    parts = dict(plain.components)
    own = plain.scheduler.config
    parts["scheduler"] = getattr(diffusers, scheduler).from_config(own, **options.pop("scheduler_options", {}))
    pipeline = getattr(diffusers, name)(**parts, requires_aesthetics_score=False, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    arguments = plain_arguments(plain, request)
    with torch.inference_mode():
        # diffusers runs int(strength * steps) of the steps.
        return pipeline(
            image=latents, **arguments, strength=run / request.steps, output_type="latent", **options
        ).images


@pytest.mark.parametrize("strength", [0.3, 0.7, 1.0])
@pytest.mark.parametrize(
    ("sampler", "scheduler", "options"),
    [
        ("Euler", "EulerDiscreteScheduler", {}),
        ("Euler a", "EulerAncestralDiscreteScheduler", {}),
        ("Heun", "HeunDiscreteScheduler", {}),
        ("DPM++ 2M", "DPMSolverMultistepScheduler", {}),
        ("DPM++ 2M SDE", "DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
        ("UniPC", "UniPCMultistepScheduler", {}),
        ("DDIM", "DDIMScheduler", {}),
    ],
)
def test_img2img(
    small: Engine,
    plain: Any,
    picture: Image.Image,
    sampler: str,
    scheduler: str,
    options: dict[str, Any],
    strength: float,
) -> None:
    settings = {"denoising_strength": strength, "sampler": sampler}
    request, files = on_picture(picture, {"img2img": settings}, steps=STEPS)
    made = load(small.render(request, pictures=files, keep_latents=True).latents or b"")["latent"]
    steps = int(min(strength, 0.999) * STEPS) + 1
    latents = plain_latents(plain, picture)
    expected = run(
        plain, "StableDiffusionXLImg2ImgPipeline", request, latents, scheduler, steps, scheduler_options=options
    )
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-4)


def test_hires_is_img2img_of_the_enlarged_latents(small: Engine, plain: Any) -> None:
    stage = {"hires": {"upscaler": "Latent (antialiased)", "denoising_strength": 0.5, "steps": 3}}
    first = load(small.render(request_of(), keep_latents=True).latents or b"")["latent"]
    made = load(small.render(request_of(stage), keep_latents=True).latents or b"")["latent"]
    enlarged = torch.nn.functional.interpolate(first, size=(16, 16), mode="bilinear", antialias=True)
    request = request_of(steps=6, width=128, height=128)
    expected = run(plain, "StableDiffusionXLImg2ImgPipeline", request, enlarged, "EulerDiscreteScheduler", 3)
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-4)


def test_inpainting_with_euler(small: Engine, plain: Any, picture: Image.Image) -> None:
    """diffusers puts noisy latents outside of the mask; for a sampler without noise these are where A1111's steps lead."""
    mask = box_mask(64, 64, (16, 16, 47, 47))
    data = file_of(mask)
    request, files = on_picture(
        picture, {"inpaint": {"mask": digest(data), "mask_blur": 0, "denoising_strength": 0.7}}, steps=STEPS
    )
    denoised = small.denoise(request, pictures={**files, digest(data): data})
    expected = run(
        plain,
        "StableDiffusionXLInpaintPipeline",
        request,
        plain_latents(plain, picture),
        "EulerDiscreteScheduler",
        4,
        mask_image=mask,
        height=64,
        width=64,
    )
    made = denoised.made.latents
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(made[..., :2], plain_latents(plain, picture)[..., :2])
