"""Prompt editing and alternation: the texts at each of the model's calls, as A1111 1.10 has them."""

from __future__ import annotations

from itertools import pairwise

import pytest

from darkroom.errors import RequestError, UnsupportedError
from darkroom.prompting.editing import MAX_TEXT, read_timeline
from darkroom.request.assets import AssetNames, settle
from darkroom.request.render_request import RenderRequest


def spans(prompt: str, steps: int = 10) -> list[tuple[int, str]]:
    """The texts with the last step of each; neighbours that are equal are one."""
    timeline = read_timeline(prompt, steps)
    pairs = list(zip(timeline.ends, timeline.texts, strict=True))
    return [first for first, after in pairwise([*pairs, (0, None)]) if first[1] != after[1]]


# The cases of A1111's own documentation tests, and what its grammar (lark, Earley) gave for the others.
KNOWN: dict[str, list[tuple[int, str]]] = {
    "test": [(10, "test")],
    "a [b:3]": [(3, "a "), (10, "a b")],
    "a [b: 3]": [(3, "a "), (10, "a b")],
    "a [[[b]]:2]": [(2, "a "), (10, "a [[b]]")],
    "[(a:2):3]": [(3, ""), (10, "(a:2)")],
    "a [b : c : 1] d": [(1, "a b  d"), (10, "a  c  d")],
    "a[b:[c:d:2]:1]e": [(1, "abe"), (2, "ace"), (10, "ade")],
    "a [unbalanced": [(10, "a [unbalanced")],
    "a [b:.5] c": [(5, "a  c"), (10, "a b c")],
    "((a][:b:c [d:3]": [(3, "((a][:b:c "), (10, "((a][:b:c d")],
    "[a|(b:1.1)]": [(n, ("(b:1.1)", "a")[n % 2]) for n in range(1, 11)],
    "[fe|]male": [(n, ("male", "female")[n % 2]) for n in range(1, 11)],
    "[a|[b:2]|c]": [(n, ("c", "a", "" if n == 2 else "b")[n % 3]) for n in range(1, 11)],
    "[red:green:0.5]": [(5, "red"), (10, "green")],
    "[red::0.5]": [(5, "red"), (10, "")],
    "[red:5]": [(5, ""), (10, "red")],
    "[a:b:3 ]": [(3, "a"), (10, "b")],
    "[a:b:\n3]": [(3, "a"), (10, "b")],
    "[a:b:0.99]": [(9, "a"), (10, "b")],
    "[a:b:0.05]": [(10, "b")],
    "[a:b:0]": [(10, "b")],
    "[a:b:-1]": [(10, "b")],
    "[a:b:1]": [(1, "a"), (10, "b")],
    "[a:b:1.0]": [(10, "a")],
    "[a:b:5.]": [(10, "a")],
    "[a:b:99]": [(10, "a")],
    "[a:b:1e400]": [(10, "a")],
    "[a:b:2e0]": [(2, "a"), (10, "b")],
    "[:3]": [(10, "")],
    "[|]": [(10, "")],
    "[a\\:b:3]": [(3, ""), (10, "a\\:b")],
    "[a\\|b:3]": [(3, ""), (10, "a\\|b")],
    "(a [b:3] c:1.2)": [(3, "(a  c:1.2)"), (10, "(a b c:1.2)")],
    "[a:b:3]:5]": [(3, "a:5]"), (10, "b:5]")],
    "smile :) [a:b:2]": [(2, "smile :) a"), (10, "smile :) b")],
    "[a:b:2] hat), (blue": [(2, "a hat), (blue"), (10, "b hat), (blue")],
}
TEXT = [
    "[a:b]",
    "[a:b:c]",
    "[a:b:c:3]",
    "[a]",
    "[3]",
    "(a:b:c)",
    "[x (a:b:c) y:3]",
    "[a (b:3]",
    "[a:b:3",
    "[a:b|c:2]",
    "a|b [c:3]",
    "(a|b) [c:3]",
    "[a|b",
    "[c:3] \\",
    "a\\\nb [c:3]",
    "[a:b:3x]",
    "[a:b:0,5]",
    "[a:b:\\3]",
]


@pytest.mark.parametrize("prompt", KNOWN)
def test_known_prompts(prompt: str) -> None:
    assert spans(prompt) == KNOWN[prompt]


@pytest.mark.parametrize("prompt", TEXT)
def test_what_is_no_editing_for_a1111_is_read_as_it_is(prompt: str) -> None:
    assert spans(prompt) == [(10, prompt)]


@pytest.mark.parametrize(
    ("prompt", "steps", "texts"),
    [
        ("[a:b:2]", 4, "aaab"),
        ("[a:b:0.5]", 4, "aaab"),
        ("[a:b:0.5]", 5, "aaabb"),
        ("[a:b:0]", 2, "bb"),
        ("[a|b]", 6, "aababa"),
        ("[a|b|c]", 6, "aabcab"),
        ("[a:b:1]", 1, "a"),
    ],
)
def test_calls_are_counted_from_0_and_a_text_is_used_up_to_the_call_of_its_number(
    prompt: str, steps: int, texts: str
) -> None:
    timeline = read_timeline(prompt, steps)
    assert "".join(timeline.at_call(call) for call in range(steps)) == texts


def test_a_sampler_that_calls_the_model_twice_a_step_has_twice_the_steps() -> None:
    for sampler, calls in (("Euler", 4), ("Heun", 8), ("DPM2", 8), ("DPM2 a", 8), ("DPM++ SDE", 4), ("PLMS", 4)):
        request = RenderRequest(prompt="[a:b:0.5]", negative_prompt="[c:2]", steps=4, sampler=sampler)
        prompt, negative, *others = request.timelines
        assert prompt and negative
        assert (prompt.ends, negative.ends) == ((calls // 2, calls), (2, calls))
        assert others == [None, None]


def test_tags_are_taken_out_before_a_prompt_is_read() -> None:
    prompt = RenderRequest(prompt="[<lora:a:1> x:y:3]", steps=4).timelines[0]
    assert prompt is not None
    assert prompt.texts == (" x", "y")


def test_an_embedding_is_found_in_every_text_even_if_alternation_makes_its_name() -> None:
    names = AssetNames(embeddings=("easyneg", "style"))
    request = settle(RenderRequest(prompt="[a:style:0.5]", negative_prompt="[easy|hard]neg"), names)
    assert request.embeddings == ("easyneg", "style")


@pytest.mark.parametrize("field", ["prompt", "prompt_2"])
@pytest.mark.parametrize("text", ["a cat AND a dog", "a AND b :0.5", "AND", "[a:b:2] AND c"])
def test_a_prompt_of_several_prompts_is_refused_by_name(field: str, text: str) -> None:
    request = RenderRequest.from_settings({"prompt": "a", field: text})
    with pytest.raises(UnsupportedError, match=r"E-UNSUPPORTED word 'AND': .*Hint: write it in small letters"):
        settle(request, AssetNames())


@pytest.mark.parametrize("text", ["a cat and a dog", "BRAND new", "HANDS, ANDROID", "AND_"])
def test_other_words_are_no_several_prompts(text: str) -> None:
    settle(RenderRequest(prompt=text, negative_prompt="a AND b"), AssetNames())


@pytest.mark.parametrize(
    "prompt",
    [
        "[a|b]" + "x" * 29_000 + "[c|d|e]",
        "[" + "|".join("abcdefgh" * 12) + "]" + "[a|b|c]" + "y" * 6_000,
        "".join(f"[a:{step}]" for step in range(1, 1000)),
        "[a|b]" * 5_000,
    ],
    ids=lambda text: text[:12],
)
def test_a_prompt_that_changes_too_often_for_its_length_is_refused(prompt: str) -> None:
    request = RenderRequest(prompt=prompt, steps=1000)
    with pytest.raises(RequestError, match=r"E-REQUEST prompt that changes while it is drawn.*Hint: use fewer"):
        _ = request.timelines


def test_a_long_prompt_may_change() -> None:
    long = "word, " * 4_900
    timeline = read_timeline(f"{long} [a|b]", 50)
    assert set(timeline.texts) == {f"{long} a", f"{long} b"}
    assert sum(map(len, set(timeline.texts))) <= MAX_TEXT
