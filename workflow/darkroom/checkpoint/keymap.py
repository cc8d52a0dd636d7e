"""The key map: which tensor of a single-file SDXL checkpoint becomes which tensor of which Diffusers component.

It is computed from the component configs, so it serves every model of SDXL's shape, whatever its widths. Text
encoders keep the classic `text_model.` names, which old and new loaders read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from darkroom.checkpoint.component_configs import ComponentConfig, TextEncoderConfig, UNetConfig, VaeConfig
from darkroom.checkpoint.entries import Entry, Walk
from darkroom.checkpoint.keymap_unet import unet_entries
from darkroom.checkpoint.keymap_vae import vae_entries

CLIP_PREFIX = "conditioner.embedders.0.transformer."
OPEN_CLIP_PREFIX = "conditioner.embedders.1.model."
NAMESPACES = ("model.diffusion_model.", "first_stage_model.", "conditioner.embedders.")
"""Below these stand the components' tensors: one that is unknown there may change the picture."""

_IGNORED = {
    "EMA weights": r"model_ema\..*",
    "position ids": r"(.*\.)?position_ids",
    "of CLIP's loss": r"(.*\.)?logit_scale | conditioner\.embedders\.1\.model\.attn_mask",
    "of CLIP's image half": r"conditioner\.embedders\.[01]\.(model|transformer)\.(vision_model|visual|visual_projection)\..*",
    # CLIP-L's, which SDXL never applies.
    "unused projections": r"conditioner\.embedders\.0\.(transformer\.)?text_projection(\.weight)?",
    "of the VAE's training": r"(first_stage_model\.)?(loss|discriminator)\..*",
    "noise schedules": r"""
        denoiser\..* | betas | alphas_cumprod(_prev)? | log_one_minus_alphas_cumprod | posterior_.*
        | sqrt_.*alphas_cumprod.* | logvar | lvlb_weights | scale_factor
    """,
    "markers": r"edm_mean | edm_std | edm_vpred\..* | v_pred | ztsnr",
    "of training": r"global_step | epoch | iteration | optimizer.* | lr_schedulers?.* | callbacks\..*",
}
_IGNORED_PATTERNS = {reason: re.compile(pattern, re.VERBOSE) for reason, pattern in _IGNORED.items()}


def clip_entries(config: TextEncoderConfig) -> list[Entry]:
    """Every tensor of the first text encoder (OpenAI's CLIP, under transformers' names already)."""
    walk = Walk(CLIP_PREFIX)
    model, width, wide = "text_model", config.hidden_size, config.intermediate_size
    for part, rows in (("token", config.vocab_size), ("position", config.max_position_embeddings)):
        name = f"{model}.embeddings.{part}_embedding.weight"
        walk.tensor(name, name, rows, width)
    for i in range(config.num_hidden_layers):
        layer = f"{model}.encoder.layers.{i}"
        for part in ("layer_norm1", "layer_norm2"):
            walk.norm(f"{layer}.{part}", f"{layer}.{part}", width)
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            walk.linear(f"{layer}.self_attn.{part}", f"{layer}.self_attn.{part}", width, width)
        walk.linear(f"{layer}.mlp.fc1", f"{layer}.mlp.fc1", width, wide)
        walk.linear(f"{layer}.mlp.fc2", f"{layer}.mlp.fc2", wide, width)
    walk.norm(f"{model}.final_layer_norm", f"{model}.final_layer_norm", width)
    return walk.entries


def open_clip_entries(config: TextEncoderConfig) -> list[Entry]:
    """Every tensor of the second text encoder (OpenCLIP: q, k and v fused, the projection transposed)."""
    walk = Walk(OPEN_CLIP_PREFIX)
    model, width, wide = "text_model", config.hidden_size, config.intermediate_size
    walk.tensor(f"{model}.embeddings.token_embedding.weight", "token_embedding.weight", config.vocab_size, width)
    positions = config.max_position_embeddings
    walk.tensor(f"{model}.embeddings.position_embedding.weight", "positional_embedding", positions, width)
    for i in range(config.num_hidden_layers):
        layer, block = f"{model}.encoder.layers.{i}", f"transformer.resblocks.{i}"
        walk.norm(f"{layer}.layer_norm1", f"{block}.ln_1", width)
        walk.norm(f"{layer}.layer_norm2", f"{block}.ln_2", width)
        projections = tuple(f"{layer}.self_attn.{part}_proj" for part in "qkv")
        walk.fused(tuple(f"{name}.weight" for name in projections), f"{block}.attn.in_proj_weight", width, width)
        walk.fused(tuple(f"{name}.bias" for name in projections), f"{block}.attn.in_proj_bias", width)
        walk.linear(f"{layer}.self_attn.out_proj", f"{block}.attn.out_proj", width, width)
        walk.linear(f"{layer}.mlp.fc1", f"{block}.mlp.c_fc", width, wide)
        walk.linear(f"{layer}.mlp.fc2", f"{block}.mlp.c_proj", wide, width)
    walk.norm(f"{model}.final_layer_norm", "ln_final", width)
    walk.transposed("text_projection.weight", "text_projection", config.projection_dim, width)
    return walk.entries


_COMPONENTS: dict[str, tuple[type[ComponentConfig], Callable[[Any], list[Entry]]]] = {
    "text_encoder": (TextEncoderConfig, clip_entries),
    "text_encoder_2": (TextEncoderConfig, open_clip_entries),
    "unet": (UNetConfig, unet_entries),
    "vae": (VaeConfig, vae_entries),
}
COMPONENTS = tuple(_COMPONENTS)


def component_entries(component: str, config: Mapping[str, Any]) -> list[Entry]:
    """Every tensor of a component; raises pydantic's ValidationError for a config that SDXL can't have."""
    model, walk = _COMPONENTS[component]
    return walk(model.model_validate(config))


def ignored_reason(key: str) -> str | None:
    """Why no component has a tensor that training tools leave in checkpoints, None for a tensor that isn't one."""
    return next((reason for reason, pattern in _IGNORED_PATTERNS.items() if pattern.fullmatch(key)), None)


def is_ignored(key: str) -> bool:
    """True for tensors that training tools leave behind and no component has."""
    return ignored_reason(key) is not None
