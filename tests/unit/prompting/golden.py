"""The random prompts that golden_lpw.json.gz was made from, and the digest of tensors that it holds.

Prompts are drawn again from the seed rather than stored. Only `Random.random` is used, whose sequence Python keeps the
same from version to version.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, TypeVar

T = TypeVar("T")

FILE = Path(__file__).with_name("golden_lpw.json.gz")
TENSORS = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
SEED = 20250601
COUNT = 340
SAMPLES = 12

_PLAIN = re.findall(
    r"\w+",
    "a photo of the red fox snow hill sunset portrait masterpiece highly detailed 8k uhd rim light castle on mountain "
    "watercolor oil painting ancient dragon girl with silver hair bokeh low quality blurry deformed hands text watermark "
    "jpeg artifacts volumetric fog cinematic sharp focus trending",
)
_ODD = (
    *(
        "naïve",
        "猫",
        "日本語",
        "Ünïcödé",
        "Привет",
        "العربية",
        "straße",
        "ﬁn",
        "①",
        "½",
        "e\u0301",
        "a\u200bb",
        "\u00a0",
    ),
    *(
        "🦊",
        "👩‍👩‍👧",
        "☃️",
        "x" * 40,
        "pneumonoultramicroscopicsilicovolcanoconiosis",
        "Llanfairpwllgwyngyll",
        "1234567890",
    ),
    *(
        "—",
        "…",
        "?",
        ";;",
        "don't",
        "fox's",
        "``",
        "~",
        "#1",
        "@",
        "&amp;",
        "100%",
        "1/2",
        "*",
        "=^_^=",
        "{a|b}",
        "<b>",
    ),
    *(
        "a_b",
        "score_9",
        "U.S.A.",
        "C++",
        "'",
        '"quoted"',
        "$5",
        "^",
        "|",
        "!",
        "<|endoftext|>",
        "a:b",
        ":",
        "breakfast",
    ),
)
_WEIGHTS = ("1.3", "0.7", ".5", "+1.2", "-0.5", "0", "1", "1.0001", "2.", "1.05", "0.333", "1.9999", "-1")
_STRAY = ("(", ")", "[", "]", ":1.2)", "\\", "()", "[]", "(:1.2)")
_BETWEEN = (", ", ", ", ", ", " ", " ", " ", ",", "\n", "  ", "", ". ")
_SHARES = {(0, 0): 8, (1, 5): 16, (6, 50): 40, (51, 90): 12, (90, 200): 12, (200, 480): 8, (480, 900): 4}
_WORDS = [limits for limits, percent in _SHARES.items() for _ in range(percent)]
"""How many words a prompt has, at least and at most."""


def draw_pairs() -> list[tuple[str, str]]:
    """Prompts and their negatives: none to some 2,000 tokens each, with all that the grammar knows and much it doesn't."""
    return [_draw_pair(_Dice(SEED + number)) for number in range(COUNT)]


def name_pair(pair: tuple[str, str]) -> str:
    """A short hash, which shows that a pair was drawn as it was when the file was made."""
    return hashlib.sha256("\0".join(pair).encode()).hexdigest()[:8]


def digest(tensor: Any) -> dict[str, Any]:
    """A tensor's shape, some of its numbers, and one number in which each of its elements and its place count."""
    import torch

    flat = tensor.detach().double().flatten()
    count = len(flat)
    places = [(place * 0.618033988749895) % 1.0 for place in range(1, SAMPLES + 1)]
    wave = torch.cos(torch.arange(count, dtype=torch.float64) * 0.7)
    return {
        "shape": list(tensor.shape),
        "values": [round(flat[int(place * count)].item(), 6) for place in places],
        "wave": round((flat @ wave).item() / math.sqrt(count), 6),
    }


class _Dice:
    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def below(self, count: int) -> int:
        return int(self._random.random() * count)

    def pick(self, things: Sequence[T]) -> T:
        return things[self.below(len(things))]

    def happens(self, percent: int) -> bool:
        return self.below(100) < percent


def _draw_pair(dice: _Dice) -> tuple[str, str]:
    return _draw_prompt(dice), _draw_prompt(dice)


def _draw_prompt(dice: _Dice) -> str:
    if dice.happens(8):  # at the borders of chunks
        count = dice.pick((1, 74, 75, 76, 149, 150, 151, 225, 2000))
        return " ".join(dice.pick(_PLAIN[:8]) for _ in range(count))
    least, most = dice.pick(_WORDS)
    left = least + dice.below(most - least + 1)
    odd = dice.pick((0, 5, 15, 40))
    parts = []
    while left > 0:
        words = min(left, 1 + dice.below(4))
        left -= words
        parts.append(_draw_part(dice, words, odd, depth=0))
        parts.append(dice.pick(_BETWEEN))
    return "".join(parts)


def _draw_part(dice: _Dice, words: int, odd: int, depth: int) -> str:
    if depth < 3 and dice.happens(25):
        inner = _draw_part(dice, words, odd, depth + 1)
        if dice.happens(40):
            inner += dice.pick(_BETWEEN) + _draw_part(dice, 1, odd, depth + 1)
        weight = dice.pick(_WEIGHTS)
        forms = (f"({inner})", f"[{inner}]", f"({inner}:{weight})", f"({inner}:{weight})", f"({inner}: {weight})")
        return dice.pick((*forms, f"[{inner}:{weight}]", f"\\({inner}\\)", f"\\[{inner}\\]"))
    if dice.happens(2):
        return dice.pick(_STRAY)
    return " ".join(dice.pick(_ODD) if dice.happens(odd) else dice.pick(_PLAIN) for _ in range(words))
