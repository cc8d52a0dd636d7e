"""The direction of each character of a text, for right-to-left scripts: the Unicode Bidirectional Algorithm, UAX #9.

Texts are single paragraphs without explicit embeddings and isolates, which `without_controls` takes out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TypeVar
from unicodedata import bidirectional

_CONTROLS = re.compile("[\u202a-\u202e\u2066-\u2069]")
_OPENING = {"(": ")", "[": "]", "{": "}", "「": "」", "『": "』", "（": "）", "【": "】", "《": "》", "〈": "〉"}
_NEUTRAL = ("B", "S", "WS", "ON")

Item = TypeVar("Item")


def without_controls(text: str) -> str:
    """The text without embeddings, overrides and isolates."""
    return _CONTROLS.sub("", text)


def find_levels(text: str) -> list[int]:
    """The embedding level of each character; odd levels run from right to left. The first strong letter gives the base."""
    types = [bidirectional(letter) or "L" for letter in text]
    base = base_level(text)
    if all(kind not in ("R", "AL", "AN") for kind in types):
        return [0] * len(text)
    edge = "R" if base else "L"
    _resolve_weak(types, edge)
    _resolve_brackets(text, types, edge)
    _resolve_neutral(types, edge)
    levels = [_level(kind, base) for kind in types]
    for place in range(len(text) - 1, -1, -1):  # L1: white space at the end
        if bidirectional(text[place]) not in ("WS", "BN"):
            break
        levels[place] = base
    return levels


def base_level(text: str) -> int:
    """1 if the first letter with a direction runs from right to left, else 0 (P2 and P3)."""
    strong = (kind for kind in map(bidirectional, text) if kind in ("L", "R", "AL"))
    return 1 if next(strong, "L") != "L" else 0


def reorder(items: Sequence[Item], levels: Sequence[int]) -> list[Item]:
    """Items of a line, given with their levels in the order of reading, from left to right (L2)."""
    pairs = list(zip(items, levels, strict=True))
    for level in range(max(levels, default=0), 0, -1):
        start = 0
        while start < len(pairs):
            end = start
            while end < len(pairs) and pairs[end][1] >= level:
                end += 1
            pairs[start:end] = reversed(pairs[start:end])
            start = end + 1
    return [item for item, _ in pairs]


def _level(kind: str, base: int) -> int:
    """I1 and I2."""
    if base:
        return base if kind == "R" else base + 1
    return {"L": 0, "R": 1}.get(kind, 2)


def _resolve_weak(types: list[str], edge: str) -> None:
    """W1 to W7; a character without width (BN) goes with the one before it."""
    before, strong = edge, edge
    for place, kind in enumerate(types):
        if kind in ("NSM", "BN"):
            kind = before  # W1
        before = kind
        if kind in ("L", "R", "AL"):
            strong = kind
        if kind == "EN" and strong == "AL":
            kind = "AN"  # W2
        types[place] = kind
    types[:] = ["R" if kind == "AL" else kind for kind in types]  # W3
    for place in range(1, len(types) - 1):  # W4
        left, kind, right = types[place - 1 : place + 2]
        if left == right and ((kind == "ES" and left == "EN") or (kind == "CS" and left in ("EN", "AN"))):
            types[place] = left
    for start, end in list(_groups(types, ("ET",))):  # W5
        if "EN" in (types[start - 1 : start] + types[end : end + 1]):
            types[start:end] = ["EN"] * (end - start)
    strong = edge
    for place, kind in enumerate(types):
        if kind in ("ES", "ET", "CS"):
            types[place] = "ON"  # W6
        elif kind in ("L", "R"):
            strong = kind
        elif kind == "EN" and strong == "L":
            types[place] = "L"  # W7


def _resolve_brackets(text: str, types: list[str], edge: str) -> None:
    """N0: both brackets of a pair have the direction of what stands in them, or before them."""
    for first, last in _pairs_of_brackets(text, types):
        inside = {_direction(kind) for kind in types[first + 1 : last]} - {None}
        if edge in inside:
            types[first] = types[last] = edge
        elif inside:
            before = (_direction(kind) for kind in reversed(types[:first]))
            context = next((kind for kind in before if kind), edge)
            types[first] = types[last] = context


def _pairs_of_brackets(text: str, types: Sequence[str]) -> list[tuple[int, int]]:
    """BD16: the places of brackets that belong together, in the order of the opening ones."""
    waiting: list[tuple[str, int]] = []
    pairs = []
    for place, letter in enumerate(text):
        if types[place] != "ON":
            continue
        if letter in _OPENING:
            waiting.append((_OPENING[letter], place))
        elif letter in _OPENING.values():
            for number in range(len(waiting) - 1, -1, -1):
                if waiting[number][0] == letter:
                    pairs.append((waiting[number][1], place))
                    del waiting[number:]
                    break
    return sorted(pairs)


def _resolve_neutral(types: list[str], edge: str) -> None:
    """N1 and N2: neutrals take the direction on both sides of them, or else the text's."""
    for start, end in list(_groups(types, _NEUTRAL)):
        left = _direction(types[start - 1]) if start else edge
        right = _direction(types[end]) if end < len(types) else edge
        types[start:end] = [left if left == right and left else edge] * (end - start)


def _direction(kind: str) -> str | None:
    """The direction of a strong type, or of a number, which counts as R."""
    return "L" if kind == "L" else "R" if kind in ("R", "EN", "AN") else None


def _groups(types: Sequence[str], kinds: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Where characters of these kinds begin and end."""
    start = None
    for place, kind in enumerate([*types, ""]):
        if kind in kinds and start is None:
            start = place
        elif kind not in kinds and start is not None:
            yield start, place
            start = None
