"""A VAE from a file of its own, in place of the checkpoint's: the model's VAE config, the file's weights.

The latent space belongs to the UNet, so scaling factor, mean and deviation are the model's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from darkroom.checkpoint.checks import check_parts
from darkroom.checkpoint.header import read_header
from darkroom.checkpoint.keymap import component_entries
from darkroom.checkpoint.layouts import best_layout, vae_layouts
from darkroom.checkpoint.plan import Part, SourceFile
from darkroom.engine.devices import torch_dtype
from darkroom.errors import NanWeightError


def vae_dtype(config: dict[str, Any], dtype: str) -> str:
    """The number format of a VAE: one whose config says `force_upcast` overflows in fp16, and is fp32 instead."""
    return "fp32" if config.get("force_upcast", True) and dtype == "fp16" else dtype


def load_vae(path: Path, model_dir: Path, dtype: str) -> Any:
    """The AutoencoderKL of the safetensors file at `path`, in any layout that conversion knows, on the CPU.

    Raises the CheckpointErrors: KeysError (E-KEYS) if tensors are missing or of the wrong shape, NanWeightError
    (E-NANWEIGHT) for a number that isn't finite.
    """
    import torch
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from safetensors import safe_open

    config = json.loads((model_dir / "vae" / "config.json").read_bytes())
    header = read_header(path)
    layout = best_layout(vae_layouts(component_entries("vae", config)), header.tensors)
    check_parts([SourceFile(path, header)], [Part("vae", layout, 0)])
    target = torch_dtype(vae_dtype(config, dtype))
    weights = {}
    with safe_open(path, framework="pt") as file:
        for entry in layout.entries:
            tensor = file.get_tensor(entry.source).reshape(entry.shape)
            if not tensor.float().isfinite().all():
                raise NanWeightError("tensor", entry.source, f"{path.name} holds NaN or Inf there", "use another VAE")
            weights[entry.name] = tensor.to(target)
    with torch.device("meta"):
        vae = AutoencoderKL.from_config(config)
    vae.load_state_dict(weights, assign=True)
    return vae.eval().requires_grad_(False)
