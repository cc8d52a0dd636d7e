"""The attention grammar gives the pairs that A1111 users know."""

from __future__ import annotations

import contextlib
import math
import re
import sys
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkroom.errors import DarkroomError
from darkroom.prompting import parse_prompt_attention
from darkroom.prompting.editing import read_timeline
from darkroom.prompting.grammar import LARGE_WEIGHT, ROUND, SQUARE, find_embeddings, largest_weight, parse_pieces
from darkroom.request.lora_tags import take_out_loras

KNOWN = {
    "normal text": [["normal text", 1.0]],
    "an (important) word": [["an ", 1.0], ["important", 1.1], [" word", 1.0]],
    "(unbalanced": [["unbalanced", 1.1]],
    r"\(literal\]": [["(literal]", 1.0]],
    "(unnecessary)(parens)": [["unnecessaryparens", 1.1]],
    "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).": [
        ["a ", 1.0],
        ["house", 1.5730000000000004],
        [" ", 1.1],
        ["on", 1.0],
        [" a ", 1.1],
        ["hill", 0.55],
        [", sun, ", 1.1],
        ["sky", 1.4641000000000006],
        [".", 1.1],
    ],
    "": [["", 1.0]],
    "a BREAK b": [["a", 1.0], ["BREAK", -1], ["b", 1.0]],
    "(a:1.2": [["a:1.2", 1.1]],
    "a:1.5) b": [["a:1.5) b", 1.0]],
    "(a:-1) b": [["a", -1.0], [" b", 1.0]],
    "[a:b:0.5]": [["a:b:0.5", 1 / 1.1]],
    r"(tag_\(series\):1.1), x": [["tag_(series)", 1.1], [", x", 1.0]],
    "a)b": [["a)b", 1.0]],
    "a]b": [["a]b", 1.0]],
    "(a: 1.3)": [["a", 1.3]],
    "(a:1.3 )": [["a", 1.3]],
    "(a : 1.3), b": [["a ", 1.3], [", b", 1.0]],
    "(a:\n+.5\t)": [["a", 0.5]],
    "(a: 1.3": [["a: 1.3", 1.1]],
    "(a:1 .3)": [["a:1 .3", 1.1]],
    "a\\\\b": [["a\\b", 1.0]],
    "a\\b": [["ab", 1.0]],
    "[[a]]": [["a", 1 / 1.1 / 1.1]],
    "two\nlines": [["two\nlines", 1.0]],
    "BREAKFAST": [["BREAKFAST", 1.0]],
    "a \n BREAK\t BREAK b ": [["a", 1.0], ["BREAK", -1], ["", 1.0], ["BREAK", -1], ["b ", 1.0]],
    "(a BREAK b) c": [["a", 1.1], ["BREAK", -1], ["b", 1.1], [" c", 1.0]],
}


@pytest.mark.parametrize("text", KNOWN)
def test_known_prompts(text: str) -> None:
    assert parse_prompt_attention(text) == KNOWN[text]


def test_break_is_a_marker_inside_brackets_too() -> None:
    assert parse_prompt_attention("(a BREAK b)") == [["a", 1.1], ["BREAK", -1], ["b", 1.1]]


def test_a_weight_of_minus_one_does_not_merge_with_break() -> None:
    assert parse_prompt_attention("(a:-1)BREAK(b:-1)")[:2] == [["a", -1.0], ["", 1.0]]
    assert ["BREAK", -1] in parse_prompt_attention("(a:-1)BREAK(b:-1)")


@pytest.mark.parametrize("text", ["(a:1.2.3)", "(a:.)", "(a:+)"])
def test_what_looks_like_a_number_but_is_none_stays_text(text: str) -> None:
    pairs = parse_prompt_attention(text)
    assert "".join(str(pair[0]) for pair in pairs) == text[1:-1]
    assert pairs[0][1] == 1.1


def multiplied(text: str) -> list[tuple[str, float]]:
    """The pieces of a prompt without BREAK by the plain method: each closing bracket multiplies all that it encloses."""
    texts: list[str] = []
    weights: list[float] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def close(kind: str, factor: float) -> None:
        start = opened[kind].pop()
        weights[start:] = [weight * factor for weight in weights[start:]]

    for token in re.findall(r":[.\d]+\)|[()\[\]]|[^()\[\]:]+|:", text):
        if token in opened:
            opened[token].append(len(texts))
        elif token[-1] == ")" and opened["("]:
            close("(", float(token[1:-1]) if token[0] == ":" else ROUND)
        elif token == "]" and opened["["]:
            close("[", SQUARE)
        else:
            texts.append(token)
            weights.append(1.0)
    for kind, factor in (("(", ROUND), ("[", SQUARE)):
        while opened[kind]:
            close(kind, factor)
    return list(zip(texts, weights, strict=True))


PARTS = st.sampled_from(["(", "(", "[", ")", "]", ":1.3)", ":0.7)", ":0)", "a", "b ", ":"])


@given(st.lists(PARTS, max_size=80).map("".join))
@settings(derandomize=True, max_examples=500)
def test_weights_are_multiplied_factor_by_factor_from_the_inside_out(text: str) -> None:
    by_character = [(character, weight) for part, weight in multiplied(text) for character in part]
    assert [(c, piece.weight) for piece in parse_pieces(text) for c in piece.text] == by_character


@pytest.mark.parametrize("text", ["(a" * 600, "[a" * 900, "(" * 700 + "a)" * 700, "((a:1.3)" * 90], ids=lambda t: t[:6])
def test_deeply_nested_brackets_give_the_same_floats(text: str) -> None:
    assert [(piece.text, piece.weight) for piece in parse_pieces(text)] == multiplied(text)


def test_brackets_that_nest_too_deep_to_be_multiplied_get_a_weight_that_nothing_can_be_drawn_with() -> None:
    assert largest_weight("([" * 150 + "a") == math.inf


HOSTILE: dict[str, str | tuple[str, str] | Callable[[int], str]] = {
    "open": "(a",
    "open, both kinds": "(a[b",
    "closing": "a)",
    "numbers": "(a:1.01)",
    "open numbers": "((a:1.01)",
    "deep": ("(" * 90 + "[" * 90, "(a)"),
    "nested": lambda size: "(" * (size // 3) + "a)" * (size // 3),
    "nested numbers": lambda size: "(" * (size // 7) + "a:.99)" * (size // 7),
    "colons": ":",
    "colons and spaces": ": ",
    "a number without end": lambda size: ":" + "1" * size,
    "spaces after a number": lambda size: "(a:1" + " " * size,
    "breaks": "BREAK ",
    "backslashes": "\\",
    "embeddings": "embedding:x ",
    "a long name": lambda size: "embedding:" + "x." * (size // 2),
    "tags": "<lora:x:1>",
    "alternation": "[a|b]",
    "editing": "[a:b:2]",
    "editing in editing": lambda size: "[" * (size // 4) + ":2]" * (size // 4),
    "separators": lambda size: "[" + "|" * size + "]",
}


def steps_of(work: Callable[[str], object], text: str) -> int:
    """How many lines of Python the work takes, and calls of functions in C."""
    count = 0

    def note(frame: object, event: str, _: object) -> object:
        nonlocal count
        count += 1
        return note

    sys.settrace(note)
    try:
        with contextlib.suppress(DarkroomError):
            work(text)
    finally:
        sys.settrace(None)
    return count


@pytest.mark.parametrize("kind", HOSTILE)
def test_reading_takes_time_in_proportion_to_the_length(kind: str) -> None:
    def text_of(size: int) -> str:
        made = HOSTILE[kind]
        if callable(made):
            return str(made(size))
        start, part = made if isinstance(made, tuple) else ("", made)
        return start + part * (size // len(part))

    def read(text: str) -> None:
        parse_pieces.__wrapped__(text)
        find_embeddings(text, ("x", "x.y"))
        take_out_loras(text)
        read_timeline.__wrapped__(text, 20)

    small, large = (steps_of(read, text_of(size)) for size in (1_500, 6_000))
    assert large < 6 * small


@pytest.mark.parametrize(
    ("text", "largest"),
    [
        ("", 1.0),
        ("a red fox", 1.0),
        ("(fox:1.3), (hill:0.5)", 1.3),
        ("(fox:-20) BREAK hill", 20.0),
        ("((fox:9)) and (hill:2)", 9 * 1.1),
        ("[fox]", 1 / 1.1),
        ("[fox BREAK hill]", 1 / 1.1),
    ],
)
def test_the_largest_weight_is_that_of_any_piece_and_never_a_breaks(text: str, largest: float) -> None:
    assert largest_weight(text) == largest


def test_what_people_write_is_no_large_weight() -> None:
    assert largest_weight("(((((masterpiece:1.5)))))") < LARGE_WEIGHT < largest_weight("(masterpiece:12)")


def test_a_long_name_is_compared_only_as_far_as_names_reach() -> None:
    def find(text: str) -> None:
        find_embeddings(text, ("x", "x.y"))

    _, small, large = (steps_of(find, "embedding:" + "x." * size) for size in (500, 500, 5_000))  # imports come first
    assert large < 2 * small
