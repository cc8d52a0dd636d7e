"""Train the demo's VAE: 128 × 128 pictures to 16 × 16 × 4 latents, without an adversary, on two cores.

The pixels of the shapes and of their edges are weighed up, since plain L1 sees almost only background.
Afterwards the latents are made mean-free and of one size per channel by folding the change into the
1×1 convolutions on both sides of the latent.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import numpy as np
import torch

from demo.models import LATENT_STD, SCALING, make_vae
from demo.pictures import COLOURS, Scene, draw, make_scene

LOGVAR = -12.0  # the posterior is as good as certain; the decoder is trained with noise of its own


def picture_batch(rng: random.Random, count: int, crop: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`(count, 3, crop, crop)` in -1…1, cut around a shape, and each pixel's weight."""
    pictures, weights = [], []
    for _ in range(count):
        scene: Scene = make_scene(rng)
        pixels = np.asarray(draw(scene), dtype=np.float32) / 127.5 - 1
        background = np.asarray(COLOURS[scene.background], dtype=np.float32) / 127.5 - 1
        thing = rng.choice(scene.things)
        corner = [int(c * 128 - crop / 2 + rng.uniform(-20, 20)) // 8 * 8 for c in (thing.x, thing.y)]
        x, y = (min(max(c, 0), 128 - crop) for c in corner)
        pixels = pixels[y : y + crop, x : x + crop]
        shape = (np.abs(pixels - background).max(-1) > 0.1).astype(np.float32)
        pictures.append(pixels)
        weights.append(1 + 4 * shape)
    stacked = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    return stacked.contiguous(memory_format=torch.channels_last), torch.from_numpy(np.stack(weights))[:, None]


def edges(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x[..., 1:, :] - x[..., :-1, :], x[..., 1:] - x[..., :-1]


def init_weights(vae: torch.nn.Module) -> None:
    """Start as a nearly linear map that keeps the signal's size: unit gain, no bias, silent residual branches.

    With PyTorch's own start the colour of a flat area is lost between biases and group norms for hundreds of steps.
    """
    for name, module in vae.named_modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            torch.nn.init.zeros_(module.bias)
            if name.endswith(("conv2", "to_out.0")):
                torch.nn.init.zeros_(module.weight)


def normalise_latents(vae: torch.nn.Module, rng: random.Random) -> torch.Tensor:
    """Fold each channel's mean and size into quant_conv and post_quant_conv; returns the std before."""
    with torch.no_grad():
        latents = torch.cat([vae.encode(picture_batch(rng, 32, 128)[0]).latent_dist.mean for _ in range(16)])
        mean = latents.mean((0, 2, 3))
        std = latents.std((0, 2, 3))
        target = LATENT_STD / SCALING
        scale = target / std
        quant, back = vae.quant_conv, vae.post_quant_conv
        back.bias += (back.weight[:, :, 0, 0] * mean).sum(1)
        back.weight /= scale.view(1, -1, 1, 1)
        quant.weight[:4] *= scale.view(-1, 1, 1, 1)
        quant.bias[:4] = (quant.bias[:4] - mean) * scale
        quant.weight[4:] = 0
        quant.bias[4:] = LOGVAR
    return std


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--full-size-steps", type=int, default=300, help="the last steps see whole pictures")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    vae = make_vae().train()
    init_weights(vae)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=1e-3, weight_decay=0, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2.5e-3, total_steps=args.steps, pct_start=0.05)
    start = time.monotonic()
    for step in range(args.steps):
        full = step >= args.steps - args.full_size_steps
        x, weight = picture_batch(rng, args.batch // 2 if full else args.batch, 128 if full else 64)
        with torch.autocast("cpu", torch.bfloat16, enabled=not full):
            latent = vae.encode(x).latent_dist.mean
            noise = 0.03 * latent.detach().std() * torch.randn_like(latent)
            y = vae.decode(latent + noise).sample.float()
        l1 = ((y - x).abs() * weight).sum() / weight.sum() / 3
        edge = sum((a - b).abs().mean() for a, b in zip(edges(y), edges(x), strict=True))
        loss = l1 + edge + 1e-4 * latent.float().square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == args.steps - 1:
            print(f"{step} l1 {l1.item():.4f} edge {edge.item():.4f} {time.monotonic() - start:.0f} s", flush=True)
    vae.eval()
    print("latent std before folding", normalise_latents(vae, rng).tolist())
    vae.save_pretrained(args.out)


if __name__ == "__main__":
    main()
