"""The token chunks are those of the programs that the modes follow, and none of their crashes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from darkroom.errors import RequestError
from darkroom.prompting.chunking import Chunk, lay_out
from darkroom.prompting.tokens import Vectors, count_tokens, tokenize

GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text(encoding="utf-8"))
BOS, EOS = 49406, 49407


@dataclass
class Layout:
    """One tokenizer's chunks of a prompt and its negative."""

    positive: list[Chunk]
    negative: list[Chunk]
    tokens: tuple[int, int]


def lay(tokenizers: Any, prompt: str, negative: str = "", mode: str = "lpw") -> list[Layout]:
    runs = [[tokenize(tokenizer, text, Vectors(None), mode) for text in (prompt, negative)] for tokenizer in tokenizers]
    counts = [(count_tokens(positive), count_tokens(negative)) for positive, negative in runs]
    return [Layout(*own, count) for own, count in zip(lay_out(mode, tokenizers, runs), counts, strict=True)]


def ids(chunks: list[Chunk]) -> list[list[int]]:
    return [list(chunk.ids) for chunk in chunks]


def weights(chunks: list[Chunk]) -> list[list[float]]:
    return [list(chunk.weights) for chunk in chunks]


def words(chunks: list[Chunk]) -> list[int]:
    """How many tokens of the prompt stand in each chunk."""
    return [len([token for token in chunk.ids if token not in (BOS, EOS, 0)]) for chunk in chunks]


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["prompt"][:16] or "empty")
def test_layout_equals_the_long_prompt_pipelines(tokenizers: Any, case: dict[str, Any]) -> None:
    first, second = lay(tokenizers, case["prompt"], case["negative_prompt"])
    assert ids(first.positive) == case["ids_1"]
    assert ids(first.negative) == case["negative_ids_1"]
    assert ids(second.positive) == case["ids_2"]
    assert ids(second.negative) == case["negative_ids_2"]
    assert weights(first.positive) == case["weights"]
    assert weights(first.negative) == case["negative_weights"]


@pytest.mark.parametrize(("tokens", "lengths"), [(0, [2]), (3, [5]), (75, [77]), (150, [77, 77]), (151, [77, 77, 3])])
def test_the_last_chunk_is_not_padded(tokenizers: Any, tokens: int, lengths: list[int]) -> None:
    layout = lay(tokenizers, "sunset " * tokens, "")[0]
    assert [len(chunk.ids) for chunk in layout.positive] == lengths
    assert [len(chunk.ids) for chunk in layout.negative] == lengths
    assert layout.tokens == (tokens, 0)


def test_both_prompts_empty(tokenizers: Any) -> None:
    assert ids(lay(tokenizers, "", "")[0].positive) == [[BOS, EOS]]


def test_break_starts_a_chunk_and_is_not_a_word(tokenizers: Any) -> None:
    layout = lay(tokenizers, "fox BREAK (hill:1.2)", "")[0]
    fox, hill = (tokenizers[0](word).input_ids[1] for word in ("fox", "hill"))
    assert ids(layout.positive) == [[BOS, fox, *[EOS] * 75], [BOS, hill, EOS]]
    assert weights(layout.positive)[1] == [1.0, 1.2, 1.0]
    assert layout.tokens == (2, 0)
    assert [len(chunk.ids) for chunk in layout.negative] == [77, 3]


@pytest.mark.parametrize("prompt", ["fox BREAK", "BREAK fox", "BREAK BREAK fox BREAK"])
def test_a_break_with_nothing_to_part_does_nothing(tokenizers: Any, prompt: str) -> None:
    assert lay(tokenizers, prompt, "")[0].positive == lay(tokenizers, "fox", "")[0].positive


@pytest.mark.parametrize("negative", ["", "bad quality, ugly, blurry picture"])
def test_tokenizers_that_disagree_about_a_length_get_equal_layouts(tokenizers: Any, negative: str) -> None:
    first, second = lay(tokenizers, "wow!!!", negative)
    lengths = [[len(chunk.ids) for chunk in layout.positive + layout.negative] for layout in (first, second)]
    assert lengths[0] == lengths[1]


def test_a_long_text_gives_no_warning(tokenizers: Any, caplog: pytest.LogCaptureFixture, capfd: Any) -> None:
    tokenizers[0].deprecation_warnings.clear()
    lay(tokenizers, "sunset " * 200, "")
    assert "longer than" not in caplog.text + "".join(capfd.readouterr())


@pytest.mark.parametrize("weight", ["1" * 400, "-" + "1" * 400])
def test_a_weight_that_is_no_number_is_refused(tokenizers: Any, weight: str) -> None:
    with pytest.raises(RequestError, match=r"E-REQUEST weight '-?inf'"):
        lay(tokenizers, f"(fox:{weight})", "")


PADDED = ("a1111", "no_norm", "comfy")


@pytest.mark.parametrize("mode", PADDED)
def test_padded_modes_fill_every_chunk_to_77_the_second_tokenizer_with_its_own_filler(
    tokenizers: Any, mode: str
) -> None:
    first, second = lay(tokenizers, "fox", "sunset " * 80, mode)
    fox = tokenizers[0]("fox").input_ids[1]
    assert ids(first.positive) == [[BOS, fox, *[EOS] * 75], [BOS, *[EOS] * 76]]
    assert ids(second.positive) == [[BOS, fox, EOS, *[0] * 74], [BOS, EOS, *[0] * 75]]
    assert words(first.negative) == [75, 5]
    assert [len(chunk.ids) for chunk in second.negative] == [77, 77]


@pytest.mark.parametrize("mode", PADDED)
def test_padded_modes_take_empty_prompts(tokenizers: Any, mode: str) -> None:
    first, second = lay(tokenizers, "", "", mode)
    assert ids(first.positive) == ids(first.negative) == [[BOS, *[EOS] * 76]]
    assert ids(second.positive) == [[BOS, EOS, *[0] * 75]]


@pytest.mark.parametrize("mode", PADDED)
def test_break_ends_a_chunk_in_padded_modes(tokenizers: Any, mode: str) -> None:
    chunks = lay(tokenizers, "a red fox BREAK a (hill:1.2)", "", mode)[0].positive
    assert words(chunks) == [3, 2]
    assert weights(chunks)[1][:4] == [1.0, 1.0, 1.2, 1.0]
    assert words(lay(tokenizers, "fox BREAK", "", mode)[0].positive) == [1]
    assert words(lay(tokenizers, "BREAK fox", "", mode)[0].positive) == [0, 1]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("sunset " * 80, [75, 5]),
        ("sunset " * 70 + ", red fox in the snow", [71, 5]),  # the phrase that would be cut moves as a whole
        ("sunset " * 54 + ", " + "hill " * 25, [75, 5]),  # 21 tokens before is too far, 20 are not
        ("sunset " * 55 + ", " + "hill " * 25, [56, 25]),
        ("sunset " * 75 + ", fox", [75, 2]),
        ("sunset " * 70 + ", red fox in snow, hill", [75, 2]),  # a comma itself begins the next chunk and moves nothing
        ("sunset " * 74 + ", fox", [75, 1]),
    ],
)
def test_a1111_keeps_a_phrase_behind_a_comma_together(tokenizers: Any, prompt: str, expected: list[int]) -> None:
    assert words(lay(tokenizers, prompt, "", "a1111")[0].positive) == expected


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("sunset " * 80, [75, 5]),
        ("sunset " * 72 + "(red fox in snow:1.1)", [75, 1]),
        ("sunset " * 73 + "bokeh, hill", [73, 4]),  # three tokens, with the comma that stands at the word
        ("sunset " * 73 + "bokeh , hill", [75, 2]),
        ("sunset " * 70 + "x" * 40, [75, 5]),  # ten tokens are too many to be kept together
    ],
)
def test_comfy_keeps_the_tokens_of_a_word_together(tokenizers: Any, prompt: str, expected: list[int]) -> None:
    assert words(lay(tokenizers, prompt, "", "comfy")[0].positive) == expected
