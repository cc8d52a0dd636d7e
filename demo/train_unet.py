"""Train the demo's UNet on latents of drawn pictures, conditioned by the frozen text encoders.

Epsilon prediction on SDXL's noise schedule. What the text has to decide is decided at high noise, where
the plain epsilon loss weighs an error in the picture by next to nothing: the loss is weighed by 1/ᾱ (as
v-prediction would), capped. A little offset noise keeps the latents' mean from telling the background.
The learning rate stays flat and falls in the last fifth; `--resume` goes on from the last snapshot.
"""

from __future__ import annotations

import argparse
import copy
import random
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image

from demo.captions import CaptionBatches
from demo.models import (
    EOS,
    SCALING,
    chunk_tokens,
    encode_text,
    make_scheduler,
    make_text_encoders,
    make_tokenizer,
    make_unet,
)
from demo.pictures import Scene, draw, is_held_out, make_scene

SIZE_IDS = torch.tensor([[128.0, 128, 0, 0, 128, 128]])
MAX_WEIGHT = 25.0
SHAPE_WEIGHT = 2.0
OFFSET_NOISE = 0.12
EMA = 0.999
PREVIEW = (
    "a red circle on a blue background",
    "a green star above a yellow square on a white background",
    "a large purple heart on a black background",
    "a small white ring in the top left corner on an orange background",
    "a pink triangle left of a cyan diamond on a gray background",
    "a small black cross at the bottom on a green background",
    ", ".join(["masterpiece, best quality, sharp focus, flat design"] * 9) + ", a yellow star on a purple background",
    ", ".join(["soft light, simple scene, elegant, modern"] * 20)
    + ", a blue ring below an orange square, pink background",
)


def encode_pictures(
    vae: AutoencoderKL, rng: random.Random, count: int
) -> tuple[list[Scene], torch.Tensor, torch.Tensor]:
    """Scenes, their scaled latents `(count, 4, 16, 16)` and the share of shape in each latent cell `(count, 1, 16, 16)`."""
    scenes: list[Scene] = []
    while len(scenes) < count:
        scene = make_scene(rng)
        if not is_held_out(scene):
            scenes.append(scene)
    latents, shares = [], []
    for i in range(0, count, 50):
        pixels = np.stack([np.asarray(draw(scene)) for scene in scenes[i : i + 50]])
        x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
        shape = ((x - x[:, :, :1, :1]).abs().amax(1, keepdim=True) > 0.1).float()
        with torch.no_grad():
            latents.append(vae.encode(x.to(memory_format=torch.channels_last)).latent_dist.mean * SCALING)
        shares.append(torch.nn.functional.avg_pool2d(shape, 8))
    return scenes, torch.cat(latents), torch.cat(shares)


def init_weights(unet: torch.nn.Module) -> None:
    """Silent residual branches and output at the start, as in the original latent diffusion."""
    for name, module in unet.named_modules():
        if name.endswith(("conv2", "proj_out", "conv_out")):
            torch.nn.init.zeros_(module.weight)
            torch.nn.init.zeros_(module.bias)


def rate(step: int, steps: int, peak: float) -> float:
    """Warm-up over 300 steps, flat, then down to a fiftieth over the last fifth."""
    if step < 300:
        return peak * (step + 1) / 300
    rest = (steps - step) / (0.2 * steps)
    return peak * max(0.02, min(1.0, rest))


@torch.no_grad()
def preview(unet: torch.nn.Module, encoders: tuple, vae: AutoencoderKL, tokenizer, path: Path) -> None:
    """One picture a preview prompt: 20 Euler steps, CFG 4, seed 0."""
    scheduler = make_scheduler()
    tiles = []
    for text in PREVIEW:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        chunks, last = chunk_tokens([ids, [EOS] * len(ids)], len(ids))
        context, pooled = encode_text(encoders, chunks, last)
        scheduler.set_timesteps(20)
        x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)) * scheduler.init_noise_sigma
        added = {"text_embeds": pooled, "time_ids": SIZE_IDS.expand(2, -1)}
        for t in scheduler.timesteps:
            both = scheduler.scale_model_input(torch.cat([x, x]), t)
            wanted, plain = unet(both, t, context, added_cond_kwargs=added, return_dict=False)[0].chunk(2)
            x = scheduler.step(plain + 4.0 * (wanted - plain), t, x).prev_sample
        pixels = vae.decode(x / SCALING).sample[0].clamp(-1, 1)
        tiles.append(((pixels + 1) * 127.5).byte().permute(1, 2, 0).numpy())
    Image.fromarray(np.concatenate(tiles, 1)).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", type=Path, required=True, help="where vae/ and text/ are, and where unet.pt goes")
    parser.add_argument("--steps", type=int, default=2800)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--pictures", type=int, default=20000)
    parser.add_argument("--rate", type=float, default=1.2e-3)
    parser.add_argument("--seed", type=int, default=13)
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    vae = AutoencoderKL.from_pretrained(args.parts / "vae").eval().to(memory_format=torch.channels_last)
    encoders = make_text_encoders()
    for name, encoder in zip(("text_encoder", "text_encoder_2"), encoders, strict=True):
        encoder.load_state_dict(torch.load(args.parts / "text" / f"{name}.pt"))
        encoder.eval().requires_grad_(False)
    tokenizer = make_tokenizer()
    unet = make_unet()
    init_weights(unet)
    ema = copy.deepcopy(unet).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=args.rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    scenes, latents, shares = encode_pictures(vae, rng, args.pictures)
    print(f"{len(scenes)} pictures, latent std {latents.std().item():.3f}", flush=True)
    snapshot, step = args.parts / "unet-snapshot.pt", 0
    if args.resume and snapshot.exists():
        state = torch.load(snapshot)
        unet.load_state_dict(state["unet"])
        ema.load_state_dict(state["ema"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
        rng.seed(args.seed + step)
        torch.manual_seed(args.seed + step)
    batches = CaptionBatches(tokenizer, rng)
    alphas = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)
    start, mean_loss = time.monotonic(), 0.0
    while step < args.steps:
        picked = rng.sample(range(len(scenes)), args.batch * 16)
        for group, ids, _, length in batches.pool([scenes[i] for i in picked], args.batch, blank=0.1):
            if step == args.steps:
                break
            for part in optimizer.param_groups:
                part["lr"] = rate(step, args.steps, args.rate)
            rows = torch.tensor([picked[i] for i in group])
            clean, share = latents[rows], shares[rows]
            chunks, last = chunk_tokens(ids, length)
            with torch.no_grad():
                context, pooled = encode_text(encoders, chunks, last)
                # The pooled vector knows the last chunk only; hiding it teaches the UNet to read the states.
                pooled = pooled * (torch.rand(len(rows), 1) > 0.3)
                zeroed = torch.rand(len(rows), 1) > 0.02
                context, pooled = context * zeroed[:, :, None], pooled * zeroed
            t = torch.randint(0, 1000, (len(rows),))
            alpha = alphas[t].view(-1, 1, 1, 1)
            noise = torch.randn_like(clean) + OFFSET_NOISE * torch.randn(len(rows), 4, 1, 1)
            noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
            added = {"text_embeds": pooled, "time_ids": SIZE_IDS.expand(len(rows), -1)}
            guess = unet(noisy, t, context, added_cond_kwargs=added, return_dict=False)[0]
            weight = (1 / alpha).clamp(max=MAX_WEIGHT) * (1 + SHAPE_WEIGHT * (share > 0))
            loss = (weight * (guess - noise).square()).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
            optimizer.step()
            with torch.no_grad():
                keep = min(EMA, (1 + step) / (10 + step))
                torch._foreach_lerp_(list(ema.parameters()), list(unet.parameters()), 1 - keep)
            mean_loss = loss.item() if mean_loss == 0 else 0.99 * mean_loss + 0.01 * loss.item()
            step += 1
            if step % 100 == 0:
                print(f"{step} loss {mean_loss:.4f} {time.monotonic() - start:.0f} s", flush=True)
            if step % 500 == 0 or step == args.steps:
                preview(ema, encoders, vae, tokenizer, args.parts / f"preview-{step}.png")
                state = {
                    "unet": unet.state_dict(),
                    "ema": ema.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": step,
                }
                torch.save(state, snapshot)
    torch.save(ema.state_dict(), args.parts / "unet.pt")


if __name__ == "__main__":
    main()
