"""Write the trained networks as one fp16 safetensors file in SDXL's original key layout, as checkpoints are shared.

The names are those of Stability AI's generative-models (UNet and VAE of latent diffusion, the first text
encoder as transformers saves it, the second as open_clip does, with its attention weights fused).
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file

from demo.models import make_text_encoders, make_unet

METADATA = {
    "modelspec.sai_model_spec": "1.0.0",
    "modelspec.architecture": "stable-diffusion-xl-v1-base",
    "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
    "modelspec.title": "Darkroom demo: flat shapes",
    "modelspec.author": "The Darkroom project",
    "modelspec.license": "Apache-2.0",
    "modelspec.description": "A small model of SDXL's architecture that draws flat shapes on coloured backgrounds.",
    "modelspec.resolution": "128x128",
    "modelspec.prediction_type": "epsilon",
    "modelspec.usage_hint": "One or two shapes with colours, sizes and places: a small red star left of a blue ring.",
}

RESNET = (
    ("norm1", "in_layers.0"), ("conv1", "in_layers.2"), ("time_emb_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"), ("conv2", "out_layers.3"), ("conv_shortcut", "skip_connection"),
)  # fmt: skip
VAE_ATTENTION = (("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out"))
OPEN_CLIP = (
    ("layer_norm1", "ln_1"), ("layer_norm2", "ln_2"), ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj"),
    ("self_attn.out_proj", "attn.out_proj"),
)  # fmt: skip


def unet_name(name: str) -> str:
    """`down_blocks.1.attentions.0.…` → `input_blocks.4.1.…`, and so on."""
    fixed = {
        "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
        "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
    }  # fmt: skip
    stem, _, leaf = name.rpartition(".")
    if stem in fixed:
        return f"{fixed[stem]}.{leaf}"
    side, block, kind, index, rest = re.fullmatch(
        r"(down_blocks|up_blocks|mid_block)\.?(\d*)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)", name
    ).groups()
    if kind == "resnets":
        for ours, theirs in RESNET:
            rest = re.sub(rf"^{ours}\.", f"{theirs}.", rest)
    if side == "mid_block":
        place = {"resnets": int(index) * 2, "attentions": 1}[kind]
        return f"middle_block.{place}.{rest}"
    number = int(block)
    if side == "down_blocks":
        if kind == "downsamplers":
            return f"input_blocks.{3 * number + 3}.0.{rest.replace('conv', 'op')}"
        return f"input_blocks.{3 * number + int(index) + 1}.{int(kind == 'attentions')}.{rest}"
    if kind == "upsamplers":
        return f"output_blocks.{3 * number + 2}.2.{rest}"
    return f"output_blocks.{3 * number + int(index)}.{int(kind == 'attentions')}.{rest}"


def vae_name(name: str) -> str:
    """`decoder.up_blocks.0.resnets.1.…` → `decoder.up.3.block.1.…`, and so on."""
    name = re.sub(r"encoder\.down_blocks\.(\d)\.", r"encoder.down.\1.", name)
    name = re.sub(r"decoder\.up_blocks\.(\d)\.", lambda m: f"decoder.up.{3 - int(m[1])}.", name)
    name = re.sub(r"mid_block\.resnets\.(\d)\.", lambda m: f"mid.block_{int(m[1]) + 1}.", name)
    name = re.sub(r"(up|down)samplers\.0\.", r"\1sample.", name).replace("resnets.", "block.")
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    if "mid_block.attentions.0." in name:
        head, rest = name.split("mid_block.attentions.0.")
        for ours, theirs in VAE_ATTENTION:
            rest = re.sub(rf"^{re.escape(ours)}\.", f"{theirs}.", rest)
        name = f"{head}mid.attn_1.{rest}"
    return name


def open_clip_tensors(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The second text encoder's tensors under open_clip's names, q, k and v fused, the projection turned."""
    out: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        name = name.removeprefix("text_model.")
        if ".self_attn.k_proj." in name or ".self_attn.v_proj." in name:
            continue
        layer = re.fullmatch(r"encoder\.layers\.(\d+)\.(.*)", name)
        if layer is None:
            fixed = {
                "embeddings.token_embedding.weight": "token_embedding.weight",
                "embeddings.position_embedding.weight": "positional_embedding",
                "text_projection.weight": "text_projection",
            }
            turned = tensor.T if name == "text_projection.weight" else tensor
            out[fixed.get(name, name.replace("final_layer_norm", "ln_final"))] = turned
            continue
        number, rest = layer.groups()
        if rest.startswith("self_attn.q_proj."):
            leaf = rest.rpartition(".")[2]
            parts = [
                state[next(k for k in state if k.endswith(f"layers.{number}.self_attn.{x}_proj.{leaf}"))] for x in "qkv"
            ]
            out[f"transformer.resblocks.{number}.attn.in_proj_{leaf}"] = torch.cat(parts)
            continue
        for ours, theirs in OPEN_CLIP:
            rest = rest.replace(ours, theirs)
        out[f"transformer.resblocks.{number}.{rest}"] = tensor
    return out


def to_original_layout(
    unet: dict[str, torch.Tensor],
    vae: dict[str, torch.Tensor],
    text_encoder: dict[str, torch.Tensor],
    text_encoder_2: dict[str, torch.Tensor],
) -> dict[str, torch.Tensor]:
    """The four state dicts as one, under the names of the original layout."""
    tensors = {f"model.diffusion_model.{unet_name(k)}": v for k, v in unet.items()}
    for name, tensor in vae.items():
        renamed = vae_name(name)
        if ".attn_1." in renamed and tensor.ndim == 2:
            tensor = tensor[:, :, None, None]  # the original writes attention as 1×1 convolutions
        tensors[f"first_stage_model.{renamed}"] = tensor
    for name, tensor in text_encoder.items():
        tensors[f"conditioner.embedders.0.transformer.text_model.{name.removeprefix('text_model.')}"] = tensor
    for name, tensor in open_clip_tensors(text_encoder_2).items():
        tensors[f"conditioner.embedders.1.model.{name}"] = tensor
    return {name: tensors[name].detach().contiguous().half() for name in sorted(tensors)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", type=Path, required=True, help="where vae/, text/ and unet.pt are")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    unet = make_unet()
    unet.load_state_dict(torch.load(args.parts / "unet.pt"))
    vae = AutoencoderKL.from_pretrained(args.parts / "vae")
    encoders = make_text_encoders()
    for name, encoder in zip(("text_encoder", "text_encoder_2"), encoders, strict=True):
        encoder.load_state_dict(torch.load(args.parts / "text" / f"{name}.pt"))
    tensors = to_original_layout(
        unet.state_dict(), vae.state_dict(), encoders[0].state_dict(), encoders[1].state_dict()
    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, args.out, metadata=METADATA)
    print(f"{args.out}: {len(tensors)} tensors, {args.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
