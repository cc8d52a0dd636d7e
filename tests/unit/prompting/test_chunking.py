"""The token chunks are those of the long-prompt pipeline, and none of its crashes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from darkroom.errors import RequestError
from darkroom.prompting.chunking import Chunk, lay_out

GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text(encoding="utf-8"))
BOS, EOS = 49406, 49407


def ids(chunks: list[Chunk]) -> list[list[int]]:
    return [list(chunk.ids) for chunk in chunks]


def weights(chunks: list[Chunk]) -> list[list[float]]:
    return [list(chunk.weights) for chunk in chunks]


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["prompt"][:16] or "empty")
def test_layout_equals_the_long_prompt_pipelines(tokenizers: Any, case: dict[str, Any]) -> None:
    first, second = lay_out(tokenizers, case["prompt"], case["negative_prompt"])
    assert ids(first.positive) == case["ids_1"]
    assert ids(first.negative) == case["negative_ids_1"]
    assert ids(second.positive) == case["ids_2"]
    assert ids(second.negative) == case["negative_ids_2"]
    assert weights(first.positive) == case["weights"]
    assert weights(first.negative) == case["negative_weights"]


@pytest.mark.parametrize(("tokens", "lengths"), [(0, [2]), (3, [5]), (75, [77]), (150, [77, 77]), (151, [77, 77, 3])])
def test_the_last_chunk_is_not_padded(tokenizers: Any, tokens: int, lengths: list[int]) -> None:
    layout = lay_out(tokenizers, "sunset " * tokens, "")[0]
    assert [len(chunk.ids) for chunk in layout.positive] == lengths
    assert [len(chunk.ids) for chunk in layout.negative] == lengths
    assert (layout.prompt_tokens, layout.negative_tokens) == (tokens, 0)


def test_both_prompts_empty(tokenizers: Any) -> None:
    assert ids(lay_out(tokenizers, "", "")[0].positive) == [[BOS, EOS]]


def test_break_starts_a_chunk_and_is_not_a_word(tokenizers: Any) -> None:
    layout = lay_out(tokenizers, "fox BREAK (hill:1.2)", "")[0]
    fox, hill = (tokenizers[0](word).input_ids[1] for word in ("fox", "hill"))
    assert ids(layout.positive) == [[BOS, fox, *[EOS] * 75], [BOS, hill, EOS]]
    assert weights(layout.positive)[1] == [1.0, 1.2, 1.0]
    assert layout.prompt_tokens == 2
    assert [len(chunk.ids) for chunk in layout.negative] == [77, 3]


@pytest.mark.parametrize("prompt", ["fox BREAK", "BREAK fox", "BREAK BREAK fox BREAK"])
def test_a_break_with_nothing_to_part_does_nothing(tokenizers: Any, prompt: str) -> None:
    assert lay_out(tokenizers, prompt, "")[0].positive == lay_out(tokenizers, "fox", "")[0].positive


@pytest.mark.parametrize("negative", ["", "bad quality, ugly, blurry picture"])
def test_tokenizers_that_disagree_about_a_length_get_equal_layouts(tokenizers: Any, negative: str) -> None:
    first, second = lay_out(tokenizers, "wow!!!", negative)
    lengths = [[len(chunk.ids) for chunk in layout.positive + layout.negative] for layout in (first, second)]
    assert lengths[0] == lengths[1]


def test_a_long_text_gives_no_warning(tokenizers: Any, caplog: pytest.LogCaptureFixture, capfd: Any) -> None:
    tokenizers[0].deprecation_warnings.clear()
    lay_out(tokenizers, "sunset " * 200, "")
    assert "longer than" not in caplog.text + "".join(capfd.readouterr())


def test_a_weight_beyond_half_precision_is_refused(tokenizers: Any) -> None:
    with pytest.raises(RequestError, match="E-REQUEST weight '70000"):
        lay_out(tokenizers, "(fox:70000)", "")
