"""From prompts of any length to SDXL's embeddings, with attention weights. `emphasis` names the convention followed.

CLIP's attention is causal, so tokens after a chunk change nothing in it: shorter chunks are filled up to the longest
with their own end token, and the states of these tokens are dropped. The pooled vector is that of the first end token,
which keeps its position; transformers' modeling_clip.py takes the first occurrence of the largest token number if the
config's `eos_token_id` is 2, as in SDXL, else of that number.

`lpw` gives the tensors of the long-prompt community pipeline for SDXL (diffusers, examples/community/
lpw_stable_diffusion_xl.py): hidden states of both encoders side by side, chunk after chunk, each weighted token moved
away from or towards its chunk's last position, and the pooled vector of the last chunk. `a1111`, `no_norm` and `comfy`
pad every chunk to 77 and take the pooled vector of the first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from darkroom.errors import RequestError
from darkroom.prompting.chunking import Chunk, empty_chunk, lay_out
from darkroom.prompting.embeddings import Embedding, check_widths
from darkroom.prompting.emphasis import MODES, weigh
from darkroom.prompting.tokens import FIRST_VECTOR, Vectors, count_tokens, tokenize

MAX_BATCH = 64
"""Chunks that go through an encoder together, some 4,700 tokens; bounds the memory for hidden states."""
_PLACEHOLDER = 0  # below the end token, whose position encoders find as that of the largest number
Ids = tuple[int, ...]
Texts = str | Sequence[str]


@dataclass(frozen=True, slots=True)
class Encoded:
    """An encoder's output by chunk: hidden states (m, d) of the chunk's m tokens, and pooled vectors (p,)."""

    states: dict[Ids, Any]
    pooled: dict[Ids, Any]


@dataclass(frozen=True, slots=True)
class PromptEmbeddings:
    """The UNet's conditioning: sequences (b, n, d), pooled vectors (b, p), and counts for the log.

    `prompt_tokens` and `negative_tokens` are counts of the first tokenizer, for the longest of several prompts.
    """

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
    prompt: Texts,
    negative_prompt: Texts = "",
    *,
    emphasis: str = "lpw",
    clip_skip: int = 0,
    prompt_2: Texts | None = None,
    negative_prompt_2: Texts | None = None,
    embeddings: Mapping[str, Embedding] | None = None,
) -> PromptEmbeddings:
    """Encode a prompt and its negative with SDXL's two tokenizers and text encoders, or with the second of both, which the refiner has.

    `prompt_2` and `negative_prompt_2` are for the second encoder (None: the same as for the first). A list of b prompts
    gives b rows, all as long as the longest: shorter prompts are filled, as the shorter of prompt and negative prompt
    is. Other texts may be lists of that length too, or one for all. `clip_skip` is the number of hidden layers left out
    below the usual second-to-last one. `embeddings` are those that prompts may name.

    The tensors have the encoders' dtype. In `lpw` n is the prompts' token count plus two per chunk, else 77 per chunk.
    Raises RequestError (E-REQUEST) for a weight that is no number, an unknown emphasis, lists of unequal length or a
    `clip_skip` deeper than an encoder; EmbeddingError (E-EMBEDDING) for an embedding that isn't there or doesn't fit.
    """
    if emphasis not in MODES:
        raise RequestError("emphasis", emphasis, f"unknown; known are {', '.join(MODES)}")
    _check_clip_skip(clip_skip, text_encoders)
    texts = _as_rows(prompt, negative_prompt, prompt_2, negative_prompt_2)[-len(text_encoders) :]
    vectors = Vectors(embeddings)
    check_widths(vectors.embeddings.values(), text_encoders)
    runs = [
        [tokenize(tokenizer, text, vectors, emphasis) for text in own]
        for tokenizer, own in zip(tokenizers, texts, strict=True)
    ]
    layouts = lay_out(emphasis, tokenizers, runs)
    joined, pooled = _encode_rows(tokenizers, text_encoders, layouts, emphasis, -(clip_skip + 2), vectors)
    count = len(texts[0]) // 2
    lengths = [count_tokens(of_prompt) for of_prompt in runs[0]]
    return PromptEmbeddings(
        prompt_embeds=joined[:count],
        negative_prompt_embeds=joined[count:],
        pooled_prompt_embeds=pooled[:count],
        negative_pooled_prompt_embeds=pooled[count:],
        prompt_tokens=max(lengths[:count]),
        negative_tokens=max(lengths[count:]),
        chunks=len(layouts[0][0]),
    )


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
    """Put the embeddings' vectors into the output of the encoder's table, whose weights are not touched."""
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


def _encode_rows(
    tokenizers: Sequence[Any],
    text_encoders: Sequence[Any],
    layouts: Sequence[Sequence[Sequence[Chunk]]],
    emphasis: str,
    layer: int,
    vectors: Vectors,
) -> tuple[Any, Any]:
    """Both encoders' weighted hidden states (rows, n, d) side by side, and the second encoder's pooled vectors."""
    import torch

    halves = []
    with torch.no_grad():
        first = 2 - len(text_encoders)
        each = zip(text_encoders, tokenizers, layouts, strict=True)
        for number, (encoder, tokenizer, rows) in enumerate(each, first):
            encoded, empty = _encode(encoder, tokenizer, rows, emphasis, layer, vectors, number)
            halves.append(torch.stack([_join(emphasis, row, encoded, empty) for row in rows]))
        # The loop ends with the second encoder: SDXL is conditioned on its pooled vectors.
        which = -1 if emphasis == "lpw" else 0
        pooled = torch.stack([encoded.pooled[row[which].ids] for row in rows])
        return torch.cat(halves, dim=-1), pooled


def _encode(
    encoder: Any,
    tokenizer: Any,
    rows: Sequence[Sequence[Chunk]],
    emphasis: str,
    layer: int,
    vectors: Vectors,
    number: int,
) -> tuple[Encoded, Any]:
    """All chunks of all prompts, and for `comfy` with weights the states of the empty prompt."""
    chunks = [chunk for row in rows for chunk in row]
    if emphasis != "comfy" or not any(chunk.is_weighted for chunk in chunks):
        return run_text_encoder(encoder, chunks, layer, vectors, number), None
    empty = empty_chunk(tokenizer)
    encoded = run_text_encoder(encoder, [*chunks, empty], layer, vectors, number)
    return encoded, encoded.states[empty.ids]


def _join(emphasis: str, chunks: Sequence[Chunk], encoded: Encoded, empty: Any) -> Any:
    """The weighted hidden states (n, d) of a prompt's chunks."""
    import torch

    return torch.cat([weigh(emphasis, encoded.states[chunk.ids], chunk.weights, empty) for chunk in chunks])


def _as_rows(
    prompt: Texts, negative: Texts, prompt_2: Texts | None, negative_2: Texts | None
) -> tuple[list[str], list[str]]:
    """The texts for each tokenizer: all prompts, then all negative ones."""
    given = [prompt, negative, prompt if prompt_2 is None else prompt_2, negative if negative_2 is None else negative_2]
    count = max(1 if isinstance(texts, str) else len(texts) for texts in given)
    rows = [[texts] * count if isinstance(texts, str) else list(texts) for texts in given]
    if not all(len(row) == count > 0 for row in rows):
        lengths = ", ".join(str(len(row)) for row in rows[:2])
        raise RequestError("prompts", lengths, "differ in number", "give as many negative prompts as prompts, or one")
    return rows[0] + rows[1], rows[2] + rows[3]


def _check_clip_skip(clip_skip: int, text_encoders: Sequence[Any]) -> None:
    for encoder in text_encoders:
        layers = encoder.config.num_hidden_layers
        if not 0 <= clip_skip < layers:
            raise RequestError(
                "clip_skip", clip_skip, f"the model's text encoder has {layers} layers", "use a smaller one"
            )
