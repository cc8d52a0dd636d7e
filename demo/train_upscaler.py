"""Make the demo's upscaler: 128 × 128 pictures to 256 × 256, by a compact network whose last layer is solved, not trained.

The network is Real-ESRGAN's (SRVGGNetCompact): convolutions on the small picture, a pixel shuffle, and what it gives is added to
the nearest pixel. Each colour has features of its own with the same weights: the first carries the colour through, the others
are random differences. The last layer is their least-squares fit to scenes drawn at 256 × 256 and reduced, in which flat pixels
near edges weigh more: least squares alone buys sharp edges with ripples beside them. Flat areas come out as they are.
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
from torch.nn.functional import max_pool2d, pixel_unshuffle, unfold

from darkroom.upscalers.spandrel_library import import_spandrel
from demo.pictures import draw, is_held_out, make_scene

SCALE = 2
SMALL, LARGE = 128, 256
TAPS = 9  # of a convolution of 3 × 3
NEAR = 15  # pixels of the small picture: the edge of the square around an edge that the fit looks at
CHANGES, FLAT = 0.01, 0.004  # in 0…1: what counts as an edge, and as no change at all
METADATA = {
    "modelspec.sai_model_spec": "1.0.0",
    "modelspec.architecture": "Compact",
    "modelspec.implementation": "https://github.com/chaiNNer-org/spandrel",
    "modelspec.title": "Darkroom demo: upscale 2×",
    "modelspec.author": "The Darkroom project",
    "modelspec.license": "Apache-2.0",
    "modelspec.description": "Doubles the pictures that the Darkroom demo checkpoint draws.",
}


def make_network(features: int, layers: int) -> torch.nn.Module:
    """The network with its features fixed and a last layer of zeros; `features` are those of each colour."""
    import_spandrel()
    from spandrel.architectures.Compact import Compact

    network = Compact(num_feat=3 * features, num_conv=layers, upscale=SCALE).requires_grad_(False).eval()
    convolutions = [layer for layer in network.body if isinstance(layer, torch.nn.Conv2d)]
    for place, layer in enumerate(convolutions):
        layer.weight.zero_()
        layer.bias.zero_()
        if layer is convolutions[-1]:
            break
        inputs = features if place else 1
        kernel = torch.randn(features, inputs, 3, 3) * 1.6 / (TAPS * inputs) ** 0.5
        kernel[:, 0] -= kernel[:, 0].mean((1, 2), keepdim=True)
        kernel[0] = 0
        kernel[0, 0, 1, 1] = 1
        for colour in range(3):
            rows = slice(colour * features, (colour + 1) * features)
            layer.weight[rows, colour * inputs : (colour + 1) * inputs] = kernel
    slopes = torch.zeros(features)
    slopes[0] = 1
    for layer in network.body:
        if isinstance(layer, torch.nn.PReLU):
            layer.weight.copy_(slopes.repeat(3))
    return network


def to_tensor(pictures: list[Image.Image]) -> torch.Tensor:
    """`(count, 3, height, width)` of bytes."""
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2).contiguous()


def through_vae(vae: AutoencoderKL, small: torch.Tensor) -> torch.Tensor:
    """The bytes that the VAE makes of each picture."""
    out = []
    with torch.inference_mode():
        for pixels in small.split(20):
            latents = vae.encode(pixels.float() / 127.5 - 1).latent_dist.mean
            out.append(((vae.decode(latents).sample + 1) * 127.5).round().clamp(0, 255).to(torch.uint8))
    return torch.cat(out)


def draw_pairs(rng: random.Random, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Small and large pictures of the same scenes."""
    large: list[Image.Image] = []
    while len(large) < count:
        scene = make_scene(rng)
        if not is_held_out(scene):
            large.append(draw(scene, LARGE))
    small = [picture.resize((SMALL, SMALL), Image.Resampling.LANCZOS) for picture in large]
    return to_tensor(small), to_tensor(large)


def solve(network: torch.nn.Module, small: torch.Tensor, large: torch.Tensor, flat_weight: float) -> None:
    """Fit the last layer, the same for all colours."""
    last = network.body[-1]
    features = last.weight.shape[1] // 3
    size = features * TAPS
    left, right = torch.zeros(size, size, dtype=torch.float64), torch.zeros(size, SCALE**2, dtype=torch.float64)
    for x, y in zip(small.split(1), large.split(1), strict=True):
        x, y = x.float() / 255, y.float() / 255
        missing = pixel_unshuffle(y - x.repeat_interleave(SCALE, 2).repeat_interleave(SCALE, 3), SCALE)
        missing = missing.view(3, SCALE**2, SMALL, SMALL)
        changes = (missing.abs().amax((0, 1)) > CHANGES).float()
        near = max_pool2d(changes[None], NEAR, 1, NEAR // 2).flatten().nonzero().flatten()
        for layer in network.body[:-1]:
            x = layer(x)
        given = unfold(x, 3, padding=1).view(3, size, -1)
        for colour in range(3):
            a = given[colour][:, near].double()
            a[:TAPS] -= a[TAPS // 2].clone()  # as differences to the pixel itself, so that flat areas give nothing
            b = missing[colour].flatten(1)[:, near].double()
            weights = 1 + flat_weight * (b.abs().amax(0) < FLAT).double()
            left += (a * weights) @ a.T
            right += (a * weights) @ b.T
    found = torch.linalg.solve(left + torch.diag(1e-5 * left.diagonal() + 1e-9), right).T
    found[:, TAPS // 2] = 0
    found[:, TAPS // 2] = -found[:, :TAPS].sum(1)
    for colour in range(3):
        columns = slice(colour * features, (colour + 1) * features)
        last.weight[colour * SCALE**2 : (colour + 1) * SCALE**2, columns] = found.float().view(-1, features, 3, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--features", type=int, default=20, help="of each colour")
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=50)
    parser.add_argument("--flat-weight", type=float, default=20)
    parser.add_argument("--seed", type=int, default=19)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    start = time.monotonic()
    network = make_network(args.features, args.layers)
    solve(network, *draw_pairs(random.Random(args.seed), args.pictures), args.flat_weight)
    tensors = {name: tensor.half().contiguous() for name, tensor in network.state_dict().items()}
    save_file(tensors, args.out, metadata=METADATA)
    print(
        f"{args.out}: {len(tensors)} tensors, {args.out.stat().st_size / 1e6:.2f} MB, {time.monotonic() - start:.0f} s"
    )


if __name__ == "__main__":
    main()
