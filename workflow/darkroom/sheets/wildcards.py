"""Wildcards: weighted lists of texts, of which a study's draws take some, always the same ones.

A draw takes the entry with the highest score `ln(u) / weight`, where u in (0, 1) is made of SHA-256 over the draw's seed
and number, the wildcard and the entry (weighted rendezvous hashing: Thaler and Ravishankar 1998; Efraimidis and Spirakis
2006 for the weights). So reordering a list changes no draw, and a further entry changes only the draws that it wins.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from darkroom.errors import SheetError

_WEIGHT = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*::")


@dataclass(frozen=True, slots=True)
class Entry:
    """A text that may be drawn; one of weight 3 is drawn three times as often as one of weight 1."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Draw:
    """The draw with this number, from 0 on, of those that one seed gives."""

    seed: int
    number: int

    def score(self, wildcard: str, entry: Entry) -> float:
        """How well the entry does in this draw of the wildcard; the highest is taken."""
        key = json.dumps([self.seed, self.number, wildcard, entry.text], ensure_ascii=False)
        digest = hashlib.sha256(key.encode()).digest()
        u = (int.from_bytes(digest[:8], "big") + 0.5) / 2**64
        return math.log(u) / entry.weight

    def choose(self, wildcard: str, entries: Sequence[Entry], count: int = 1) -> list[Entry]:
        """The `count` entries with the highest scores, the highest first."""
        return sorted(entries, key=lambda entry: self.score(wildcard, entry), reverse=True)[:count]


def read_entry(text: str, where: str) -> Entry:
    """`a harbour`, or with a weight `3:: a harbour`. Raises SheetError (E-SHEET) for a weight that isn't above 0."""
    found = _WEIGHT.match(text)
    if found is None:
        return Entry(text.strip())
    weight = float(found[1])
    if weight <= 0:
        raise SheetError(f"{where}: weight", found[1], "is not above 0", "leave the entry out")
    return Entry(text[found.end() :].strip(), weight)


def check_entries(entries: Sequence[tuple[Entry, str]], where: str) -> tuple[Entry, ...]:
    """The entries of a list, each given with its place. Raises SheetError (E-SHEET) if there are none, or two equal ones."""
    if not entries:
        raise SheetError("wildcard", where, "has no entries", "write one a line")
    seen: dict[str, str] = {}
    for entry, place in entries:
        if entry.text in seen:
            why = f"stands there twice ({seen[entry.text]} and {place})"
            raise SheetError("wildcard entry", entry.text, why, "give it a weight: '2:: text'")
        seen[entry.text] = place
    return tuple(entry for entry, _ in entries)
