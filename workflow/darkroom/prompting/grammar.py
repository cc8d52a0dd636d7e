"""The attention grammar of prompts, as A1111 users write it, and the textual inversions in them. No torch.

Round brackets multiply a weight by 1.1, square brackets by 1/1.1, `(text:number)` by the number. A bracket that is
never closed extends to the end; a closing bracket without an opening one is plain text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

from darkroom.base.text import did_you_mean
from darkroom.errors import EmbeddingError

ROUND = 1.1
SQUARE = 1 / 1.1
LARGE_WEIGHT = 10.0
"""A larger weight is applied, but is probably a mistake."""
_TOKEN = re.compile(
    r"""
    \\[()\[\]\\]?          # an escaped bracket or backslash; a lone backslash vanishes
    | :[+-]?[.\d]+\)       # the number that ends a round bracket
    | [()\[\]:]
    | [^\\()\[\]:]+
    """,
    re.VERBOSE,
)
_BREAK = re.compile(r"\bBREAK\b")
_PREFIX = "embedding:"
_NAME = r"(?:[a-z0-9][a-z0-9._-]*|\w[\w.-]*)"
_PLAIN_NAME = re.compile(_NAME, re.IGNORECASE)
_ENDINGS = re.compile(r"(\.safetensors)?[._-]*", re.IGNORECASE)


class Piece(NamedTuple):
    """Text with one weight, or (`is_break`) the place where a new chunk begins."""

    text: str
    weight: float
    is_break: bool = False


def parse_prompt_attention(text: str) -> list[list[str | float]]:
    """Split a prompt into `[text, weight]` pairs; `['BREAK', -1]` marks the beginning of a new chunk.

    Neighbours of equal weight are one pair, and an empty prompt is `[['', 1.0]]`. Nothing is an error:
    anything that doesn't fit the grammar is text.
    """
    return [[piece.text, piece.weight] for piece in parse_pieces(text)]


@lru_cache(maxsize=256)
def parse_pieces(text: str) -> tuple[Piece, ...]:
    """`parse_prompt_attention` in a form that distinguishes the word BREAK from the marker.

    Cached, since planning, both tokenizers and the check for large weights parse the same prompt.
    """
    pieces = _Pieces()
    for match in _TOKEN.finditer(text):
        pieces.read(match.group())
    return tuple(_merge(pieces.finish()))


def largest_weight(text: str) -> float:
    """The largest absolute weight in a prompt."""
    return max((abs(piece.weight) for piece in parse_pieces(text) if not piece.is_break), default=1.0)


def find_embeddings(text: str, names: Iterable[str]) -> list[str]:
    """The names among `names` that occur in a prompt, in its order, each once.

    Letter case is ignored, as CLIP does. Raises EmbeddingError (E-EMBEDDING), with similar names, for `embedding:NAME`
    with an unknown name.
    """
    known = tuple(names)
    if not known and _PREFIX not in text.lower():
        return []
    # As the encoder reads it: without brackets and backslashes, and BREAK is no word.
    texts = (piece.text for piece in parse_pieces(text) if not piece.is_break)
    found = (name for piece in texts for _, name in split_embeddings(piece, known) if name is not None)
    return list(dict.fromkeys(found))


def split_embeddings(text: str, names: tuple[str, ...]) -> Iterator[tuple[str, str | None]]:
    """A piece of a prompt as (text, None) and ("", name of an embedding). Raises as `find_embeddings` does."""
    pattern, by_key = _pattern(names)
    place = 0
    for match in pattern.finditer(text):
        if match["tag"]:
            continue
        explicit = match["explicit"]
        if explicit is None:
            name, end = by_key[match["bare"].lower()], match.end()
        else:
            name, length = _resolve(explicit, by_key)
            end = match.start("explicit") + length
        if match.start() > place:
            yield text[place : match.start()], None
        yield "", name
        place = end
    if place < len(text):
        yield text[place:], None


class _Pieces:
    """The texts (None for BREAK) and weights read so far, and the positions of the brackets that are still open."""

    def __init__(self) -> None:
        self.texts: list[str | None] = []
        self.weights: list[float] = []
        self.round: list[int] = []
        self.square: list[int] = []

    def read(self, token: str) -> None:
        if token[0] == "\\":
            self._append(token[1:])
        elif token == "(":
            self.round.append(len(self.texts))
        elif token == "[":
            self.square.append(len(self.texts))
        elif token[0] == ":" and token[-1] == ")" and self.round:
            self._close_with_number(token)
        elif token == ")" and self.round:
            self._multiply(self.round.pop(), ROUND)
        elif token == "]" and self.square:
            self._multiply(self.square.pop(), SQUARE)
        else:
            self._append_text(token)

    def finish(self) -> list[Piece]:
        for start in self.round:
            self._multiply(start, ROUND)
        for start in self.square:
            self._multiply(start, SQUARE)
        read = zip(self.texts, self.weights, strict=True)
        pieces = [Piece("BREAK", -1, is_break=True) if text is None else Piece(text, weight) for text, weight in read]
        return pieces or [Piece("", 1.0)]

    def _close_with_number(self, token: str) -> None:
        try:
            factor = float(token[1:-1])
        except ValueError:  # such as `1.2.3`, which belongs to the text
            self._append_text(token[:-1])
            factor = ROUND
        self._multiply(self.round.pop(), factor)

    def _append_text(self, text: str) -> None:
        first, *others = _BREAK.split(text)
        if not others:
            self._append(text)
            return
        # White space around a BREAK is dropped, but not by `\s*` in the pattern: that takes quadratic time.
        self._append(first.rstrip())
        for number, part in enumerate(others, start=1):
            self._append(None)
            self._append(part.lstrip() if number == len(others) else part.strip())

    def _append(self, text: str | None) -> None:
        self.texts.append(text)
        self.weights.append(1.0)

    def _multiply(self, start: int, factor: float) -> None:
        # Factor by factor, from the inside out, as A1111 does: one product of all would differ in its last bits.
        self.weights[start:] = [weight * factor for weight in self.weights[start:]]


def _merge(pieces: list[Piece]) -> list[Piece]:
    merged: list[Piece] = []
    texts: list[str] = []
    for piece in pieces:
        if merged and merged[-1].weight == piece.weight and not (piece.is_break or merged[-1].is_break):
            texts.append(piece.text)
            continue
        if texts:
            merged[-1] = merged[-1]._replace(text="".join(texts))
        merged.append(piece)
        texts = [piece.text]
    merged[-1] = merged[-1]._replace(text="".join(texts))
    return merged


@lru_cache(maxsize=16)
def _pattern(names: tuple[str, ...]) -> tuple[re.Pattern[str], dict[str, str]]:
    by_key = {name.lower(): name for name in names}
    longest_first = sorted(by_key, key=len, reverse=True)
    bare = "|".join(map(re.escape, longest_first)) or "(?!)"
    other = "|".join(re.escape(name) for name in longest_first if not _PLAIN_NAME.fullmatch(name)) or "(?!)"
    explicit = rf"(?:{other})(?![\w-])|{_NAME}"
    # A LoRA's tag comes first, so that a name in it is ignored.
    pattern = rf"(?P<tag><lora:[^<>]*>)|(?<![\w-])(?:{_PREFIX}(?P<explicit>{explicit})|(?P<bare>{bare})(?![\w-]))"
    return re.compile(pattern, re.IGNORECASE), by_key


def _resolve(found: str, by_key: dict[str, str]) -> tuple[str, int]:
    """The embedding and the length of its name in the text: a full stop after it may end a sentence."""
    key = found.lower()
    if key in by_key:
        return by_key[key], len(found)
    for length in range(len(key) - 1, 0, -1):
        if key[:length] in by_key and _ENDINGS.fullmatch(key[length:]):
            return by_key[key[:length]], len(found) if key.endswith("safetensors") else length
    hint = did_you_mean(found, by_key.values(), "list it under embeddings in the configuration")
    raise EmbeddingError("embedding", found, "there is none of that name", hint)
