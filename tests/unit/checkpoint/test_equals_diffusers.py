"""The converted folder holds what diffusers' own conversion gives, bit by bit, and plain diffusers loads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darkroom.checkpoint import convert, verify_model
from darkroom.checkpoint.weights import weight_path
from tests.fixtures.checkpoints import extra_tensors, random_tensors, write_random_checkpoint, write_tensors

COMPONENTS = ("unet", "vae", "text_encoder", "text_encoder_2")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def weights(model: Path, component: str, variant: str | None) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(model / weight_path(component, variant)))


def classic(component: str, name: str) -> str:
    """The classic name of a text encoder's tensor; newer transformers leave `text_model.` out of the first one's."""
    return f"text_model.{name}" if component == "text_encoder" and not name.startswith("text_model.") else name


def assert_same_bits(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    import torch

    assert set(ours) == set(theirs)
    for name, tensor in theirs.items():
        whole = {2: torch.int16, 4: torch.int32}[tensor.element_size()]
        assert ours[name].dtype == tensor.dtype, name
        assert torch.equal(ours[name].view(whole), tensor.contiguous().view(whole)), name


def mixed(key: str) -> str:
    """As trainers that keep norms and the VAE exact save it."""
    return "F32" if key.startswith("first_stage_model.") or "norm" in key else "BF16"


def fp8(key: str) -> str:
    """As ComfyUI saves fp8: the UNet's matrices."""
    return "F8_E4M3" if key.startswith("model.diffusion_model.") and key.endswith("weight") else "F16"


@pytest.mark.parametrize(
    ("source_dtype", "dtype"),
    [
        ("F16", "fp16"),
        ("F32", "fp16"),
        ("BF16", "fp16"),
        pytest.param("BF16", "keep", marks=pytest.mark.full),
        (mixed, "fp16"),
        pytest.param(mixed, "fp32", marks=pytest.mark.full),
        (fp8, "fp16"),
    ],
    ids=["fp16", "fp32-fp16", "bf16-fp16", "bf16", "mixed-fp16", "mixed-fp32", "fp8-fp16"],
)
def test_every_tensor_equals_diffusers_own_conversion(
    source_dtype: str | Callable[[str], str], dtype: str, tmp_path: Path
) -> None:
    source = write_random_checkpoint(tmp_path / "c.safetensors", seed=3, dtype=source_dtype)
    convert(source, tmp_path / "model", dtype=dtype)  # type: ignore[arg-type]
    assert_equals_diffusers(source, tmp_path / "model", dtype)


def test_extra_tensors_change_nothing(tmp_path: Path) -> None:
    tensors = random_tensors(seed=3) | extra_tensors()
    scalar = np.zeros(1, np.float32)
    extra = {"denoiser.sigmas": scalar, "v_pred": scalar, "ztsnr": scalar, "model_ema.decay": scalar}
    source = write_tensors(tmp_path / "c.safetensors", tensors | extra)
    convert(source, tmp_path / "model")
    assert_equals_diffusers(source, tmp_path / "model", "fp16")


def assert_equals_diffusers(source: Path, model: Path, dtype: str) -> None:
    import torch
    from diffusers import StableDiffusionXLPipeline

    torch_dtype = {"fp16": torch.float16, "fp32": torch.float32, "keep": torch.bfloat16}[dtype]
    pipeline = StableDiffusionXLPipeline.from_single_file(
        str(source), config=str(model), torch_dtype=torch_dtype, local_files_only=True
    )
    for component in COMPONENTS:
        state = getattr(pipeline, component).state_dict()
        theirs = {classic(component, name): value for name, value in state.items() if "position_ids" not in name}
        assert_same_bits(weights(model, component, "fp16" if dtype == "fp16" else None), theirs)


def test_plain_diffusers_loads_the_folder_with_nothing_missing(made: Path) -> None:
    import torch
    from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    classes = dict(
        zip(COMPONENTS, (UNet2DConditionModel, AutoencoderKL, CLIPTextModel, CLIPTextModelWithProjection), strict=True)
    )
    for component, kind in classes.items():
        _, report = kind.from_pretrained(
            made / "tiny" / component, variant="fp16", local_files_only=True, output_loading_info=True
        )
        for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            assert not report[problem], (component, problem)
    pipeline = StableDiffusionXLPipeline.from_pretrained(
        made / "tiny", variant="fp16", dtype=torch.float16, local_files_only=True
    )
    for component in COMPONENTS:
        state = {classic(component, name): value for name, value in getattr(pipeline, component).state_dict().items()}
        assert_same_bits(weights(made / "tiny", component, "fp16"), state)


def test_tokenizers_pad_as_sdxl_does(made: Path) -> None:
    from transformers import CLIPTokenizer

    first = CLIPTokenizer.from_pretrained(made / "tiny" / "tokenizer", local_files_only=True)
    second = CLIPTokenizer.from_pretrained(made / "tiny" / "tokenizer_2", local_files_only=True)
    options = {"padding": "max_length", "max_length": 6, "truncation": True}
    assert first("a photo of", **options).input_ids == [49406, 320, 1125, 539, 49407, 49407]
    assert second("a photo of", **options).input_ids == [49406, 320, 1125, 539, 49407, 0]


def test_a_folder_that_diffusers_saved_itself_is_verified(made: Path, tmp_path: Path) -> None:
    import torch
    from diffusers import StableDiffusionXLPipeline

    pipeline = StableDiffusionXLPipeline.from_pretrained(
        made / "tiny", variant="fp16", dtype=torch.float16, local_files_only=True
    )
    pipeline.save_pretrained(tmp_path / "theirs")
    receipt = verify_model(tmp_path / "theirs")
    assert (receipt.architecture, receipt.dtype, receipt.variant) == ("darkroom-demo", "fp16", None)
