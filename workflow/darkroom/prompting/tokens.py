"""From a prompt's text to runs of CLIP tokens with one weight each; embeddings become tokens of their own.

An embedding's vectors are not in the vocabulary. Each gets a token number beyond it, which is replaced by the vector
when the text encoder looks up its table (`darkroom.prompting.encode`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from darkroom.base.text import shorten
from darkroom.errors import RequestError
from darkroom.prompting.embeddings import Embedding
from darkroom.prompting.grammar import Piece, parse_pieces, split_embeddings

FIRST_VECTOR = 2**20
"""Token numbers from here on are vectors of embeddings; CLIP's own vocabulary ends at 49,407."""
LARGEST = 3.4028234663852886e38
"""The largest single-precision number: weights are applied in that precision."""


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive tokens of one weight; `is_embedding` is true if they are one embedding's vectors."""

    ids: tuple[int, ...]
    weight: float
    is_embedding: bool = False


@dataclass(frozen=True, slots=True)
class Break:
    """The beginning of a new chunk."""


class Vectors:
    """The token numbers of some embeddings' vectors."""

    def __init__(self, embeddings: Mapping[str, Embedding] | None) -> None:
        self.embeddings = dict(embeddings or {})
        self.names = tuple(self.embeddings)
        self._ids: dict[str, tuple[int, ...]] = {}
        self._places: list[tuple[str, int]] = []
        for name, embedding in self.embeddings.items():
            start = FIRST_VECTOR + len(self._places)
            self._ids[name] = tuple(range(start, start + embedding.count))
            self._places += [(name, row) for row in range(embedding.count)]

    def ids(self, name: str) -> tuple[int, ...]:
        """The token numbers of an embedding."""
        return self._ids[name]

    def vector(self, token: int, encoder: int) -> Any:
        """The vector (d,) of a token number for the first (0) or second (1) text encoder."""
        name, row = self._places[token - FIRST_VECTOR]
        return self.embeddings[name].vectors[encoder][row]


def tokenize(tokenizer: Any, prompt: str, vectors: Vectors, mode: str = "lpw") -> list[Run | Break]:
    """The runs of a prompt in the attention grammar, however long, without start and end tokens.

    In `lpw` special tokens in the text are read as such, as in the pipeline; in the other modes they are plain text.
    `!` is a special token of SDXL's second tokenizer, which pads with it, but not in A1111 and ComfyUI. In `comfy` each
    word is a run of its own. Raises RequestError (E-REQUEST) for a weight beyond single precision, EmbeddingError
    (E-EMBEDDING) for an `embedding:NAME` with an unknown name.
    """
    parts: list[Run | Break | Piece] = []
    for piece in parse_pieces(prompt):
        if piece.is_break:
            parts.append(Break())
            continue
        if not abs(piece.weight) <= LARGEST:
            why = f"'{shorten(piece.text, 20)}' has a weight out of range, or too many brackets around it"
            raise RequestError("weight", piece.weight, why, "use weights around 1, such as (word:1.3)")
        for text, name in split_embeddings(piece.text, vectors.names):
            if name is not None:
                parts.append(Run(vectors.ids(name), piece.weight, is_embedding=True))
            else:
                parts += [piece._replace(text=part) for part in (text.split() if mode == "comfy" else [text])]
    ids = iter(_read(tokenizer, [part.text for part in parts if isinstance(part, Piece)], is_plain=mode != "lpw"))
    runs = [Run(tuple(next(ids)), part.weight) if isinstance(part, Piece) else part for part in parts]
    return [run for run in runs if isinstance(run, Break) or run.ids]


def count_tokens(runs: Sequence[Run | Break]) -> int:
    """The number of a prompt's tokens, without padding."""
    return sum(len(run.ids) for run in runs if isinstance(run, Run))


def _read(tokenizer: Any, texts: list[str], *, is_plain: bool) -> list[list[int]]:
    """The tokens of each text; with `is_plain`, special tokens in a text are plain text.

    All texts in one call, since a call costs more than the few words of one weight.
    """
    if not texts:
        return []
    # verbose=False: no warning about texts beyond 77 tokens, which are cut into chunks.
    read = tokenizer(texts, add_special_tokens=False, truncation=False, verbose=False, split_special_tokens=is_plain)
    ids: list[list[int]] = read.input_ids
    return ids
