"""From prompts of any length to SDXL's embeddings, with attention weights. `emphasis` names the convention followed.

`lpw` gives the tensors of the long-prompt community pipeline for SDXL (diffusers, examples/community/
lpw_stable_diffusion_xl.py): hidden states of both encoders side by side, chunk after chunk, each weighted token moved
away from or towards its chunk's last position, and the pooled vector of the last chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from darkroom.errors import RequestError
from darkroom.prompting.chunking import Chunk, lay_out
from darkroom.request import Emphasis

MAX_BATCH = 32
"""Chunks that go through an encoder together; bounds the memory its hidden states take."""


@dataclass(frozen=True, slots=True)
class PromptEmbeddings:
    """What the UNet is conditioned on: sequences (1, n, d), pooled vectors (1, p), and numbers for the log."""

    prompt_embeds: Any
    negative_prompt_embeds: Any
    pooled_prompt_embeds: Any
    negative_pooled_prompt_embeds: Any
    prompt_tokens: int
    negative_tokens: int
    chunks: int


def encode_prompt(
    tokenizers: Sequence[Any],
    text_encoders: Sequence[Any],
    prompt: str,
    negative_prompt: str,
    *,
    emphasis: Emphasis = "lpw",
    clip_skip: int = 0,
) -> PromptEmbeddings:
    """Encode a prompt and its negative with SDXL's two tokenizers and text encoders.

    `clip_skip` counts the hidden layers left out below the usual second-to-last one, in both prompts. The
    tensors have the encoders' dtype; n is the prompts' token count plus two per chunk.
    Raises RequestError (E-REQUEST) for a weight out of range or a `clip_skip` deeper than an encoder.
    """
    import torch

    encode = _MODES.get(emphasis)
    if encode is None:
        raise RequestError("emphasis", emphasis, f"unknown; known are {', '.join(_MODES)}")
    for encoder in text_encoders:
        layers = encoder.config.num_hidden_layers
        if not 0 <= clip_skip < layers:
            raise RequestError(
                "clip_skip", clip_skip, f"the model's text encoder has {layers} layers", "use a smaller one"
            )
    with torch.no_grad():
        return encode(tokenizers, text_encoders, prompt, negative_prompt, -(clip_skip + 2))


def _encode_lpw(
    tokenizers: Sequence[Any], text_encoders: Sequence[Any], prompt: str, negative_prompt: str, layer: int
) -> PromptEmbeddings:
    import torch

    layouts = lay_out(tokenizers, prompt, negative_prompt)
    halves = []
    for encoder, layout in zip(text_encoders, layouts, strict=True):
        hidden, pooled = _run_encoder(encoder, [*layout.positive, *layout.negative], layer)
        halves.append([_join(chunks, hidden) for chunks in (layout.positive, layout.negative)])
    # The loop ends with the second encoder: its layout and pooled vectors are the ones SDXL conditions on.
    return PromptEmbeddings(
        prompt_embeds=torch.cat([half[0] for half in halves], dim=-1),
        negative_prompt_embeds=torch.cat([half[1] for half in halves], dim=-1),
        pooled_prompt_embeds=pooled[layout.positive[-1].ids].unsqueeze(0),
        negative_pooled_prompt_embeds=pooled[layout.negative[-1].ids].unsqueeze(0),
        prompt_tokens=layouts[0].prompt_tokens,
        negative_tokens=layouts[0].negative_tokens,
        chunks=len(layouts[0].positive),
    )


def _run_encoder(encoder: Any, chunks: Iterable[Chunk], layer: int) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """Each distinct chunk once, those of equal length together: hidden states (m, d) and pooled vectors by token ids."""
    import torch

    by_length: dict[int, dict[tuple[int, ...], None]] = {}
    for chunk in chunks:
        by_length.setdefault(len(chunk.ids), {})[chunk.ids] = None
    hidden: dict[Any, Any] = {}
    pooled: dict[Any, Any] = {}
    for distinct in by_length.values():
        rows = list(distinct)
        for start in range(0, len(rows), MAX_BATCH):
            batch = rows[start : start + MAX_BATCH]
            output = encoder(torch.tensor(batch, device=encoder.device), output_hidden_states=True)
            hidden.update(zip(batch, output.hidden_states[layer], strict=True))
            pooled.update(zip(batch, output[0], strict=True))
    return hidden, pooled


def _join(chunks: Sequence[Chunk], hidden: dict[Any, Any]) -> Any:
    """The weighted hidden states (1, n, d) of a prompt's chunks."""
    import torch

    return torch.cat([_weigh(hidden[chunk.ids], chunk.weights) for chunk in chunks]).unsqueeze(0)


def _weigh(states: Any, weights: Sequence[float]) -> Any:
    """`last + (state - last) * weight` for each state (m, d) whose weight is not 1.

    The weights are rounded to half precision, as in the pipeline whose tensors these are.
    """
    import torch

    if all(weight == 1.0 for weight in weights):
        return states
    factors = torch.tensor(weights, dtype=torch.float16).to(states.device, torch.float32).unsqueeze(1)
    last = states[-1]
    moved = last + ((states - last) * factors).to(states.dtype)
    return torch.where(factors == 1.0, states, moved)


_MODES: dict[str, Callable[..., PromptEmbeddings]] = {"lpw": _encode_lpw}
