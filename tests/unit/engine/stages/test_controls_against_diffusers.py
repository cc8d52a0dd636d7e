"""Latents of passes with controls equal those of diffusers' own ControlNet pipelines of the same model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers.models.controlnets import ControlNetModel, ControlNetUnionModel
from PIL import Image
from safetensors.torch import load, load_file

from darkroom.engine import Engine
from darkroom.request.render_request import RenderRequest
from tests.fixtures.controlnets import HINTS
from tests.fixtures.plain import plain_arguments, plain_latents
from tests.unit.engine.stages.conftest import UNIONS
from tests.unit.engine.stages.pictures import box_mask, digest, file_of, on_picture, request_of

STEPS = 5


def diffusers_model(plain: Any, folder: Path, name: str) -> Any:
    """diffusers' own model with the weights of a file in its layout."""
    unet = plain.unet.config
    names = ("attention_head_dim", "block_out_channels", "down_block_types", "cross_attention_dim", "norm_num_groups")
    names += ("transformer_layers_per_block", "addition_embed_type", "addition_time_embed_dim", "use_linear_projection")
    config = {key: unet[key] for key in (*names, "projection_class_embeddings_input_dim", "layers_per_block")}
    config["conditioning_embedding_out_channels"] = HINTS
    if name in UNIONS:
        width = unet["block_out_channels"][0]
        own = {"num_control_type": UNIONS[name], "num_trans_channel": width, "num_proj_channel": width}
        model = ControlNetUnionModel(**config, **own)
    else:
        model = ControlNetModel(**config)
    model.load_state_dict(load_file(folder / f"{name}.safetensors"))
    return model.float().eval().requires_grad_(False)


def expected(plain: Any, kind: str, models: Sequence[Any], request: RenderRequest, **options: Any) -> Any:
    """What diffusers' pipeline of that kind gives for a request's settings."""
    parts = dict(plain.components)
    sampler = {"Euler": "EulerDiscreteScheduler", "Heun": "HeunDiscreteScheduler"}[request.sampler]
    parts["scheduler"] = getattr(diffusers, sampler).from_config(plain.scheduler.config)
    controlnet = models[0] if len(models) == 1 else list(models)
    pipeline = getattr(diffusers, kind)(**parts, controlnet=controlnet, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    arguments = plain_arguments(plain, request)
    size = {} if kind.endswith("Img2ImgPipeline") else {"width": request.width, "height": request.height}
    with torch.inference_mode():
        return pipeline(**arguments, **size, output_type="latent", **options).images


def latents_of(small: Engine, request: RenderRequest, files: dict[str, bytes]) -> Any:
    return load(small.render(request, pictures=files, keep_latents=True).latents or b"")["latent"]


def as_picture(data: bytes) -> Image.Image:
    import io

    return Image.open(io.BytesIO(data)).convert("RGB")


def assert_led(made: Any, wanted: Any, small: Engine, request: RenderRequest, files: dict[str, bytes]) -> None:
    """Equal, and far from what comes without controls."""
    torch.testing.assert_close(made, wanted, rtol=1e-4, atol=1e-4)
    others = {key: value for key, value in files.items() if key in request.model_copy(update={"control": ()}).pictures}
    without = latents_of(small, request.model_copy(update={"control": ()}), others)
    assert (made - without).abs().max() > 0.05


@pytest.mark.parametrize(
    ("settings", "options", "more"),
    [
        ({}, {}, {}),
        ({"weight": 0.6}, {"controlnet_conditioning_scale": 0.6}, {"sampler": "Heun"}),
        (
            {"start": 0.2, "end": 0.6},
            {"control_guidance_start": 0.2, "control_guidance_end": 0.6},
            {"width": 96, "cfg_scale": 1.0},
        ),
    ],
)
def test_one(
    small: Engine, plain: Any, controlnets: Path, guide: bytes, settings: Any, options: Any, more: Any
) -> None:
    control = {"model": "edges", "image": digest(guide), "resize_mode": "stretch", **settings}
    request = request_of(control=[control], steps=STEPS, **more)
    files = {digest(guide): guide}
    picture = as_picture(guide).resize((request.width, request.height), Image.Resampling.LANCZOS)
    models = [diffusers_model(plain, controlnets, "edges")]
    wanted = expected(plain, "StableDiffusionXLControlNetPipeline", models, request, image=picture, **options)
    assert_led(latents_of(small, request, files), wanted, small, request, files)


def test_several_one_of_them_in_the_original_layout(
    small: Engine, plain: Any, controlnets: Path, guide: bytes, picture: Image.Image
) -> None:
    other = file_of(picture)
    controls = [
        {"model": "edges", "image": digest(guide), "weight": 0.5, "end": 0.8},
        {"model": "depths", "image": digest(other), "weight": 0.9, "start": 0.2},
    ]
    request, files = request_of(control=controls, steps=STEPS), {digest(guide): guide, digest(other): other}
    models = [diffusers_model(plain, controlnets, name) for name in ("edges", "plain-depths")]
    wanted = expected(
        plain,
        "StableDiffusionXLControlNetPipeline",
        models,
        request,
        image=[as_picture(guide), picture],
        controlnet_conditioning_scale=[0.5, 0.9],
        control_guidance_start=[0.0, 0.2],
        control_guidance_end=[0.8, 1.0],
    )
    assert_led(latents_of(small, request, files), wanted, small, request, files)


@pytest.mark.parametrize(
    ("name", "kind", "number"), [("union", "segment", 5), ("promax", "lineart", 3), ("promax", "repaint", 7)]
)
def test_union(small: Engine, plain: Any, controlnets: Path, guide: bytes, name: str, kind: str, number: int) -> None:
    control = {"model": name, "image": digest(guide), "type": kind, "weight": 0.8}
    request, files = request_of(control=[control], steps=STEPS), {digest(guide): guide}
    wanted = expected(
        plain,
        "StableDiffusionXLControlNetUnionPipeline",
        [diffusers_model(plain, controlnets, name)],
        request,
        control_image=[as_picture(guide)],
        control_mode=[number],
        controlnet_conditioning_scale=0.8,
    )
    assert_led(latents_of(small, request, files), wanted, small, request, files)


def test_two_controls_of_a_union_add_up_as_two_models_do(
    small: Engine, plain: Any, controlnets: Path, guide: bytes, picture: Image.Image
) -> None:
    other = file_of(picture)
    controls = [
        {"model": "promax", "image": digest(guide), "type": "canny", "weight": 0.5},
        {"model": "promax", "image": digest(other), "type": "depth", "weight": 0.7},
    ]
    request, files = request_of(control=controls, steps=STEPS), {digest(guide): guide, digest(other): other}
    wanted = expected(
        plain,
        "StableDiffusionXLControlNetUnionPipeline",
        [diffusers_model(plain, controlnets, "promax")] * 2,
        request,
        control_image=[as_picture(guide), picture],
        control_mode=[3, 1],
        controlnet_conditioning_scale=[0.5, 0.7],
    )
    assert_led(latents_of(small, request, files), wanted, small, request, files)


@pytest.mark.parametrize(("mode", "cfg_scale"), [("control", 3.0), ("prompt", 1.0)])
def test_the_modes_are_guess_mode_with_other_factors(
    small: Engine,
    plain: Any,
    controlnets: Path,
    guide: bytes,
    mode: str,
    cfg_scale: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    control = {"model": "edges", "image": digest(guide), "mode": mode}
    request = request_of(control=[control], steps=STEPS, cfg_scale=cfg_scale)
    made = latents_of(small, request, {digest(guide): guide})

    def soft(start: float, end: float, count: int, **_: Any) -> Any:
        return torch.tensor([0.825 ** (12 - number) for number in range(count)])

    monkeypatch.setattr(torch, "logspace", soft)
    models = [diffusers_model(plain, controlnets, "edges")]
    wanted = expected(
        plain, "StableDiffusionXLControlNetPipeline", models, request, image=as_picture(guide), guess_mode=True
    )
    torch.testing.assert_close(made, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("is_given", [True, False])
def test_img2img_takes_its_own_picture_where_none_is_given(
    small: Engine, plain: Any, controlnets: Path, guide: bytes, picture: Image.Image, is_given: bool
) -> None:
    control = {"model": "edges", **({"image": digest(guide)} if is_given else {})}
    request, files = on_picture(picture, {"img2img": {"denoising_strength": 0.5}}, steps=STEPS, control=[control])
    files |= {digest(guide): guide} if is_given else {}
    run = int(0.5 * STEPS) + 1
    wanted = expected(
        plain,
        "StableDiffusionXLControlNetImg2ImgPipeline",
        [diffusers_model(plain, controlnets, "edges")],
        request,
        image=plain_latents(plain, picture),
        control_image=as_picture(guide) if is_given else picture,
        strength=run / STEPS,
        controlnet_conditioning_scale=1.0,
    )
    assert_led(latents_of(small, request, files), wanted, small, request, files)


def test_inpainting(
    small: Engine,
    plain: Any,
    controlnets: Path,
    guide: bytes,
    picture: Image.Image,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    distribution = diffusers.models.autoencoders.vae.DiagonalGaussianDistribution
    monkeypatch.setattr(distribution, "sample", lambda self, generator=None: self.mean)
    mask = file_of(box_mask(64, 64, (16, 16, 47, 47)))
    stage = {"inpaint": {"mask": digest(mask), "mask_blur": 0, "denoising_strength": 0.7}}
    request, files = on_picture(
        picture, stage, steps=STEPS, control=[{"model": "edges", "image": digest(guide), "weight": 0.7}]
    )
    files |= {digest(mask): mask, digest(guide): guide}
    wanted = expected(
        plain,
        "StableDiffusionXLControlNetInpaintPipeline",
        [diffusers_model(plain, controlnets, "edges")],
        request,
        image=picture,
        mask_image=as_picture(mask).convert("L"),
        control_image=as_picture(guide),
        strength=4 / STEPS,
        controlnet_conditioning_scale=0.7,
    )
    torch.testing.assert_close(small.denoise(request, pictures=files).made.latents, wanted, rtol=1e-4, atol=1e-4)
