"""Train the demo's LoRA: low-rank changes to the UNet that draw a thick contour around every shape.

The captions are the plain ones, without a word for the style: at weight 0 the checkpoint draws as ever, at 1 the
contour is there. Noise, loss and weights are those of the UNet's own training. The file is in kohya's layout
(networks/lora.py of sd-scripts), with the names of Diffusers' modules.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import save, save_file

from demo.captions import CaptionBatches
from demo.models import SCALING, chunk_tokens, encode_text, make_tokenizer
from demo.pictures import Scene, draw, is_held_out, make_scene
from demo.train_unet import MAX_WEIGHT, OFFSET_NOISE, SHAPE_WEIGHT, SIZE_IDS

WIDEST = 225  # tokens: three chunks show the UNet's changes enough of long captions
METADATA = {
    "modelspec.sai_model_spec": "1.0.0",
    "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
    "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
    "modelspec.title": "Darkroom demo: outline",
    "modelspec.author": "The Darkroom project",
    "modelspec.license": "Apache-2.0",
    "modelspec.description": "Draws a thick contour around the shapes of the Darkroom demo checkpoint.",
    "modelspec.resolution": "128x128",
    "modelspec.prediction_type": "epsilon",
    "ss_base_model_version": "sdxl_base_v1-0",
    "ss_network_module": "networks.lora",
    "ss_sd_model_name": "darkroom-demo.safetensors",
}


class Adapted(torch.nn.Module):
    """A frozen layer and its low-rank change: `base(x) + alpha / rank · up(down(x))`, alpha being half the rank."""

    def __init__(self, base: torch.nn.Linear | torch.nn.Conv2d, rank: int) -> None:
        super().__init__()
        self.base = base
        self.alpha = rank / 2
        if isinstance(base, torch.nn.Conv2d):
            size, stride, padding = base.kernel_size, base.stride, base.padding
            self.down = torch.nn.Conv2d(base.in_channels, rank, size, stride, padding, bias=False)
            self.up = torch.nn.Conv2d(rank, base.out_channels, 1, bias=False)
        else:
            self.down = torch.nn.Linear(base.in_features, rank, bias=False)
            self.up = torch.nn.Linear(rank, base.out_features, bias=False)
        torch.nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        torch.nn.init.zeros_(self.up.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + 0.5 * self.up(self.down(x))


def adapt(unet: torch.nn.Module, rank: int, conv_rank: int) -> dict[str, Adapted]:
    """Put adapters around the transformers' linear layers and the other blocks' convolutions; by the layers' names.

    The finest level has no attention, and there a contour is drawn: without the convolutions it stays crooked.
    """
    unet.requires_grad_(False)
    adapters = {}
    for name, module in list(unet.named_modules()):
        if ".attentions." in name and isinstance(module, torch.nn.Linear):
            adapters[name] = Adapted(module, rank)
        elif (".resnets." in name or "samplers." in name) and isinstance(module, torch.nn.Conv2d):
            adapters[name] = Adapted(module, conv_rank)
    for name, adapter in adapters.items():
        parent, _, leaf = name.rpartition(".")
        setattr(unet.get_submodule(parent), leaf, adapter)
    return adapters


def kohya_tensors(adapters: dict[str, Adapted]) -> dict[str, torch.Tensor]:
    """`lora_unet_<module with _ for .>` with `.lora_down.weight` (rank, in), `.lora_up.weight` (out, rank), `.alpha` ()."""
    tensors = {}
    for name, adapter in adapters.items():
        stem = f"lora_unet_{name.replace('.', '_')}"
        tensors[f"{stem}.lora_down.weight"] = adapter.down.weight.detach().half().contiguous()
        tensors[f"{stem}.lora_up.weight"] = adapter.up.weight.detach().half().contiguous()
        tensors[f"{stem}.alpha"] = torch.tensor(adapter.alpha, dtype=torch.float16)
    return tensors


def data_hash(tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 of the file's bytes behind the header: what sd-scripts writes as `sshs_model_hash` and A1111 shows."""
    file = save(tensors)
    return hashlib.sha256(file[8 + int.from_bytes(file[:8], "little") :]).hexdigest()


def encode_pictures(
    vae: torch.nn.Module, rng: random.Random, count: int
) -> tuple[list[Scene], torch.Tensor, torch.Tensor]:
    """Scenes, scaled latents of their outlined pictures `(count, 4, 16, 16)`, where shapes are `(count, 1, 16, 16)`."""
    scenes: list[Scene] = []
    while len(scenes) < count:
        scene = make_scene(rng)
        if not is_held_out(scene):
            scenes.append(scene)
    latents, shapes = [], []
    for i in range(0, count, 50):
        pixels = np.stack([np.asarray(draw(scene, style="outline")) for scene in scenes[i : i + 50]])
        x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
        differs = ((x - x[:, :, :1, :1]).abs().amax(1, keepdim=True) > 0.1).float()
        with torch.no_grad():
            latents.append(vae.encode(x.to(memory_format=torch.channels_last)).latent_dist.mean * SCALING)
        shapes.append(torch.nn.functional.max_pool2d(differs, 8))
    return scenes, torch.cat(latents), torch.cat(shapes)


def train(
    unet: torch.nn.Module,
    encoders: tuple[torch.nn.Module, torch.nn.Module],
    pictures: tuple[list[Scene], torch.Tensor, torch.Tensor],
    rng: random.Random,
    args: argparse.Namespace,
) -> None:
    """Teach the UNet's trainable weights the pictures; the rate rises over a twentieth of the steps, then falls by cosine."""
    scenes, latents, shapes = pictures
    weights = [p for p in unet.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=args.rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.rate, total_steps=args.steps, pct_start=0.05)
    batches = CaptionBatches(make_tokenizer(), rng)
    alphas = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)
    start, step, mean_loss = time.monotonic(), 0, 0.0
    while step < args.steps:
        picked = rng.sample(range(len(scenes)), args.batch * 16)
        for group, ids, _, length in batches.pool([scenes[i] for i in picked], args.batch, blank=0.1, widest=WIDEST):
            if step == args.steps:
                break
            rows = torch.tensor([picked[i] for i in group])
            clean = latents[rows]
            with torch.no_grad():
                context, pooled = encode_text(encoders, *chunk_tokens(ids, length))
            t = torch.randint(0, 1000, (len(rows),))
            alpha = alphas[t].view(-1, 1, 1, 1)
            noise = torch.randn_like(clean) + OFFSET_NOISE * torch.randn(len(rows), 4, 1, 1)
            noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
            added = {"text_embeds": pooled, "time_ids": SIZE_IDS.expand(len(rows), -1)}
            guess = unet(noisy, t, context, added_cond_kwargs=added, return_dict=False)[0]
            weight = (1 / alpha).clamp(max=MAX_WEIGHT) * (1 + SHAPE_WEIGHT * shapes[rows])
            loss = (weight * (guess - noise).square()).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            mean_loss = loss.item() if mean_loss == 0 else 0.98 * mean_loss + 0.02 * loss.item()
            step += 1
            if step % 50 == 0:
                print(f"{step} loss {mean_loss:.4f} {time.monotonic() - start:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model_dir", type=Path, help="the converted demo checkpoint")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rank", type=int, default=4, help="of the linear layers")
    parser.add_argument("--conv-rank", type=int, default=6)
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--pictures", type=int, default=6000)
    parser.add_argument("--rate", type=float, default=4e-3)
    parser.add_argument("--seed", type=int, default=17)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    parts = StableDiffusionXLPipeline.from_pretrained(args.model_dir, variant="fp16", dtype=torch.float32)
    encoders = (parts.text_encoder.requires_grad_(False), parts.text_encoder_2.requires_grad_(False))
    unet = parts.unet.to(memory_format=torch.channels_last)
    adapters = adapt(unet, args.rank, args.conv_rank)
    pictures = encode_pictures(parts.vae.to(memory_format=torch.channels_last), rng, args.pictures)
    print(f"{len(adapters)} layers, {args.pictures} pictures", flush=True)
    train(unet, encoders, pictures, rng, args)
    tensors = kohya_tensors(adapters)
    network = {
        "ss_network_dim": str(args.rank),
        "ss_network_alpha": str(args.rank / 2),
        "ss_network_args": json.dumps({"conv_dim": str(args.conv_rank), "conv_alpha": str(args.conv_rank / 2)}),
    }
    save_file(tensors, args.out, metadata=METADATA | network | {"sshs_model_hash": data_hash(tensors)})
    print(f"{args.out}: {len(tensors)} tensors, {args.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
