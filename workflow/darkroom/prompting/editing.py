"""Prompts that change while a picture is made: `[from:to:when]`, `[to:when]`, `[from::when]`, and `[one|other|…]`.

The grammar and the counting are those of A1111 1.10 (modules/prompt_parser.py, and the step counter of
modules/sd_samplers_cfg_denoiser.py):

- `when` is a step if it is a whole number, and a share of the steps if it has a point, rounded down.
- Parts may hold brackets, editing and alternation, but neither a colon nor a bar of their own. Brackets that don't fit
  are text, and so are all brackets around them. A bar anywhere else, or a backslash at the end, makes all of it text.
- The model's calls are counted from 0, and a text is used up to the call that has its number. So a text that ends at
  step 5 is used for six calls, and alternation begins with its first text twice.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from darkroom.errors import RequestError, UnsupportedError

MAX_TEXT = 100_000
"""Characters of all texts of a prompt that changes together."""
MAX_WORK = 300_000
"""Steps at which a prompt may change, times its brackets and the texts between them."""
_TOKEN = re.compile(r"[\[\]():|]|(?:[^\\\[\]():|]|\\.)+|\\")
_AND = re.compile(r"\bAND\b")
_NUMBER = re.compile(r"\s*([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*")
_PARTNERS = {")": "(", "]": "["}


@dataclass(slots=True)
class _Bracket:
    """A bracket: where it opens among the items, and its separators."""

    kind: str
    opens: int
    separators: list[int] = field(default_factory=list)
    bars: int = 0


@dataclass(frozen=True, slots=True)
class _Choice:
    """In place of a bracket that opens: the items where its parts begin, and until when the first is used.

    Without `until` the parts take turns.
    """

    parts: tuple[int, ...]
    until: str | None = None

    def step(self, steps: int) -> int:
        value = float(self.until or 0)
        return int(min(value * steps if "." in (self.until or "") else value, steps))

    def begin(self, step: int, steps: int) -> int:
        """The item at which the text of that step begins."""
        if self.until is None:
            return self.parts[(step - 1) % len(self.parts)]
        return self.parts[0] if step <= self.step(steps) else self.parts[1]


Items = list[str | int | _Choice]
"""Texts, places to go on at, and choices."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """A prompt's texts, each with the last step of its use, in order."""

    ends: tuple[int, ...]
    texts: tuple[str, ...]

    def at_call(self, call: int) -> str:
        """The text for the model's call of that number, counted from 0."""
        return self.texts[min(bisect_left(self.ends, call), len(self.texts) - 1)]


@lru_cache(maxsize=64)
def read_timeline(prompt: str, steps: int) -> Timeline:
    """The texts of a prompt without LoRA tags while so many steps are made.

    For a sampler that calls the model twice a step, A1111 counts twice the steps. Raises RequestError (E-REQUEST) for a
    prompt that changes too often for its length.
    """
    items = _read(prompt) if "[" in prompt else None
    choices = [item for item in items or () if isinstance(item, _Choice)]
    if items is None or not choices:
        return Timeline((steps,), (prompt,))
    ends = {steps, *(choice.step(steps) for choice in choices if choice.until is not None)}
    if any(choice.until is None for choice in choices):
        ends.update(range(1, steps + 1))
    ends = {end for end in ends if end >= 1}
    if len(ends) * len(items) > MAX_WORK:
        raise _too_much(f"changes at {len(ends)} steps and has {len(items):,} brackets and texts between them")
    texts = _texts(items, sorted(ends), steps)
    return Timeline(tuple(texts), tuple(texts.values()))


def check_size(timelines: Iterable[Timeline | None]) -> None:
    """Raise RequestError (E-REQUEST) for prompts whose texts together have more than MAX_TEXT characters.

    Each counts as much as the longest, to which all are filled.
    """
    texts = [set(timeline.texts) for timeline in timelines if timeline is not None]
    count, longest = max(map(len, texts)), max(len(text) for some in texts for text in some)
    if count > 1 and count * longest > MAX_TEXT:
        raise _too_much(f"becomes {count} texts of up to {longest:,} characters; {MAX_TEXT:,} together are allowed")


def _texts(items: Items, ends: Sequence[int], steps: int) -> dict[int, str]:
    """The text until each of these steps. Raises RequestError (E-REQUEST) as soon as they are too much."""
    texts: dict[int, str] = {}
    different: set[str] = set()
    size = 0
    for end in ends:
        text = texts[end] = _text_at(items, end, steps)
        if text not in different:
            different.add(text)
            size += len(text)
        if len(different) > 1 and size > MAX_TEXT:
            raise _too_much(f"becomes more than {MAX_TEXT:,} characters in all its texts")
    return texts


def refuse_and(prompt: str) -> None:
    """Raise UnsupportedError (E-UNSUPPORTED) for A1111's `AND` between prompts.

    A1111 knows it in prompts only; in a negative prompt it is text.
    """
    if _AND.search(prompt):
        why = "Darkroom doesn't combine several prompts in one picture, as A1111 does for this word in capital letters"
        raise UnsupportedError(
            "word", "AND", why, "write it in small letters to have it read as text, which draws the same"
        )


def _too_much(why: str) -> RequestError:
    return RequestError("prompt that changes while it is drawn", None, why, "use fewer [a|b] and [a:b:0.5] in it")


def _text_at(items: Items, step: int, steps: int) -> str:
    texts: list[str] = []
    place = 0
    while place < len(items):
        item = items[place]
        if isinstance(item, str):
            texts.append(item)
            place += 1
        else:
            place = item if isinstance(item, int) else item.begin(step, steps)
    return "".join(texts)


def _read(prompt: str) -> Items | None:
    """The items of a prompt, None if A1111's grammar doesn't have it."""
    items: Items = list(_TOKEN.findall(prompt))
    opened: list[_Bracket] = []
    for place, token in enumerate(items):
        if token in ("(", "["):
            opened.append(_Bracket(str(token), place))
        elif token in _PARTNERS:
            if opened and opened[-1].kind == _PARTNERS[str(token)] and _close(opened[-1], place, items):
                opened.pop()
                continue
            # It is text, and so is every bracket around it.
            if any(bracket.bars for bracket in opened):
                return None
            opened.clear()
        elif token == ":" and opened:
            opened[-1].separators.append(place)
        elif token == "|":
            if not opened or opened[-1].kind == "(":
                return None
            opened[-1].separators.append(place)
            opened[-1].bars += 1
        elif token == "\\":
            return None
    return None if any(bracket.bars for bracket in opened) else items


def _close(bracket: _Bracket, end: int, items: Items) -> bool:
    """Put the choice of a bracket that ends there into the items. False if the bracket is text."""
    separators = bracket.separators
    if bracket.kind == "(":
        return len(separators) <= 1
    if not separators:
        return True
    begins = [bracket.opens + 1, *(place + 1 for place in separators)]
    if bracket.bars == len(separators):
        choice = _Choice(tuple(begins))
    else:
        number = _NUMBER.fullmatch(str(items[end - 1])) if separators[-1] == end - 2 else None
        if number is None or bracket.bars or len(separators) > 2:
            return False
        before = begins[0] if len(separators) == 2 else end
        choice = _Choice((before, begins[-2]), number[1])
    items[bracket.opens] = choice
    for place in (*separators, end):
        items[place] = end + 1
    return True
