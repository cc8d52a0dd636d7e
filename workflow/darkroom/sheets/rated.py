"""`from: {sheet: x, rating: ">=4"}` and `best: 2`: the pictures of a sheet that people rated so, or found the best of a prompt."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from darkroom.base.text import format_count, shorten
from darkroom.errors import SheetError
from darkroom.sheets.pair_strengths import EQUAL, groups_of, strengths_of
from darkroom.sheets.planned import PlannedPicture, PlannedSheet, prompt_id
from darkroom.sheets.ratings import REJECT, Ratings

_WHAT = "from: rating"
_EXAMPLE = 'write rating: ">=4", 5 or reject'
_TERM = re.compile(r"(>=|<=|>|<|)\s*([1-5])")
_COMPARES: dict[str, Callable[[int, int], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "": operator.eq,
}


def choose_rated(
    pictures: Sequence[PlannedPicture], sheet: PlannedSheet, name: str, given: Mapping[str, Any], place: str
) -> list[PlannedPicture]:
    """Of pictures of the sheet `name` those that the keys `rating` and `best` of a `from` choose, in their order.

    None are chosen where the ratings have mistakes. Raises SheetError (E-SHEET) with the place for what can't be, and if no
    picture is chosen.
    """
    wanted, best = given.get("rating"), given.get("best")
    if wanted is None and best is None:
        return list(pictures)
    is_wanted = None if wanted is None else _read_wanted(wanted, place)
    if best is not None and (isinstance(best, bool) or not isinstance(best, int) or best < 1):
        raise SheetError("from: best", shorten(best), f"is no number from 1 on ({place})", "write best: 1")
    if not pictures:
        return []
    ratings = sheet.ratings
    if ratings is None:
        why = f"has no ratings to choose by: {sheet.ratings_path} does not exist ({place})"
        hint = "rate the pictures in results/index.html and save the file there; until then leave this sheet out"
        raise SheetError("sheet", name, why, hint)
    if not ratings.is_whole:
        return []
    chosen = list(pictures)
    if is_wanted is not None:
        chosen = [each for each in chosen if is_wanted(_rating_of(ratings, each))]
    if chosen and best is not None:
        chosen = _best(chosen, ratings, best, place)
    if not chosen:
        raise _nothing_chosen(pictures, ratings, given, place)
    return chosen


def _read_wanted(given: object, place: str) -> Callable[[str], bool]:
    """A test of ratings that a number, a text or a list of them stands for."""
    tests: list[Callable[[str], bool]] = []
    for each in given if isinstance(given, list) else [given]:
        text = "" if isinstance(each, bool) else str(each).strip()
        if text == REJECT:
            tests.append(lambda rating: rating == REJECT)
        elif match := _TERM.fullmatch(text):
            tests.append(partial(_compares, _COMPARES[match[1]], int(match[2])))
        else:
            raise SheetError(_WHAT, shorten(each), f"is no rating ({place})", _EXAMPLE)
    return lambda rating: any(test(rating) for test in tests)


def _compares(compare: Callable[[int, int], bool], number: int, rating: str) -> bool:
    return rating.isdecimal() and compare(int(rating), number)


def _place_in_sheet(picture: PlannedPicture) -> str:
    return picture.name.partition("/")[2]


def _rating_of(ratings: Ratings, picture: PlannedPicture) -> str:
    rated = ratings.pictures.get(_place_in_sheet(picture))
    return "" if rated is None else rated.rating


def _best(pictures: Sequence[PlannedPicture], ratings: Ratings, count: int, place: str) -> list[PlannedPicture]:
    """The strongest pictures of each prompt, with those that are as strong as the last of them."""
    strengths, groups = strengths_of(ratings.comparisons), groups_of(ratings.comparisons)
    by_prompt: dict[str, list[str]] = {}
    for picture in pictures:
        if (name := _place_in_sheet(picture)) in strengths:
            by_prompt.setdefault(prompt_id(picture), []).append(name)
    chosen: set[str] = set()
    for prompt, names in by_prompt.items():
        first = next((name for name in names if groups[name] != groups[names[0]]), None)
        if first is not None:
            why = f"has pictures that no chain of comparisons connects: {names[0]} and {first} ({place})"
            raise SheetError("prompt", prompt, why, "compare the two, or choose by rating")
        least = sorted((strengths[name] for name in names), reverse=True)[:count][-1]
        chosen |= {name for name in names if strengths[name] > least - EQUAL}
    return [picture for picture in pictures if _place_in_sheet(picture) in chosen]


def _nothing_chosen(
    pictures: Sequence[PlannedPicture], ratings: Ratings, given: Mapping[str, Any], place: str
) -> SheetError:
    """The error that says what there is to choose from."""
    compared = {name for each in ratings.comparisons for name in (each.picture, each.against)}
    rated = sum(bool(_rating_of(ratings, picture)) for picture in pictures)
    paired = sum(_place_in_sheet(picture) in compared for picture in pictures)
    what = " and ".join(f"{key}: {given[key]}" for key in ("rating", "best") if given.get(key) is not None)
    of = format_count(len(pictures), "picture")
    counts = f"of {of}, {rated:,} are rated and {paired:,} compared in {ratings.path}"
    hint = "rate pictures in results/index.html and save the file, or ask for another rating"
    return SheetError("from", what, f"chooses no picture: {counts} ({place})", hint)
