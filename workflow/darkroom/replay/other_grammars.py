"""Prompts in the grammars of ComfyUI, InvokeAI and NovelAI, rewritten so that Darkroom gives every word the same weight.

Each grammar is read into pieces, (text, weight), and these are written as A1111's `(text:weight)`, with a backslash before what
would mean something here. CLIP's tokenizers make no difference between upper and lower case, so `AND` and `BREAK`, which are
words to the other tools, are written small; nor do they see a space behind `<`, which keeps `<lora:…>` a text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from contextlib import suppress

Pieces = list[tuple[str, float]]
MAX_DEPTH = 100
NAI_STEP = 1.05
_SPECIAL = re.compile(r"[\\()\[\]]")
_WORDS = re.compile(r"\b(?:AND|BREAK)\b")
_TAG = re.compile(r"<(?=\w+:)")
_EMBEDDING = re.compile(r"embedding:([^\s,()]+)", re.IGNORECASE)
_COMFY_ESCAPE = re.compile(r"\\([()])")
_OPEN, _CLOSE = "\ue000", "\ue001"
_COMPEL_FUNCTION = re.compile(r"\.(and|blend|swap|attend)\s*\(")
_COMPEL_WEIGHT = re.compile(r"\++|-+|[+-]?(?:\d+\.?\d*|\.\d+)")
_COMPEL_TOKEN = re.compile(
    r"""
    \\. | \( | \)
    | "(?P<quoted>[^"\\()]*)"(?P<behind>\++|-+)  # a phrase in quotes and its signs
    | (?P<word>[^\s\\(),."']+?)(?P<signs>\++|-+)(?=[\s,.)"']|$)
    | [^\s\\()]+ | \s+ | \\
    """,
    re.VERBOSE | re.DOTALL,
)
_NAI_TOKEN = re.compile(r"(?P<number>-?(?:\d+\.?\d*|\.\d+))?::|[{}\[\]]")


def plain(text: str) -> str:
    """A text without any grammar, so that Darkroom reads it as it stands."""
    return write_pieces([(text, 1.0)])


def keep_as_text(negative: str) -> str:
    """A negative prompt in A1111's grammar, whose LoRA tags are texts there."""
    return _TAG.sub("< ", negative)


def write_pieces(pieces: Iterable[tuple[str, float]]) -> str:
    """The pieces in Darkroom's grammar. Raises ValueError for a weight that is no finite number."""
    parts = []
    for text, weight in pieces:
        if not math.isfinite(weight):
            raise ValueError("has a weight that is no finite number")
        escaped = _SPECIAL.sub(r"\\\g<0>", _TAG.sub("< ", _WORDS.sub(lambda word: word[0].lower(), text)))
        parts.append(escaped if weight == 1.0 or not text else f"({escaped}:{_fixed(weight)})")
    return "".join(parts)


def _fixed(weight: float) -> str:
    return f"{weight:.6f}".rstrip("0").rstrip(".")


def find_comfy_embeddings(text: str) -> list[str]:
    """The names behind `embedding:` in a prompt of ComfyUI."""
    return [found.rstrip(".:;") for found in _EMBEDDING.findall(text)]


def comfy_pieces(text: str) -> Pieces:
    """ComfyUI's grammar (comfy/sd1_clip.py, token_weights): a number replaces the weight around it, `\\(` and `\\)` are texts.

    Raises ValueError for too many brackets in each other.
    """
    hidden = _COMFY_ESCAPE.sub(lambda found: _OPEN if found[1] == "(" else _CLOSE, text)
    pieces = _comfy(hidden, 1.0, 0)
    return _joined((part.replace(_OPEN, "(").replace(_CLOSE, ")"), weight) for part, weight in pieces)


def _comfy(text: str, weight: float, depth: int) -> Pieces:
    if depth > MAX_DEPTH:
        raise ValueError(f"has more than {MAX_DEPTH} brackets in each other")
    pieces: Pieces = []
    for part in _comfy_parts(text):
        if len(part) < 2 or part[0] != "(" or part[-1] != ")":
            pieces.append((part, weight))
            continue
        inner, own = part[1:-1], weight * 1.1
        before, colon, digits = inner.rpartition(":")
        if colon and before:
            with suppress(ValueError):  # then it belongs to the text
                own, inner = float(digits), before
        pieces += _comfy(inner, own, depth + 1)
    return pieces


def _comfy_parts(text: str) -> list[str]:
    """Outermost brackets, and what is between them. A bracket that doesn't fit shifts the counting, as it does there."""
    parts, start, level = [], 0, 0
    for place, sign in enumerate(text):
        if sign == "(":
            if level == 0:
                parts.append(text[start:place])
                start = place
            level += 1
        elif sign == ")":
            level -= 1
            if level == 0:
                parts.append(text[start : place + 1])
                start = place + 1
    return [part for part in [*parts, text[start:]] if part]


def compel_pieces(text: str) -> Pieces:
    """InvokeAI's grammar (github.com/damian0815/compel): `word+`, `(some words)--`, `(some words)1.3`, each sign a factor of 1.1 or 0.9.

    Raises ValueError for `.and()`, `.blend()`, `.swap()` and `.attend()`, and for too many brackets in each other.
    """
    if found := _COMPEL_FUNCTION.search(text):
        raise ValueError(f"uses .{found[1]}(), which Darkroom has no equal of")
    pieces, place = _compel(text, 0, 0)
    while place < len(text):  # a closing bracket without an opening one
        rest, after = _compel(text, place + 1, 0)
        pieces, place = [*pieces, (text[place], 1.0), *rest], after
    return _joined(pieces)


def _compel(text: str, place: int, depth: int) -> tuple[Pieces, int]:
    """The pieces up to a closing bracket or the end, and its place."""
    if depth > MAX_DEPTH:
        raise ValueError(f"has more than {MAX_DEPTH} brackets in each other")
    pieces: Pieces = []
    while token := _COMPEL_TOKEN.match(text, place):
        if token[0] == ")":
            break
        place = token.end()
        if token[0] == "(":
            inner, end = _compel(text, place, depth + 1)
            weight = _COMPEL_WEIGHT.match(text, end + 1) if end < len(text) else None
            if weight is None:
                pieces += inner if end < len(text) else [("(", 1.0), *inner]
            else:
                pieces += [(part, own * _factor(weight[0])) for part, own in inner]
            place = min(end + 1, len(text)) if weight is None else weight.end()
        elif signs := token["signs"] or token["behind"]:
            pieces.append((token["word"] or token["quoted"] or "", _factor(signs)))
        else:
            pieces.append((token[0][1:] if token[0][0] == "\\" and len(token[0]) > 1 else token[0], 1.0))
    return pieces, place


def _factor(signs: str) -> float:
    if set(signs) == {"+"}:
        return float(1.1 ** len(signs))
    return float(0.9 ** len(signs)) if set(signs) == {"-"} else float(signs)


def nai_pieces(text: str) -> Pieces:
    """NovelAI's grammar: `{stronger}` by 1.05, `[weaker]` by its inverse, and `1.5::these words::`.

    Raises ValueError for too many brackets in each other.
    """
    pieces: Pieces = []
    level, own, start = 0, 1.0, 0
    for token in _NAI_TOKEN.finditer(text):
        pieces.append((text[start : token.start()], own * NAI_STEP**level))
        start = token.end()
        if token[0] in "{}[]":
            level += 1 if token[0] in "{]" else -1
            if abs(level) > MAX_DEPTH:
                raise ValueError(f"has more than {MAX_DEPTH} brackets in each other")
        else:
            own = float(token["number"]) if token["number"] else 1.0
            level = 0
    return _joined([*pieces, (text[start:], own * NAI_STEP**level)])


def split_swarm_tags(text: str) -> tuple[str, list[str]]:
    """A prompt of SwarmUI without its tags, `<segment:…>` and the like, and the tags, in their order."""
    tags = re.findall(r"<[a-z]\w*(?:\[[^\]<>]*\])?(?::[^<>]*)?>", text, re.IGNORECASE)
    for tag in tags:
        text = text.replace(tag, "", 1)
    return text, tags


def _joined(pieces: Iterable[tuple[str, float]]) -> Pieces:
    """Without empty pieces, and neighbours of equal weight as one."""
    joined: Pieces = []
    for text, weight in pieces:
        weight = round(weight, 6)
        if text and joined and joined[-1][1] == weight:
            joined[-1] = (joined[-1][0] + text, weight)
        elif text:
            joined.append((text, weight))
    return joined
