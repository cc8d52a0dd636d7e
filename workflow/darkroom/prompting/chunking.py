"""From a prompt to the token chunks a CLIP text encoder takes: at most 75 tokens between a start and an end token.

The layout is that of the long-prompt pipeline for SDXL: every full group of 75 is a chunk of 77, what is left over is
a shorter chunk, and the shorter one of prompt and negative prompt is filled with end tokens to the other's length.
BREAK fills the group it stands in, so that what follows it begins a chunk of its own; with nothing before or
after it in need of that, it does nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from darkroom.errors import RequestError
from darkroom.prompting.grammar import parse_pieces

GROUP = 75
MAX_WEIGHT = 65504.0
"""The largest half-precision number: weights are applied in that precision."""


@dataclass(slots=True)
class Tokens:
    """Token numbers of a text, without start and end, and each one's weight. `counted` leaves out what is filling."""

    ids: list[int]
    weights: list[float]
    counted: int = 0

    def fill(self, count: int, token: int) -> None:
        """Lengthen to `count` tokens of weight 1."""
        missing = count - len(self.ids)
        self.ids += [token] * missing
        self.weights += [1.0] * missing


@dataclass(frozen=True, slots=True)
class Chunk:
    """What an encoder sees at once: at most 77 tokens with start and end, and their weights."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """One tokenizer's chunks: `positive` and `negative` are equally many and pairwise of equal length."""

    positive: list[Chunk]
    negative: list[Chunk]
    prompt_tokens: int
    negative_tokens: int


def lay_out(tokenizers: Sequence[Any], prompt: str, negative_prompt: str) -> list[Layout]:
    """The chunks of both prompts for each tokenizer.

    The tokenizers may disagree about a text's length (SDXL's second one reads `!!` as two tokens), so all are
    filled to the longest; else their halves of an embedding would not fit together.
    Raises RequestError (E-REQUEST) for a weight beyond half precision.
    """
    pairs = [(tokenize(each, prompt), tokenize(each, negative_prompt)) for each in tokenizers]
    longest = max(len(tokens.ids) for pair in pairs for tokens in pair)
    layouts = []
    for tokenizer, (positive, negative) in zip(tokenizers, pairs, strict=True):
        bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        positive.fill(longest, eos)
        negative.fill(longest, eos)
        chunks = split(positive, bos, eos), split(negative, bos, eos)
        layouts.append(Layout(*chunks, positive.counted, negative.counted))
    return layouts


def tokenize(tokenizer: Any, prompt: str) -> Tokens:
    """The tokens of a prompt in the attention grammar, however long, with BREAK already filled up."""
    tokens = Tokens([], [])
    broken = False
    for piece in parse_pieces(prompt):
        if piece.is_break:
            broken = True
            continue
        if not abs(piece.weight) <= MAX_WEIGHT:
            raise RequestError("weight", piece.weight, "is out of range", "use weights around 1, such as (word:1.3)")
        # verbose=False: a text beyond 77 tokens is no mistake here, so no warning about its length.
        ids = tokenizer(piece.text, add_special_tokens=False, truncation=False, verbose=False).input_ids
        if not ids:
            continue
        if broken:
            tokens.fill(-(-len(tokens.ids) // GROUP) * GROUP, tokenizer.eos_token_id)
            broken = False
        tokens.ids += ids
        tokens.weights += [piece.weight] * len(ids)
        tokens.counted += len(ids)
    return tokens


def split(tokens: Tokens, bos: int, eos: int) -> list[Chunk]:
    """Groups of 75 with start and end around them; no tokens at all give one chunk of just these two."""
    starts = range(0, max(len(tokens.ids), 1), GROUP)
    return [
        Chunk(
            (bos, *tokens.ids[start : start + GROUP], eos),
            (1.0, *tokens.weights[start : start + GROUP], 1.0),
        )
        for start in starts
    ]
