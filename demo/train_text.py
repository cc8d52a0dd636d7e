"""Teach the demo's two text encoders what captions say, before the UNet ever sees them.

From the hidden states that the UNet will get, and from the pooled vector, small heads predict every
attribute of the scene: background, sizes, colours, shapes, layout, or that it was left unsaid.
Captions of several chunks are among them, so that every chunk's states carry what that chunk says.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import torch
from torch import nn

from demo.captions import CaptionBatches
from demo.models import CHUNK, chunk_tokens, encode_text, make_text_encoders, make_tokenizer
from demo.pictures import VALUES, Caption, make_scene


class Heads(nn.Module):
    """One query a attribute over the hidden states, and one classifier each for states and pooled vector."""

    def __init__(self, width: int, pooled: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(len(VALUES), width) * width**-0.5)
        self.by_state = nn.ModuleList(nn.Linear(width, len(v) + 1) for v in VALUES)
        self.by_pooled = nn.ModuleList(nn.Linear(pooled, len(v) + 1) for v in VALUES)

    def forward(self, context: torch.Tensor, pooled: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        seen = torch.softmax(self.queries @ context.transpose(1, 2), -1) @ context
        return [h(seen[:, i]) for i, h in enumerate(self.by_state)], [h(pooled) for h in self.by_pooled]


def labels(captions: list[Caption]) -> torch.Tensor:
    """`(batch, attributes)`: the value's number, or one past the last where nothing is said."""
    rows = [
        [len(values) if said is None else values.index(said) for said, values in zip(c.said, VALUES, strict=True)]
        for c in captions
    ]
    return torch.tensor(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--seed", type=int, default=11)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    encoders = make_text_encoders()
    heads = Heads(128, 80)
    parameters = [p for m in (*encoders, heads) for p in m.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=args.steps, pct_start=0.05)
    batches = CaptionBatches(make_tokenizer(), rng)
    start, step = time.monotonic(), 0
    while step < args.steps:
        scenes = [make_scene(rng) for _ in range(args.batch * 16)]
        for _, ids, captions, length in batches.pool(scenes, args.batch, blank=0.03, widest=300):
            if step == args.steps:
                break
            share = max(16, min(args.batch, args.batch * CHUNK * 2 // length))
            target = labels(captions[:share])
            chunks, last = chunk_tokens(ids[:share], length)
            by_state, by_pooled = heads(*encode_text(encoders, chunks, last))
            guesses = by_state + (by_pooled if length <= CHUNK else [])
            targets = [target[:, i % len(VALUES)] for i in range(len(guesses))]
            loss = sum(nn.functional.cross_entropy(g, t) for g, t in zip(guesses, targets, strict=True))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            if step % 50 == 0 or step == args.steps - 1:
                right = [
                    f"{(g.argmax(-1) == t).float().mean().item():.2f}" for g, t in zip(guesses, targets, strict=True)
                ]
                print(
                    f"{step} tokens {length} loss {loss.item():.3f} right {' '.join(right)} {time.monotonic() - start:.0f} s",
                    flush=True,
                )
            step += 1
    args.out.mkdir(parents=True, exist_ok=True)
    for name, encoder in zip(("text_encoder", "text_encoder_2"), encoders, strict=True):
        torch.save(encoder.state_dict(), args.out / f"{name}.pt")


if __name__ == "__main__":
    main()
