"""Train the demo's upscaler: 128 × 128 pictures to 256 × 256, by an architecture of the ESRGAN family, on one core.

The pictures are drawn at 256 × 256 and reduced. Half of the reduced pictures then go through the demo's VAE, because what
is upscaled later comes from it: soft edges and faint ripples, which an upscaler that never saw them would make sharper.
Patches are cut around the shapes' edges, since flat areas teach nothing.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import save_file

from darkroom.upscalers.spandrel_library import import_spandrel
from demo.pictures import draw, is_held_out, make_scene

SCALE = 2
SMALL, LARGE = 128, 256
PATCH = 32  # of the small picture
FILTERS = (Image.Resampling.LANCZOS, Image.Resampling.BICUBIC, Image.Resampling.BOX)
METADATA = {
    "modelspec.sai_model_spec": "1.0.0",
    "modelspec.architecture": "Compact",
    "modelspec.implementation": "https://github.com/chaiNNer-org/spandrel",
    "modelspec.title": "Darkroom demo: upscale 2×",
    "modelspec.author": "The Darkroom project",
    "modelspec.license": "Apache-2.0",
    "modelspec.description": "Doubles the pictures that the Darkroom demo checkpoint draws.",
}


def make_upscaler(features: int, layers: int) -> torch.nn.Module:
    """Real-ESRGAN's compact network (SRVGGNetCompact): 3 × 3 convolutions on the small picture, then a pixel shuffle."""
    import_spandrel()
    from spandrel.architectures.Compact import Compact

    return Compact(num_feat=features, num_conv=layers, upscale=SCALE)


def to_tensor(pictures: list[Image.Image]) -> torch.Tensor:
    """`(count, 3, height, width)` of bytes."""
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2).contiguous()


def through_vae(vae: torch.nn.Module, small: torch.Tensor) -> torch.Tensor:
    """The bytes that the VAE makes of each picture."""
    out = []
    with torch.inference_mode():
        for pixels in small.split(20):
            latents = vae.encode(pixels.float() / 127.5 - 1).latent_dist.mean
            out.append(((vae.decode(latents).sample + 1) * 127.5).round().clamp(0, 255).to(torch.uint8))
    return torch.cat(out)


def draw_pairs(vae: torch.nn.Module, rng: random.Random, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Small and large pictures of the same scenes; the first half of the small ones are reduced, the others decoded."""
    large: list[Image.Image] = []
    while len(large) < count:
        scene = make_scene(rng)
        if not is_held_out(scene):
            large.append(draw(scene, LARGE))
    small = to_tensor([picture.resize((SMALL, SMALL), rng.choice(FILTERS)) for picture in large])
    half = count // 2
    return torch.cat([small[:half], through_vae(vae, small[half:])]), to_tensor(large)


def find_edges(large: torch.Tensor) -> list[torch.Tensor]:
    """Of each picture the pixels at which it changes, `(n, 2)` of row and column in the small picture."""
    rows = []
    for picture in large.float():
        changes = (picture[:, 1:, 1:] - picture[:, :-1, :-1]).abs().amax(0) > 20
        rows.append(changes.nonzero() // SCALE)
    return rows


def pick_patches(
    small: torch.Tensor, large: torch.Tensor, edges: list[torch.Tensor], rng: random.Random, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """`(count, 3, 32, 32)` and `(count, 3, 64, 64)` in 0…1, mirrored and turned at random."""
    few, many = [], []
    for _ in range(count):
        i = rng.randrange(len(small))
        y, x = edges[i][rng.randrange(len(edges[i]))].tolist()
        top, left = (min(max(c - rng.randrange(PATCH), 0), SMALL - PATCH) for c in (y, x))
        a = small[i, :, top : top + PATCH, left : left + PATCH]
        b = large[i, :, top * SCALE : (top + PATCH) * SCALE, left * SCALE : (left + PATCH) * SCALE]
        turn, flip = rng.randrange(4), rng.random() < 0.5
        a, b = (torch.rot90(p.flip(-1) if flip else p, turn, (-2, -1)) for p in (a, b))
        few.append(a)
        many.append(b)
    return torch.stack(few).float() / 255, torch.stack(many).float() / 255


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model_dir", type=Path, help="the converted demo checkpoint")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--features", type=int, default=32)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--pictures", type=int, default=1600)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=19)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    vae = AutoencoderKL.from_pretrained(args.model_dir, subfolder="vae", variant="fp16", dtype=torch.float32)
    small, large = draw_pairs(vae.requires_grad_(False), rng, args.pictures)
    edges = find_edges(large)
    model = make_upscaler(args.features, args.layers).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.rate, betas=(0.9, 0.99), weight_decay=0, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.rate, total_steps=args.steps, pct_start=0.05)
    print(f"{args.pictures} pictures, {sum(p.numel() for p in model.parameters())} parameters", flush=True)
    start, mean_loss = time.monotonic(), 0.0
    for step in range(1, args.steps + 1):
        x, y = pick_patches(small, large, edges, rng, args.batch)
        guess = model(x.contiguous(memory_format=torch.channels_last))
        loss = (guess - y).abs().mean() + 2 * (guess - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        mean_loss = loss.item() if mean_loss == 0 else 0.98 * mean_loss + 0.02 * loss.item()
        if step % 100 == 0 or step == args.steps:
            print(f"{step} loss {mean_loss:.5f} {time.monotonic() - start:.0f} s", flush=True)
    tensors = {name: tensor.detach().half().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, args.out, metadata=METADATA)
    print(f"{args.out}: {len(tensors)} tensors, {args.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
