"""Loading a verified Diffusers folder into a pipeline: offline, safetensors only, every weight accounted for.

The components are loaded one by one and put together here, which skips the parts of diffusers that a general
loader needs, and tells exactly which weights were in the files.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from darkroom.engine.devices import torch_dtype
from darkroom.engine.memory import MemoryPlan
from darkroom.errors import KeysError

_READ_AHEAD_BYTES = 64 * 2**20


def prepare(model_dir: Path) -> None:
    """Refuse a folder that can't be used, and start reading the others from disk; quick, and needs no torch.

    Raises ModelError (E-MODEL, E-INDEX) if the folder is missing or broken, KeysError (E-KEYS) if tensors are.
    """
    from darkroom.checkpoint.verify import verify_model

    verify_model(model_dir, hashes="none")
    _forbid_network_and_code()
    _read_ahead(model_dir)


def load_pipeline(model_dir: Path, device: str, dtype: str, plan: MemoryPlan) -> Any:
    """A StableDiffusionXLPipeline of a folder that went through `prepare`, on `device` or set up to move its parts there.

    `dtype` is `fp16`, `fp32` or `bf16`; a VAE whose config says `force_upcast` overflows in half precision and is
    fp32 instead of fp16. Raises KeysError (E-KEYS) if a weight was not in the files.
    """
    with _quiet():
        pipeline = _assemble(model_dir, dtype, None if plan.mode == "offload" else device)
    pipeline.set_progress_bar_config(disable=True)
    if plan.mode == "offload":
        pipeline.enable_model_cpu_offload(device=device)
    return pipeline


def _assemble(model_dir: Path, dtype: str, device: str | None) -> Any:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
    from transformers.models.clip.modeling_clip import CLIPTextModel, CLIPTextModelWithProjection
    from transformers.models.clip.tokenization_clip import CLIPTokenizer

    from darkroom.checkpoint.weights import find_variant
    from darkroom.engine.schedulers import build
    from darkroom.engine.vae import vae_dtype

    index = json.loads((model_dir / "model_index.json").read_bytes())
    vae_config = json.loads((model_dir / "vae" / "config.json").read_bytes())
    variant = find_variant(model_dir)
    parts = {
        "unet": _load(UNet2DConditionModel, model_dir / "unet", dtype, variant),
        "vae": _load(AutoencoderKL, model_dir / "vae", vae_dtype(vae_config, dtype), variant),
        "text_encoder": _load(CLIPTextModel, model_dir / "text_encoder", dtype, variant),
        "text_encoder_2": _load(CLIPTextModelWithProjection, model_dir / "text_encoder_2", dtype, variant),
    }
    if device is not None:
        parts = {name: part.to(device) for name, part in parts.items()}
    return StableDiffusionXLPipeline(
        **parts,
        tokenizer=CLIPTokenizer.from_pretrained(model_dir / "tokenizer", local_files_only=True),
        tokenizer_2=CLIPTokenizer.from_pretrained(model_dir / "tokenizer_2", local_files_only=True),
        scheduler=build("Euler", "Automatic", scheduler_config(model_dir)),
        force_zeros_for_empty_prompt=index.get("force_zeros_for_empty_prompt", True),
        add_watermarker=False,
    )


def scheduler_config(model_dir: Path) -> dict[str, Any]:
    """The model's own scheduler settings, among them what its UNet predicts."""
    config: dict[str, Any] = json.loads((model_dir / "scheduler" / "scheduler_config.json").read_bytes())
    return config


def _load(model_class: Any, folder: Path, dtype: str, variant: str | None) -> Any:
    model, info = model_class.from_pretrained(
        folder,
        dtype=torch_dtype(dtype),
        variant=variant,
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
    )
    bad = sorted(str(key) for kind in ("missing_keys", "mismatched_keys", "error_msgs") for key in info[kind])
    tensors = chain(model.named_parameters(), model.named_buffers())
    bad = bad or [name for name, tensor in tensors if tensor.is_meta]
    if bad:
        raise KeysError(
            "weights of",
            folder.name,
            f"{len(bad)} missing or of the wrong shape, such as {', '.join(bad[:5])}",
            "convert the checkpoint again",
        )
    return model.eval().requires_grad_(False)


def _forbid_network_and_code() -> None:
    """Belt and braces for the whole process: loading names local files only, and runs no code from a model folder."""
    for name in ("HF_HUB_OFFLINE", "DIFFUSERS_DISABLE_REMOTE_CODE", "HF_HUB_DISABLE_TELEMETRY"):
        os.environ[name] = "1"


def _read_ahead(model_dir: Path) -> None:
    """Have the system read the weights from disk while the libraries are being imported."""
    if not hasattr(os, "posix_fadvise"):
        return

    def read() -> None:
        for path in sorted(model_dir.glob("*/*.safetensors")):
            with path.open("rb") as file:
                for start in range(0, path.stat().st_size, _READ_AHEAD_BYTES):
                    os.posix_fadvise(file.fileno(), start, _READ_AHEAD_BYTES, os.POSIX_FADV_WILLNEED)

    threading.Thread(target=read, name="read-ahead", daemon=True).start()


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence progress bars, and remarks about optional packages that this project does without."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
