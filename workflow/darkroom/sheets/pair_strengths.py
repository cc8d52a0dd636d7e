"""Strengths of pictures that people compared two at a time: the model of Bradley and Terry (1952).

A picture of strength p is better than one of strength q with the probability p / (p + q). The strengths are those that make the
given outcomes likeliest, found by the iteration of Hunter (2004, "MM algorithms for generalized Bradley–Terry models",
equation 3). A tie is half a win for each. Each picture also has half a win and half a loss against a picture of strength 1: without
them one that always wins would have no finite strength.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

from darkroom.sheets.ratings import Comparison

EQUAL = 1e-6
"""Strengths whose logarithms differ by less are equal."""
_PRECISION, _MOST_ROUNDS = 1e-9, 10_000
_SHARES = {"better": 1.0, "worse": 0.0, "tie": 0.5}


def strengths_of(comparisons: Sequence[Comparison]) -> dict[str, float]:
    """The natural logarithm of each compared picture's strength, by name.

    The same on every machine, whatever the comparisons' order. Strengths of pictures that no chain of comparisons connects
    have nothing to do with each other: see `groups_of`.
    """
    names = sorted({name for each in comparisons for name in (each.picture, each.against)})
    places = {name: place for place, name in enumerate(names)}
    wins = [0.5] * len(names)
    met = [defaultdict[int, int](int) for _ in names]
    for each in comparisons:
        one, other = places[each.picture], places[each.against]
        share = _SHARES[each.outcome]
        wins[one] += share
        wins[other] += 1 - share
        met[one][other] += 1
        met[other][one] += 1
    opponents = [sorted(each.items()) for each in met]
    strengths = [1.0] * len(names)
    for _ in range(_MOST_ROUNDS):
        change = 0.0
        for place, own in enumerate(strengths):
            parts = 1 / (own + 1)
            for other, count in opponents[place]:
                parts += count / (own + strengths[other])
            strengths[place] = new = wins[place] / parts
            change = max(change, abs(new / own - 1))
        if change < _PRECISION:
            break
    return {name: math.log(strength) for name, strength in zip(names, strengths, strict=True)}


def groups_of(comparisons: Iterable[Comparison]) -> dict[str, str]:
    """For each compared picture the first name of those that chains of comparisons connect it with."""
    parents: dict[str, str] = {}

    def root(name: str) -> str:
        while parents.setdefault(name, name) != name:
            name = parents[name]
        return name

    for each in comparisons:
        one, other = sorted((root(each.picture), root(each.against)))
        parents[other] = one
    return {name: root(name) for name in list(parents)}
