"""Score the demo's upscaler: how close to pictures drawn at twice the size does it come, and how close does Lanczos?

The scenes are kept from its training. Each is scored twice: reduced from the large drawing, and as the demo's VAE gives it back,
which is what an upscaler gets in use. PSNR is over all bytes; SSIM as Wang et al. 2004 define it: luminance, a Gaussian
window of 11 pixels with sigma 1.5, K1 = 0.01, K2 = 0.03.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from scipy.ndimage import gaussian_filter

from darkroom.engine.library import Library
from darkroom.engine.placement import Placement
from darkroom.engine.upscalers import Upscalers
from demo.pictures import Scene, draw, is_held_out, make_scene
from demo.train_upscaler import LARGE, SMALL, through_vae, to_tensor

SIGMA = 1.5
TRUNCATE = 5 / SIGMA  # a window of 11 pixels


def psnr(one: Image.Image, other: Image.Image) -> float:
    """In decibels, of the squared differences of all bytes."""
    difference = np.asarray(one, dtype=np.float64) - np.asarray(other, dtype=np.float64)
    return float(10 * np.log10(255**2 / max(np.square(difference).mean(), 1e-10)))


def ssim(one: Image.Image, other: Image.Image) -> float:
    """The mean structural similarity of the luminances, 0 to 1."""
    x, y = (np.asarray(image.convert("L"), dtype=np.float64) for image in (one, other))

    def blur(values: np.ndarray) -> np.ndarray:
        return gaussian_filter(values, SIGMA, truncate=TRUNCATE)

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y, cov = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2, blur(x * y) - mean_x * mean_y
    scores = (2 * mean_x * mean_y + c1) * (2 * cov + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return float(scores.mean())


def kept_scenes(rng: random.Random, count: int) -> list[Scene]:
    """Scenes that the upscaler never saw."""
    scenes: list[Scene] = []
    while len(scenes) < count:
        scene = make_scene(rng)
        if is_held_out(scene):
            scenes.append(scene)
    return scenes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model_dir", type=Path, help="the converted demo checkpoint")
    parser.add_argument("upscaler", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="a folder for upscaler.json and upscaler.png")
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1002)
    args = parser.parse_args()
    library = Library(args.out)
    library.add("upscalers", "ours", args.upscaler)
    upscalers = Upscalers(library, "fp32", Placement("cpu", takes_turns=False))
    vae = AutoencoderKL.from_pretrained(args.model_dir, subfolder="vae", variant="fp16", dtype=torch.float32)
    wanted = [draw(scene, LARGE) for scene in kept_scenes(random.Random(args.seed), args.pictures)]
    reduced = [picture.resize((SMALL, SMALL), Image.Resampling.LANCZOS) for picture in wanted]
    decoded = [Image.fromarray(x.permute(1, 2, 0).numpy()) for x in through_vae(vae, to_tensor(reduced))]
    results, rows = {}, []
    for given, pictures in (("reduced", reduced), ("decoded", decoded)):
        for name in ("Lanczos", "ours"):
            made = [upscalers.upscale(picture, name, scale=2) for picture in pictures]
            rows.append(made[:8])
            pairs = list(zip(made, wanted, strict=True))
            results[f"{given}, {name}"] = {
                "psnr": round(float(np.mean([psnr(*pair) for pair in pairs])), 2),
                "ssim": round(float(np.mean([ssim(*pair) for pair in pairs])), 4),
            }
            print(f"{given}, {name}: {results[f'{given}, {name}']}", flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "upscaler.json").write_text(json.dumps(results, indent=2) + "\n")
    sheet = Image.new("RGB", (8 * LARGE, 5 * LARGE))
    for y, row in enumerate([*rows, wanted[:8]]):
        for x, picture in enumerate(row):
            sheet.paste(picture, (x * LARGE, y * LARGE))
    sheet.save(args.out / "upscaler.png")


if __name__ == "__main__":
    main()
