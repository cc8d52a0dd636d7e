"""Running a CLIP text encoder over chunks: each distinct one once, all in one batch.

CLIP's attention is causal, so what stands behind a chunk changes nothing in it: shorter chunks are filled up to the
longest with their own end token, and what the filling gives is dropped. The pooled vector is that of the first end
token, which filling behind it leaves where it is; transformers' modeling_clip.py looks for the largest number where a
config says `eos_token_id` 2, as SDXL's do, else for that number, and takes the first it finds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from darkroom.prompting.chunking import Chunk
from darkroom.prompting.tokens import FIRST_VECTOR, Vectors

MAX_BATCH = 64
"""Chunks that go through an encoder together, some 4,700 tokens; bounds the memory that its hidden states take."""
_PLACEHOLDER = 0  # below the end token, whose place encoders find as that of the largest number

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Encoded:
    """What an encoder made of its chunks: hidden states (m, d) of the chunk's m tokens, and pooled vectors (p,)."""

    states: dict[Ids, Any]
    pooled: dict[Ids, Any]


def run_text_encoder(encoder: Any, chunks: Iterable[Chunk], layer: int, vectors: Vectors, number: int) -> Encoded:
    """Encode chunks. `layer` counts hidden states from the end, -2 being SDXL's; `number` is 0 or 1, for `vectors`.

    The result depends on the chunks alone, not on what was encoded before.
    """
    import torch

    distinct = list(dict.fromkeys(chunk.ids for chunk in chunks))
    width = max(map(len, distinct))
    filled = {ids: ids + ids[-1:] * (width - len(ids)) for ids in distinct}
    rows = list(dict.fromkeys(filled.values()))  # a prompt's filling is often the beginning of a longer one
    states: dict[Ids, Any] = {}
    pooled: dict[Ids, Any] = {}
    for start in range(0, len(rows), MAX_BATCH):
        batch = rows[start : start + MAX_BATCH]
        numbers = [[_PLACEHOLDER if token >= FIRST_VECTOR else token for token in row] for row in batch]
        with _own_vectors(encoder, batch, vectors, number):
            output = encoder(torch.tensor(numbers, device=encoder.device), output_hidden_states=True)
        states.update(zip(batch, output.hidden_states[layer], strict=True))
        pooled.update(zip(batch, output[0], strict=True))
    return Encoded(
        {ids: states[row][: len(ids)] for ids, row in filled.items()},
        {ids: pooled[row] for ids, row in filled.items()},
    )


@contextmanager
def _own_vectors(encoder: Any, rows: Sequence[Ids], vectors: Vectors, number: int) -> Iterator[None]:
    """Have the encoder's table give the embeddings' vectors where they stand; its weights are not touched."""
    places = [
        (row, column, token)
        for row, ids in enumerate(rows)
        for column, token in enumerate(ids)
        if token >= FIRST_VECTOR
    ]
    if not places:
        yield
        return

    def replace(_module: Any, _inputs: Any, output: Any) -> Any:
        output = output.clone()
        for row, column, token in places:
            output[row, column] = vectors.vector(token, number).to(output)
        return output

    handle = encoder.get_input_embeddings().register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()
