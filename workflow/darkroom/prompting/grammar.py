"""The attention grammar of prompts, as A1111 users write it, and the textual inversions in them. No torch.

Round brackets multiply a weight by 1.1, square brackets by 1/1.1, `(text:number)` by the number, around which there
may be spaces. A bracket that is never closed extends to the end; a closing bracket without an opening one is plain text.

Reading takes time in proportion to the text's length.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import groupby, pairwise
from typing import NamedTuple

from darkroom.base.text import did_you_mean, shorten
from darkroom.errors import EmbeddingError

ROUND = 1.1
SQUARE = 1 / 1.1
LARGE_WEIGHT = 10.0
"""A larger weight is applied, but is probably a mistake."""
MAX_MIXED_BRACKETS = 200
"""Around one piece, if their factors differ. More get an infinite weight, which nothing can be drawn with."""
_TOKEN = re.compile(
    r"""
    \\[()\[\]\\]?          # an escaped bracket or backslash; a lone backslash vanishes
    | :\s*[+-]?[.\d]+\s*\) # the number that ends a round bracket
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


Bracket = tuple[int, int, float]
"""The first of its pieces, the first one after it, and the factor of their weights."""


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
    for token in _TOKEN.findall(text):
        pieces.read(token)
    return tuple(pieces.finish())


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
    """The texts (None for BREAK) read so far, the brackets that are open, and those that have closed."""

    def __init__(self) -> None:
        self.texts: list[str | None] = []
        self.round: list[int] = []
        self.square: list[int] = []
        self.closed: list[Bracket] = []

    def read(self, token: str) -> None:
        if token[0] == "\\":
            self.texts.append(token[1:])
        elif token == "(":
            self.round.append(len(self.texts))
        elif token == "[":
            self.square.append(len(self.texts))
        elif token[0] == ":" and token[-1] == ")" and self.round:
            self._close_with_number(token)
        elif token == ")" and self.round:
            self._close(self.round.pop(), ROUND)
        elif token == "]" and self.square:
            self._close(self.square.pop(), SQUARE)
        else:
            self._append_text(token)

    def finish(self) -> list[Piece]:
        """Neighbours of equal weight are one piece."""
        for starts, factor in ((self.round, ROUND), (self.square, SQUARE)):
            while starts:
                self._close(starts.pop(), factor)
        read = zip(self.texts, _weights(len(self.texts), self.closed), strict=True)
        runs = groupby(read, key=lambda one: None if one[0] is None else one[1])
        pieces: list[Piece] = []
        for weight, run in runs:
            if weight is None:
                pieces += [Piece("BREAK", -1, is_break=True) for _ in run]
            else:
                pieces.append(Piece("".join(text for text, _ in run if text is not None), weight))
        return pieces or [Piece("", 1.0)]

    def _close_with_number(self, token: str) -> None:
        try:
            factor = float(token[1:-1])
        except ValueError:  # such as `1.2.3`, which belongs to the text
            self._append_text(token[:-1])
            factor = ROUND
        self._close(self.round.pop(), factor)

    def _close(self, start: int, factor: float) -> None:
        if start < len(self.texts):
            self.closed.append((start, len(self.texts), factor))

    def _append_text(self, text: str) -> None:
        first, *others = _BREAK.split(text) if "BREAK" in text else (text,)
        if not others:
            self.texts.append(text)
            return
        # White space around a BREAK is dropped, but not by `\s*` in the pattern: that takes quadratic time.
        self.texts.append(first.rstrip())
        for number, part in enumerate(others, start=1):
            self.texts += [None, part.lstrip() if number == len(others) else part.strip()]


def _weights(count: int, closed: Sequence[Bracket]) -> list[float]:
    """The weight of each of `count` pieces. `closed` are the brackets in the order in which they close.

    A weight is multiplied factor by factor, from the inside out, as A1111 does: one product of all would differ in its
    last bits.
    """
    starting = sorted(range(len(closed)), key=lambda number: (-closed[number][0], number))  # the next one last
    ending = list(reversed(range(len(closed))))  # they have closed in the order of their ends
    places = sorted({place for start, end, _ in closed for place in (start, end)} | {count})
    around = _Around()
    weights: list[float] = []
    for place, next_place in pairwise([0, *places]):
        while ending and closed[ending[-1]][1] == place:
            number = ending.pop()
            around.leave(number, closed[number][2])
        while starting and closed[starting[-1]][0] == place:
            number = starting.pop()
            around.enter(number, closed[number][2])
        weights += [around.weight()] * (next_place - place)
    return weights


class _Around:
    """The brackets around a piece, the last to close first."""

    def __init__(self) -> None:
        self._numbers: list[int] = []  # negative, so that brackets which only enclose each other come at the end
        self._factors: list[float] = []
        self._counts: dict[float, int] = {}
        self._powers: dict[float, list[float]] = {}

    def enter(self, number: int, factor: float) -> None:
        place = bisect_left(self._numbers, -number)
        self._numbers.insert(place, -number)
        self._factors.insert(place, factor)
        self._counts[factor] = self._counts.get(factor, 0) + 1

    def leave(self, number: int, factor: float) -> None:
        place = bisect_left(self._numbers, -number)
        del self._numbers[place], self._factors[place]
        self._counts[factor] -= 1
        if not self._counts[factor]:
            del self._counts[factor]

    def weight(self) -> float:
        if len(self._counts) > 1:
            return math.prod(reversed(self._factors)) if len(self._factors) <= MAX_MIXED_BRACKETS else math.inf
        for factor, count in self._counts.items():
            return self._power(factor, count)
        return 1.0

    def _power(self, factor: float, count: int) -> float:
        """`factor` multiplied `count` times, one by one."""
        powers = self._powers.get(factor)
        if powers is None:
            powers = self._powers[factor] = [1.0]
        while len(powers) <= count:
            powers.append(powers[-1] * factor)
        return powers[count]


@lru_cache(maxsize=16)
def _pattern(names: tuple[str, ...]) -> tuple[re.Pattern[str], dict[str, str]]:
    by_key = {name.lower(): name for name in names}
    longest_first = sorted(by_key, key=len, reverse=True)
    bare = "|".join(map(re.escape, longest_first)) or "(?!)"
    other = "|".join(re.escape(name) for name in longest_first if not _PLAIN_NAME.fullmatch(name)) or "(?!)"
    explicit = rf"(?:{other})(?![\w-])|{_NAME}"
    # A LoRA's tag comes first, so that a name in it is ignored.
    pattern = (
        rf"(?P<tag><(?:lora|lyco):[^<>]*>)|(?<![\w-])(?:{_PREFIX}(?P<explicit>{explicit})|(?P<bare>{bare})(?![\w-]))"
    )
    return re.compile(pattern, re.IGNORECASE), by_key


def _resolve(found: str, by_key: dict[str, str]) -> tuple[str, int]:
    """The embedding and the length of its name in the text: a full stop after it may end a sentence."""
    key = found.lower()
    if key in by_key:
        return by_key[key], len(found)
    longest = max(map(len, by_key), default=0)
    for length in range(min(len(key) - 1, longest), 0, -1):
        if key[:length] in by_key and _ENDINGS.fullmatch(key, length):
            return by_key[key[:length]], len(found) if key.endswith("safetensors") else length
    hint = did_you_mean(found, by_key.values(), "list it under embeddings in the configuration")
    raise EmbeddingError("embedding", shorten(found), "there is none of that name", hint)
