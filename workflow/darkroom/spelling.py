"""Names as people write them: compared loosely, and with the near ones told when there is none."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST = 200
_LOOSE = str.maketrans("", "", " _-")


def loose(name: object) -> str:
    """The name without case, spaces, underscores and hyphens, and with `++` as `pp`: "DPM++ 2M", "dpmpp_2m"."""
    return str(name).casefold().translate(_LOOSE).replace("++", "pp")


def unknown_name(kind: str, name: object, known: Iterable[str]) -> ValueError:
    """An error to raise: no `kind` has that name, and these are near it, or else all there are."""
    names = list(known)
    name = str(name)[:_LONGEST]  # comparing takes time, and names come from anybody
    by_key = {loose(each): each for each in names}
    near = [by_key[key] for key in difflib.get_close_matches(loose(name), by_key, n=3, cutoff=0.5)]
    return ValueError(f"unknown {kind}; {'did you mean' if near else 'known are'} {', '.join(near or names)}")
