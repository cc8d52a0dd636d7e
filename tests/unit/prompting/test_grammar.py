"""The attention grammar gives the pairs that A1111 users know."""

from __future__ import annotations

import pytest

from darkroom.prompting import parse_prompt_attention
from darkroom.prompting.grammar import LARGE_WEIGHT, largest_weight

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
    "(a: 1.3)": [["a: 1.3", 1.1]],
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


def test_a_very_long_prompt_of_brackets_is_read() -> None:
    assert parse_prompt_attention("(" * 10_000 + "a" + ")" * 10_000)[0][0] == "a"


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
