"""Several prompts at once, a second prompt, and what a prompt's embeddings may not depend on."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from darkroom.errors import RequestError
from darkroom.prompting import encode, encode_prompt
from tests.unit.prompting.encoders import make_encoders

MODES = ("lpw", "a1111", "no_norm", "comfy")
TENSORS = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
LONG = "a (wide:1.2) valley in the morning, " * 30


@pytest.mark.parametrize("mode", MODES)
def test_a_list_gives_each_prompt_its_row(tokenizers: Any, encoders: Any, mode: Any) -> None:
    prompts, negatives = ["a red fox", "a (big:1.3) owl"], ["one two three", "four five six"]
    together = encode_prompt(tokenizers, encoders, prompts, negatives, emphasis=mode)
    for number, (prompt, negative) in enumerate(zip(prompts, negatives, strict=True)):
        alone = encode_prompt(tokenizers, encoders, prompt, negative, emphasis=mode)
        for name in TENSORS[2:] if mode == "lpw" else TENSORS:
            torch.testing.assert_close(getattr(together, name)[number], getattr(alone, name)[0], atol=1e-5, rtol=1e-5)


def test_rows_of_a_list_are_filled_to_the_longest(tokenizers: Any, encoders: Any) -> None:
    result = encode_prompt(tokenizers, encoders, ["fox", LONG], "blurry")
    assert result.prompt_embeds.shape == result.negative_prompt_embeds.shape == (2, 210 + 2 * 3, 10)
    assert result.pooled_prompt_embeds.shape == (2, 6)
    filled = encode_prompt(tokenizers, encoders, "fox", LONG)
    torch.testing.assert_close(result.prompt_embeds[0], filled.prompt_embeds[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("prompt", "negative", "prompt_2"),
    [(["a", "b"], ["c"], None), ([], "", None), ([], [], None), ("a", [], None), (["a", "b"], "", ["c", "d", "e"])],
)
def test_lists_of_unequal_length_and_empty_ones_are_refused(
    tokenizers: Any, encoders: Any, prompt: Any, negative: Any, prompt_2: Any
) -> None:
    with pytest.raises(RequestError, match="E-REQUEST prompts"):
        encode_prompt(tokenizers, encoders, prompt, negative, prompt_2=prompt_2)


@pytest.mark.parametrize("mode", MODES)
def test_the_second_prompt_is_for_the_second_encoder_alone(tokenizers: Any, encoders: Any, mode: Any) -> None:
    one, other, mixed = (
        encode_prompt(tokenizers, encoders, first, "x", prompt_2=second, emphasis=mode)
        for first, second in (("red fox", None), ("blue owl", None), ("red fox", "blue owl"))
    )
    torch.testing.assert_close(mixed.prompt_embeds[..., :4], one.prompt_embeds[..., :4], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mixed.prompt_embeds[..., 4:], other.prompt_embeds[..., 4:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mixed.pooled_prompt_embeds, other.pooled_prompt_embeds, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_a_second_prompt_of_another_length_fits(tokenizers: Any, encoders: Any, mode: Any) -> None:
    result = encode_prompt(tokenizers, encoders, "fox", "", prompt_2=LONG, negative_prompt_2="x", emphasis=mode)
    assert result.prompt_embeds.shape == result.negative_prompt_embeds.shape
    assert (result.prompt_tokens, result.negative_tokens) == (1, 0)


@pytest.mark.parametrize("mode", MODES)
def test_the_same_prompt_gives_the_same_bits_whatever_came_before(tokenizers: Any, encoders: Any, mode: Any) -> None:
    first = encode_prompt(tokenizers, encoders, LONG, "blurry", emphasis=mode)
    encode_prompt(tokenizers, encoders, "an owl", LONG, emphasis="a1111", clip_skip=1)
    again = encode_prompt(tokenizers, encoders, LONG, "blurry", emphasis=mode)
    assert all(getattr(first, name).equal(getattr(again, name)) for name in TENSORS)


@pytest.mark.parametrize("end_token", [2, 49407])
def test_filling_up_a_short_chunk_changes_nothing_in_it(tokenizers: Any, end_token: int) -> None:
    encoders = make_encoders()
    for encoder in encoders:
        (encoder if hasattr(encoder, "eos_token_id") else encoder.text_model).eos_token_id = end_token
    result = encode_prompt(tokenizers, encoders, "sunset " * 75 + "fox", "owl")
    alone = [
        encoder(torch.tensor([tokenizer("fox").input_ids]), output_hidden_states=True)
        for tokenizer, encoder in zip(tokenizers, encoders, strict=True)
    ]
    expected = torch.cat([output.hidden_states[-2] for output in alone], dim=-1)
    torch.testing.assert_close(result.prompt_embeds[:, 77:], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(result.pooled_prompt_embeds, alone[1].text_embeds, atol=1e-5, rtol=1e-5)


def test_very_many_chunks_go_through_in_several_batches(
    tokenizers: Any, encoders: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = " ".join(f"picture {number}" for number in range(300))
    whole = encode_prompt(tokenizers, encoders, prompt, "blurry")
    monkeypatch.setattr(encode, "MAX_BATCH", 3)
    sizes: list[int] = []
    handle = encoders[0].register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    try:
        parted = encode_prompt(tokenizers, encoders, prompt, "blurry")
    finally:
        handle.remove()
    assert max(sizes) == 3 and len(sizes) > 3
    torch.testing.assert_close(parted.prompt_embeds, whole.prompt_embeds, atol=1e-5, rtol=1e-5)


def test_filling_that_begins_a_longer_filling_is_encoded_once(tokenizers: Any, encoders: Any) -> None:
    sizes: list[int] = []
    handle = encoders[0].register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    try:
        encode_prompt(tokenizers, encoders, "sunset " * 160, "owl")
    finally:
        handle.remove()
    # Of the prompt two chunks, one of them twice; of the negative one, and its filling.
    assert sizes == [4]


@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_printed_or_logged_about_a_long_prompt(
    tokenizers: Any, encoders: Any, mode: Any, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    for tokenizer in tokenizers:
        tokenizer.deprecation_warnings.clear()
    encode_prompt(tokenizers, encoders, "sunset " * 2000, "x" * 3000, emphasis=mode)
    assert caplog.text + "".join(capfd.readouterr()) == ""
