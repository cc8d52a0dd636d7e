"""The refiner's latents equal those of diffusers' pipelines; another model in its place, or it in another's, is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from PIL import Image
from safetensors.torch import load

from darkroom.engine import Engine
from darkroom.errors import LoraError, RequestError
from darkroom.request.assets import AssetNames, settle
from darkroom.request.render_request import RenderRequest
from tests.fixtures.checkpoints import REFINER, shrink_architecture
from tests.fixtures.plain import make_marked_model, plain_latents
from tests.unit.engine.stages.pictures import on_picture, request_of

TEXTS = {"prompt": "a fox", "negative_prompt": "blurry"}
SETTINGS = {**TEXTS, "emphasis": "a1111", "steps": 10}  # whose chunks are as long as diffusers'
KINDS = {"Euler": "EulerDiscrete", "DPM++ 2M": "DPMSolverMultistep", "DDIM": "DDIM", "PLMS": "PNDM", "Heun": "HeunDiscrete"}


@pytest.fixture(scope="module")
def refiner_model(small_model: Path) -> Path:
    """A refiner of few channels, beside the model."""
    models = small_model.parent
    architecture = shrink_architecture(REFINER, models.parent / "refiner-architecture")
    return make_marked_model(models, "refiner", {}, architecture)


@pytest.fixture(scope="module")
def refiner(refiner_model: Path) -> Iterator[Engine]:
    engine = Engine.load(refiner_model, device="cpu")
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def plain_refiner(refiner_model: Path) -> Any:
    pipeline = diffusers.StableDiffusionXLImg2ImgPipeline.from_pretrained(
        refiner_model, dtype=torch.float32, variant="fp16", local_files_only=True
    )
    pipeline.set_progress_bar_config(disable=True)
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder_2):
        part.requires_grad_(False)
    return pipeline


def run(pipeline: Any, request: RenderRequest, **options: Any) -> Any:
    """What diffusers gives for the request's own texts, steps, CFG scale and seed."""
    own = getattr(diffusers, f"{KINDS[request.sampler]}Scheduler")
    pipeline.scheduler = own.from_config(pipeline.scheduler.config)
    texts = {"prompt": request.prompt, "negative_prompt": request.negative_prompt}
    settings = {"num_inference_steps": request.steps, "guidance_scale": request.cfg_scale}
    generator = torch.Generator("cpu").manual_seed(request.seed)
    with torch.inference_mode():
        return pipeline(**texts, **settings, generator=generator, output_type="latent", **options).images


def go_on(small: Engine, refiner: Engine, request: RenderRequest, switch_at: float) -> tuple[Any, Any]:
    """The latents at the switch, and the finished ones."""
    first = request.model_copy(update={"stages": request.stages[:-1]})
    base = small.render(first, latents_at=(switch_at,))
    assert base.latents is not None
    files = {"before": png(base.image), "before.latent": base.latents}
    made = refiner.render(
        request, pictures=files, stages_done=len(first.stages), keep_latents=True, checkpoint="small"
    )
    return load(base.latents)[f"latent.{switch_at}"], load(made.latents or b"")["latent"]


def png(image: Image.Image) -> bytes:
    from tests.unit.engine.stages.pictures import file_of

    return file_of(image)


@pytest.mark.parametrize(
    ("sampler", "switch_at", "more"),
    [
        ("Euler", 0.8, {}),
        ("Euler", 0.45, {"width": 96, "schedule": "Karras"}),
        ("DPM++ 2M", 0.6, {"cfg_scale": 1.0}),
        ("DDIM", 0.7, {}),
    ],
)
def test_the_rest_of_a_pass_is_diffusers_ensemble(
    small: Engine, refiner: Engine, plain: Any, plain_refiner: Any, sampler: str, switch_at: float, more: Any
) -> None:
    stage = {"refine": {"checkpoint": "refiner", "switch_at": switch_at}}
    request = request_of(stage, **{**SETTINGS, "sampler": sampler, **more})
    at_switch, made = go_on(small, refiner, request, switch_at)
    size = {"width": request.width, "height": request.height}
    options = {"use_karras_sigmas": True} if request.schedule == "Karras" else {}
    with karras(plain, plain_refiner, options):
        handed = run(plain, request, denoising_end=switch_at, **size)
        torch.testing.assert_close(at_switch, handed, rtol=1e-4, atol=1e-4)
        expected = run(plain_refiner, request, image=handed, denoising_start=switch_at)
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-4)
    assert (made - at_switch).abs().max() > 0.05


class karras:  # noqa: N801 - reads as a phrase
    """The pipelines with these values in their scheduler's config."""

    def __init__(self, *pipelines_and_options: Any) -> None:
        *self.pipelines, self.options = pipelines_and_options

    def __enter__(self) -> None:
        self.before = [pipeline.scheduler for pipeline in self.pipelines]
        for pipeline in self.pipelines:
            own = diffusers.EulerDiscreteScheduler.from_config(pipeline.scheduler.config, **self.options)
            pipeline.scheduler = own

    def __exit__(self, *_: object) -> None:
        for pipeline, scheduler in zip(self.pipelines, self.before, strict=True):
            pipeline.scheduler = scheduler
