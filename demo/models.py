"""The demo's four networks and its tokenizer, built from the same component configs that darkroom converts with."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "workflow/darkroom/resources/architectures/darkroom-demo"
BOS, EOS = 49406, 49407
CHUNK = 75
SCALING = 0.13025  # SDXL's own, so that every tool can decode the latents
LATENT_STD = 0.6  # of the scaled latents: flat pictures need more noise before the text has to decide


def _config(component: str) -> dict:
    return json.loads((CONFIGS / component / "config.json").read_text())


def make_vae() -> AutoencoderKL:
    return AutoencoderKL.from_config(_config("vae")).to(memory_format=torch.channels_last)


def make_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel.from_config(_config("unet")).to(memory_format=torch.channels_last)


def make_text_encoders() -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    first = CLIPTextModel(CLIPTextConfig(**_config("text_encoder")))
    return first, CLIPTextModelWithProjection(CLIPTextConfig(**_config("text_encoder_2")))


def make_scheduler() -> EulerDiscreteScheduler:
    return EulerDiscreteScheduler.from_config(json.loads((CONFIGS / "scheduler/scheduler_config.json").read_text()))


def make_tokenizer() -> CLIPTokenizer:
    from darkroom.checkpoint.small_files import load_vocabulary

    vocab, merges = load_vocabulary()
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=10**6)


def chunk_tokens(ids: list[list[int]], length: int) -> tuple[torch.Tensor, int]:
    """Pad with EOS to `length` tokens and cut into chunks the LPW way: `(batch, chunks, 77)` and the last chunk's length.

    The last chunk keeps its own length in the attention of the UNet; here it is filled with EOS behind its end,
    which a causal encoder never looks ahead to.
    """
    count = max(1, -(-length // CHUNK))
    rows = []
    for row in ids:
        padded = row + [EOS] * (count * CHUNK - len(row))
        rows.append([[BOS, *padded[i : i + CHUNK], EOS] for i in range(0, count * CHUNK, CHUNK)])
    return torch.tensor(rows), length - (count - 1) * CHUNK + 2


def encode_text(
    encoders: tuple[torch.nn.Module, torch.nn.Module], chunks: torch.Tensor, last: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Context `(batch, tokens, 128)` and the pooled vector of the last chunk `(batch, 80)`."""
    batch, count, width = chunks.shape
    flat = chunks.reshape(batch * count, width)
    first = encoders[0](flat, output_hidden_states=True).hidden_states[-2]
    out = encoders[1](flat, output_hidden_states=True)
    both = torch.cat([first, out.hidden_states[-2]], -1).reshape(batch, count * width, -1)
    return both[:, : (count - 1) * width + last], out.text_embeds.reshape(batch, count, -1)[:, -1]
