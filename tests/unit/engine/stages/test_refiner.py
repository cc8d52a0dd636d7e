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

from darkroom.engine import Engine, Wanted
from darkroom.errors import LoraError, RequestError
from darkroom.request.assets import AssetNames, settle
from darkroom.request.render_request import RenderRequest
from darkroom.serve.chain_rendering import Chain, render_chains
from darkroom.serve.engines import EngineOptions, ModelFiles, load_engine
from darkroom.serve.legs import legs_of
from tests.fixtures.checkpoints import REFINER, shrink_architecture
from tests.fixtures.plain import make_marked_model, plain_latents
from tests.unit.engine.stages.pictures import file_of, on_picture, request_of

TEXTS = {"prompt": "a fox", "negative_prompt": "blurry"}
SETTINGS = {**TEXTS, "emphasis": "a1111", "steps": 10}  # whose chunks are as long as diffusers'
KINDS = {"Euler": "EulerDiscreteScheduler", "DPM++ 2M": "DPMSolverMultistepScheduler", "DDIM": "DDIMScheduler"}


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
    """What diffusers gives for the request's own texts, sampler, steps, CFG scale and seed."""
    before = pipeline.scheduler
    own = getattr(diffusers, KINDS[request.sampler])
    karras = {"use_karras_sigmas": True} if request.schedule == "Karras" else {}
    pipeline.scheduler = own.from_config(before.config, **karras)
    texts = {"prompt": request.prompt, "negative_prompt": request.negative_prompt}
    settings = {"num_inference_steps": request.steps, "guidance_scale": request.cfg_scale}
    generator = torch.Generator("cpu").manual_seed(request.seed)
    try:
        with torch.inference_mode():
            return pipeline(**texts, **settings, generator=generator, output_type="latent", **options).images
    finally:
        pipeline.scheduler = before


def go_on(small: Engine, refiner: Engine, request: RenderRequest, switch_at: float) -> tuple[Any, Any]:
    """The latents at the switch, and the finished ones."""
    first = request.model_copy(update={"stages": request.stages[:-1]})
    base = small.render(first, latents_at=(switch_at,))
    assert base.latents is not None
    files = {"before": file_of(base.image), "before.latent": base.latents}
    made = refiner.render(request, pictures=files, stages_done=len(first.stages), keep_latents=True, checkpoint="small")
    return load(base.latents)[f"latent.{switch_at}"], load(made.latents or b"")["latent"]


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
    handed = run(plain, request, denoising_end=switch_at, **size)
    torch.testing.assert_close(at_switch, handed, rtol=1e-4, atol=1e-4)
    expected = run(plain_refiner, request, image=handed, denoising_start=switch_at)
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-4)
    assert (made - at_switch).abs().max() > 0.05


@pytest.mark.parametrize("strength", [0.35, 1.0])
def test_a_pass_over_a_picture_is_diffusers_img2img(
    refiner: Engine, plain_refiner: Any, picture: Image.Image, strength: float
) -> None:
    stage = {"refine": {"checkpoint": "refiner", "denoising_strength": strength}}
    request, files = on_picture(picture, stage, **SETTINGS)
    made = load(refiner.render(request, pictures=files, keep_latents=True).latents or b"")["latent"]
    latents = plain_latents(plain_refiner, picture)
    torch.testing.assert_close(
        made, run(plain_refiner, request, image=latents, strength=strength), rtol=1e-4, atol=1e-4
    )


def test_a_pass_over_latents_with_noise_left_is_worker_sdxls(
    small: Engine, refiner: Engine, plain: Any, plain_refiner: Any
) -> None:
    own = {"steps": 12, "sampler": "Euler", "cfg_scale": 5.0, "prompt": "a hare", "negative_prompt": ""}
    stage = {"refine": {"checkpoint": "refiner", "switch_at": 0.7, "denoising_strength": 0.3, **own}}
    request = request_of(stage, **SETTINGS, sampler="DDIM")
    _, made = go_on(small, refiner, request, 0.7)
    handed = run(plain, request, denoising_end=0.7, width=64, height=64)
    expected = run(plain_refiner, request_of(**{**SETTINGS, **own}), image=handed, strength=0.3)
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sampler", ["Euler", "Heun", "DPM2", "DDIM"])
def test_the_switch_is_between_whole_steps(small: Engine, monkeypatch: pytest.MonkeyPatch, sampler: str) -> None:
    """So the rest of a pass by the same model gives what the whole pass does."""
    monkeypatch.setattr("darkroom.engine.chain.check_roles", lambda *_, **__: None)
    stage = {"refine": {"checkpoint": "small", "switch_at": 0.6}}
    request = request_of(stage, **SETTINGS, sampler=sampler)
    _, made = go_on(small, small, request, 0.6)
    whole = small.render(request_of(**SETTINGS, sampler=sampler), keep_latents=True)
    torch.testing.assert_close(made, load(whole.latents or b"")["latent"], rtol=1e-4, atol=1e-4)


def test_a_second_pass_is_gone_on_with_too(small: Engine, refiner: Engine, plain_refiner: Any) -> None:
    """Hires, then the refiner: A1111's order."""
    stages = [
        {"hires": {"scale": 1.5, "denoising_strength": 0.9}},
        {"refine": {"checkpoint": "refiner", "switch_at": 0.6}},
    ]
    request = request_of(*stages, **SETTINGS)
    at_switch, made = go_on(small, refiner, request, 0.6)
    assert at_switch.shape == made.shape == (1, 4, 12, 12)
    assert not torch.equal(at_switch, made)


def test_a_stage_after_the_refiner_and_the_request_s_loras_before_it(
    small: Engine, refiner: Engine, plain_refiner: Any
) -> None:
    """LoRAs in the prompt are the first pass's; the refiner reads the text without them."""
    stage = {"refine": {"checkpoint": "refiner", "switch_at": 0.6}}
    plain_request, with_lora = (
        request_of(stage, **{**SETTINGS, "prompt": text}) for text in ("a fox", "a fox<lora:strong:1>")
    )
    first, made = go_on(small, refiner, with_lora, 0.6)
    other, _ = go_on(small, refiner, plain_request, 0.6)
    assert not torch.equal(first, other)
    expected = run(plain_refiner, plain_request, image=first, denoising_start=0.6)
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-4)


def test_a_servers_probe_of_a_refiner_refines(refiner_model: Path) -> None:
    load_engine(ModelFiles(refiner_model), EngineOptions({}, device="cpu", probe=True), lambda *_: None).close()


def test_a_refiner_makes_nothing_else_and_nothing_else_refines(
    small: Engine, refiner: Engine, picture: Image.Image
) -> None:
    with pytest.raises(
        RequestError, match=f"checkpoint '{refiner.name}': is an SDXL refiner, which can't begin a picture"
    ):
        refiner.render(request_of(**SETTINGS))
    given_up: list[int] = []
    outcomes = refiner.denoise_together([Wanted(request_of(**SETTINGS))] * 2, given_up.append)
    assert [type(outcome) for outcome in outcomes] == [RequestError, RequestError] and given_up == []
    request, files = on_picture(picture, {"img2img": {}}, **SETTINGS)
    with pytest.raises(
        RequestError, match=f"img2img: checkpoint '{refiner.name}': is an SDXL refiner, which refines alone"
    ):
        refiner.render(request, pictures=files)
    stage = {"refine": {"checkpoint": "small", "denoising_strength": 0.3}}
    request, files = on_picture(picture, stage, **SETTINGS)
    with pytest.raises(RequestError, match="refine: checkpoint 'small': is no SDXL refiner"):
        small.render(request, pictures=files, checkpoint="small")


@pytest.mark.parametrize(("switch_at", "side"), [(0.01, "the pass before it"), (0.9999, "the refiner")])
def test_a_switch_that_leaves_a_model_no_step_is_refused(small: Engine, switch_at: float, side: str) -> None:
    with pytest.raises(RequestError, match=f"refine: switch_at '{switch_at}': leaves none of the 10 steps to {side}"):
        small.render(request_of(**SETTINGS), latents_at=(switch_at,))


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"prompt": "a <lora:strong:1> fox"}, "names the LoRA strong, and LoRAs are made for base models"),
        ({"control": [{"model": "edges"}]}, "control"),
        ({"denoising_strength": 0}, "adds no noise, so it needs switch_at"),
        ({"switch_at": 0.5, "steps": 3}, "steps is that of the pass before"),
        ({"switch_at": 0.5, "sampler": "DDIM"}, "sampler is that of the pass before"),
        ({"switch_at": 1}, "switch_at"),
        ({"checkpoint": None}, "checkpoint"),
    ],
)
def test_settings_that_a_refiner_cannot_have(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(RequestError, match=why):
        request_of({"refine": {"checkpoint": "refiner", **settings}})


def test_a_switch_needs_a_pass_before_it(picture: Image.Image) -> None:
    stage = {"refine": {"checkpoint": "refiner"}}
    assert request_of(stage).latents_at(0) == 0.8
    for before in ({"upscale": {}}, {"tile": {}}, {"hires": {"denoising_strength": 0}}, stage):
        with pytest.raises(RequestError, match="refine: switch_at needs a pass before it"):
            request_of(before, stage)
    with pytest.raises(RequestError, match="refine: switch_at needs a pass before it"):
        on_picture(picture, stage)


def test_loras_of_a_picture_that_only_the_refiner_makes_are_refused(picture: Image.Image) -> None:
    stage = {"refine": {"checkpoint": "refiner", "denoising_strength": 0.3}}
    request, _ = on_picture(picture, stage, prompt="a fox<lora:strong:1>")
    with pytest.raises(LoraError, match="acts on nothing: only the refiner denoises the picture"):
        settle(request, AssetNames(loras=["strong"]))


def test_a_chain_in_one_go_gives_what_its_parts_do(
    small: Engine, refiner: Engine, small_model: Path, refiner_model: Path
) -> None:
    """As `darkroom render`, replay and servers make it: each model's part from the files of the one before."""
    stages = [
        {"refine": {"checkpoint": "refiner", "switch_at": 0.6}},
        {"hires": {"denoising_strength": 0.5, "scale": 1.5}},
    ]
    request = request_of(*stages, **SETTINGS)
    legs = legs_of(request)
    assert [(leg.model, leg.keep_latents, leg.latents_at) for leg in legs] == [
        (None, False, (0.6,)),
        ("refiner", True, ()),
        (None, False, ()),
    ]
    folders = {None: small_model, "refiner": refiner_model}
    chain = Chain(request, "small", folders.__getitem__, "auto", lambda _: {})
    ((done, _),) = render_chains([chain], small.library, "cpu")
    assert done.image is not None
    base = small.render(legs[0].request, latents_at=(0.6,))
    files = {"before": file_of(base.image), "before.latent": base.latents or b""}
    middle = refiner.render(legs[1].request, pictures=files, keep_latents=True, checkpoint="small")
    files = {"before": file_of(middle.image), "before.latent": middle.latents or b""}
    last = small.render(request, pictures=files, stages_done=1)
    assert done.image.image.tobytes() == last.image.tobytes()
    assert done.image.facts.model_name == "small"
