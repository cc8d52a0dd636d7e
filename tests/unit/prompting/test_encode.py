"""The embeddings equal those of the long-prompt pipeline; every word of a prompt has its say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from darkroom.errors import RequestError
from darkroom.prompting import PromptEmbeddings, encode_prompt

GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text(encoding="utf-8"))
TENSORS = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["prompt"][:16] or "empty")
def test_embeddings_equal_the_long_prompt_pipelines(tokenizers: Any, encoders: Any, case: dict[str, Any]) -> None:
    result = encode_prompt(tokenizers, encoders, case["prompt"], case["negative_prompt"])
    for name in TENSORS:
        tensor, golden = getattr(result, name), case[name]
        assert list(tensor.shape) == golden["shape"], name
        flat = tensor.double().flatten()
        assert flat[:: golden["every"]].tolist() == pytest.approx(golden["values"], abs=5e-5), name
        assert flat.sum().item() == pytest.approx(golden["sum"], abs=2e-2), name


def test_both_prompts_empty(tokenizers: Any, encoders: Any) -> None:
    result = encode_prompt(tokenizers, encoders, "", "")
    assert result.prompt_embeds.shape == (1, 2, 10)
    assert result.prompt_embeds.equal(result.negative_prompt_embeds)


def test_the_last_words_of_a_long_prompt_count(tokenizers: Any, encoders: Any) -> None:
    start = "a wide valley in the morning " * 40
    red, blue = (encode_prompt(tokenizers, encoders, start + end, "") for end in ("red fox", "blue fox"))
    assert not red.prompt_embeds.equal(blue.prompt_embeds)
    assert not red.pooled_prompt_embeds.equal(blue.pooled_prompt_embeds)
    assert red.chunks == 4


def test_tokenizers_that_disagree_about_a_length(tokenizers: Any, encoders: Any) -> None:
    result = encode_prompt(tokenizers, encoders, "wow!!! (fox:1.3)", "")
    assert result.prompt_embeds.shape == result.negative_prompt_embeds.shape


@pytest.mark.parametrize("which", ["prompt_embeds", "negative_prompt_embeds"])
def test_clip_skip_acts_on_both_prompts(tokenizers: Any, encoders: Any, which: str) -> None:
    import torch

    skipped: PromptEmbeddings = encode_prompt(tokenizers, encoders, "fox", "owl", clip_skip=1)
    word = {"prompt_embeds": "fox", "negative_prompt_embeds": "owl"}[which]
    expected = [
        encoder(tokenizer(word, return_tensors="pt").input_ids, output_hidden_states=True).hidden_states[-3]
        for tokenizer, encoder in zip(tokenizers, encoders, strict=True)
    ]
    torch.testing.assert_close(getattr(skipped, which), torch.cat(expected, dim=-1))


def test_clip_skip_deeper_than_the_encoder_is_refused(tokenizers: Any, encoders: Any) -> None:
    with pytest.raises(RequestError, match="E-REQUEST clip_skip '3'"):
        encode_prompt(tokenizers, encoders, "fox", "", clip_skip=3)


def test_each_distinct_chunk_goes_through_an_encoder_once(tokenizers: Any, encoders: Any) -> None:
    rows: list[tuple[int, int]] = []
    handle = encoders[0].register_forward_hook(lambda _, inputs, __: rows.append(tuple(inputs[0].shape)))
    try:
        encode_prompt(tokenizers, encoders, "sunset " * 160, "sunset " * 150)
    finally:
        handle.remove()
    assert rows == [(3, 77)]


def test_an_unknown_emphasis_is_refused(tokenizers: Any, encoders: Any) -> None:
    with pytest.raises(RequestError, match="E-REQUEST emphasis 'loud'"):
        encode_prompt(tokenizers, encoders, "fox", "", emphasis="loud")  # type: ignore[arg-type]
