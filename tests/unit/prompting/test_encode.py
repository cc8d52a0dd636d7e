"""The embeddings equal those of the long-prompt pipeline; every word of a prompt has its say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from darkroom.errors import RequestError
from darkroom.prompting import PromptEmbeddings, encode, encode_prompt
from darkroom.prompting.grammar import parse_pieces
from darkroom.request.render_request import Emphasis

GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text(encoding="utf-8"))
LONG = "a (wide:1.3) valley, [mist], ((old)) bridge in the (morning:0.4) light, " * 9 + "red (fox:-0.5)"
NEGATIVE = "(low quality:1.4), [blurry] hands"
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


@pytest.mark.parametrize("emphasis", ["lpw", "a1111", "no_norm", "comfy"])
def test_one_call_of_each_encoder_whatever_the_prompts_lengths(
    tokenizers: Any, encoders: Any, emphasis: Emphasis
) -> None:
    calls: list[Any] = []
    handles = [encoder.register_forward_hook(lambda module, *_: calls.append(module)) for encoder in encoders]
    try:
        result = encode_prompt(tokenizers, encoders, counted(500), counted(40), emphasis=emphasis)
    finally:
        for handle in handles:
            handle.remove()
    assert calls == list(encoders)
    assert result.chunks >= 27


def test_more_chunks_than_a_batch_takes_give_the_same(
    tokenizers: Any, encoders: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    at_once = encode_prompt(tokenizers, encoders, counted(100), counted(40))
    monkeypatch.setattr(encode, "MAX_BATCH", 2)
    in_parts = encode_prompt(tokenizers, encoders, counted(100), counted(40))
    for name in TENSORS:
        torch.testing.assert_close(getattr(in_parts, name), getattr(at_once, name), atol=1e-5, rtol=0)


def counted(lines: int) -> str:
    """A prompt of some four tokens a line, no two chunks of which are alike."""
    return "\n".join(f"(hill:1.2) {number:03}" for number in range(lines))


def test_an_unknown_emphasis_is_refused(tokenizers: Any, encoders: Any) -> None:
    with pytest.raises(RequestError, match="E-REQUEST emphasis 'loud'"):
        encode_prompt(tokenizers, encoders, "fox", "", emphasis="loud")  # type: ignore[arg-type]


def padded_chunks(tokenizer: Any, prompt: str, count: int) -> list[tuple[list[int], list[float]]]:
    """`count` chunks of 77 ids and their weights: start, 75 tokens, end. For prompts that need no phrase moved."""
    tokens: list[tuple[int, float]] = []
    for piece in parse_pieces(prompt):
        ids = tokenizer(piece.text, add_special_tokens=False, verbose=False).input_ids
        tokens += [(token, piece.weight) for token in ids]
    chunks = []
    for number in range(count):
        group = tokens[75 * number : 75 * (number + 1)]
        ids = [tokenizer.bos_token_id, *(token for token, _ in group), tokenizer.eos_token_id]
        weights = [1.0, *(weight for _, weight in group), 1.0]
        free = 77 - len(ids)
        chunks.append((ids + [tokenizer.pad_token_id] * free, weights + [1.0] * free))
    return chunks


def run_alone(encoder: Any, ids: list[int]) -> tuple[Any, Any]:
    """The second-to-last hidden states (n, d) of one chunk, and its pooled vector."""
    import torch

    output = encoder(torch.tensor([ids]), output_hidden_states=True)
    return output.hidden_states[-2][0], output[0][0]


def weigh_one_by_one(emphasis: str, states: Any, weights: list[float], empty: Any) -> Any:
    """The weights of one chunk of one encoder, token after token."""
    import torch

    rows = []
    for state, weight, nothing in zip(states, weights, empty, strict=True):
        rows.append(nothing + weight * (state - nothing) if emphasis == "comfy" else weight * state)
    weighted = torch.stack(rows)
    return weighted / weighted.mean() * states.mean() if emphasis == "a1111" else weighted


def reference(tokenizers: Any, encoders: Any, emphasis: str, prompt: str, count: int) -> tuple[Any, Any]:
    """Sequence and pooled vector: each chunk through each encoder by itself, its weights, then all put together."""
    import torch

    columns, first_pooled = [], None
    for tokenizer, encoder in zip(tokenizers, encoders, strict=True):
        empty, _ = run_alone(encoder, padded_chunks(tokenizer, "", 1)[0][0])
        parts = []
        for number, (ids, weights) in enumerate(padded_chunks(tokenizer, prompt, count)):
            states, pooled = run_alone(encoder, ids)
            first_pooled = pooled if number == 0 else first_pooled
            parts.append(weigh_one_by_one(emphasis, states, weights, empty))
        columns.append(torch.cat(parts))
    return torch.cat(columns, dim=-1), first_pooled


@pytest.mark.parametrize("emphasis", ["a1111", "no_norm", "comfy"])
@pytest.mark.parametrize(
    "prompt", ["a (red:1.3) fox, [snow]", "(sunset:1.2) [hill] " * 90, "fox " * 76, "fox", "(fox:0)"]
)
def test_padded_modes_equal_chunks_encoded_alone(
    tokenizers: Any, encoders: Any, prompt: str, emphasis: Emphasis
) -> None:
    import torch

    result = encode_prompt(tokenizers, encoders, prompt, NEGATIVE, emphasis=emphasis)
    wanted = reference(tokenizers, encoders, emphasis, prompt, result.chunks)
    wanted_negative = reference(tokenizers, encoders, emphasis, NEGATIVE, result.chunks)
    for name, expected in zip(TENSORS, (wanted[0], wanted_negative[0], wanted[1], wanted_negative[1]), strict=True):
        torch.testing.assert_close(
            getattr(result, name)[0], expected, atol=2e-5, rtol=2e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_a1111_restores_the_mean_of_each_chunk_and_encoder(tokenizers: Any, encoders: Any) -> None:
    weighted = encode_prompt(tokenizers, encoders, "(fox:1.5) " * 100, "", emphasis="a1111").prompt_embeds[0]
    plain = encode_prompt(tokenizers, encoders, "fox " * 100, "", emphasis="a1111").prompt_embeds[0]
    for chunk in (slice(0, 77), slice(77, 154)):
        for columns in (slice(0, 4), slice(4, 10)):
            assert weighted[chunk, columns].mean().item() == pytest.approx(
                plain[chunk, columns].mean().item(), abs=1e-5
            )


@pytest.mark.parametrize(("emphasis", "which"), [("lpw", -1), ("a1111", 0), ("no_norm", 0), ("comfy", 0)])
def test_the_pooled_vector_is_the_last_chunks_in_lpw_else_the_firsts(
    tokenizers: Any, encoders: Any, emphasis: Emphasis, which: int
) -> None:
    import torch

    result = encode_prompt(tokenizers, encoders, "sunset " * 75 + "red fox", "", emphasis=emphasis)
    chunk = ("sunset " * 75, "red fox")[which]
    ids = tokenizers[1](chunk, verbose=False).input_ids
    torch.testing.assert_close(result.pooled_prompt_embeds[0], run_alone(encoders[1], ids)[1], atol=1e-5, rtol=0)


def test_lpw_weighs_towards_the_chunks_last_position(tokenizers: Any, encoders: Any) -> None:
    import torch

    result = encode_prompt(tokenizers, encoders, "red (fox:1.5)", "")
    for columns, tokenizer, encoder in zip((slice(0, 4), slice(4, 10)), tokenizers, encoders, strict=True):
        states, _ = run_alone(encoder, tokenizer("red fox").input_ids)
        expected = states.clone()
        expected[2] = states[3] + 1.5 * (states[2] - states[3])
        torch.testing.assert_close(result.prompt_embeds[0, :, columns], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("emphasis", ["lpw", "a1111", "no_norm", "comfy"])
def test_the_second_encoder_may_read_other_prompts(tokenizers: Any, encoders: Any, emphasis: Emphasis) -> None:
    result = encode_prompt(
        tokenizers,
        encoders,
        "red fox",
        "owl",
        prompt_2="(blue:1.2) hill",
        negative_prompt_2="snow man",
        emphasis=emphasis,
    )
    first = encode_prompt(tokenizers, encoders, "red fox", "owl", emphasis=emphasis)
    second = encode_prompt(tokenizers, encoders, "(blue:1.2) hill", "snow man", emphasis=emphasis)
    for name in ("prompt_embeds", "negative_prompt_embeds"):
        assert getattr(result, name)[..., :4].equal(getattr(first, name)[..., :4]), name
        assert getattr(result, name)[..., 4:].equal(getattr(second, name)[..., 4:]), name
    for name in TENSORS[2:]:
        assert getattr(result, name).equal(getattr(second, name)), name


def test_a_longer_second_prompt_lengthens_both(tokenizers: Any, encoders: Any) -> None:
    result = encode_prompt(tokenizers, encoders, "fox", "", prompt_2="hill " * 80)
    assert result.prompt_embeds.shape == result.negative_prompt_embeds.shape == (1, 84, 10)
    assert (result.prompt_tokens, result.negative_tokens, result.chunks) == (1, 0, 2)


@pytest.mark.parametrize("emphasis", ["lpw", "a1111", "no_norm", "comfy"])
def test_each_row_of_a_list_is_its_prompt_encoded_alone(tokenizers: Any, encoders: Any, emphasis: Emphasis) -> None:
    import torch

    prompts, negatives = ["a red fox", "the (blue:1.3) hill", "sunset over [snow]"], ["one owl", "", "(text:1.4)"]
    together = encode_prompt(tokenizers, encoders, prompts, negatives, emphasis=emphasis)
    for row, (prompt, negative) in enumerate(zip(prompts, negatives, strict=True)):
        alone = encode_prompt(tokenizers, encoders, prompt, negative, emphasis=emphasis)
        for name in TENSORS:
            torch.testing.assert_close(getattr(together, name)[row], getattr(alone, name)[0], atol=1e-5, rtol=0)


def test_rows_of_a_list_are_as_long_as_the_longest(tokenizers: Any, encoders: Any) -> None:
    import torch

    result = encode_prompt(tokenizers, encoders, ["fox", "sunset " * 80], "owl")
    assert result.prompt_embeds.shape == result.negative_prompt_embeds.shape == (2, 84, 10)
    assert result.negative_prompt_embeds[0].equal(result.negative_prompt_embeds[1])
    short = encode_prompt(tokenizers, encoders, "fox", "sunset " * 80)
    torch.testing.assert_close(result.prompt_embeds[0], short.prompt_embeds[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "prompts", [{"negative_prompt": ["a", "b"]}, {"prompt_2": ["a"]}, {"negative_prompt_2": ["a", "b", "c", "d"]}]
)
def test_lists_of_unequal_length_are_refused(tokenizers: Any, encoders: Any, prompts: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=r"E-REQUEST prompts .*differ in number"):
        encode_prompt(tokenizers, encoders, ["x", "y", "z"], **prompts)


@pytest.mark.parametrize("weight", ["70000", "-70000", "1000000000", "0"])
def test_weights_that_half_precision_cannot_hold_stay_finite(tokenizers: Any, encoders: Any, weight: str) -> None:
    result = encode_prompt(tokenizers, encoders, f"red (fox:{weight})", f"(owl:{weight})")
    assert all(getattr(result, name).isfinite().all() for name in TENSORS)
    plain = encode_prompt(tokenizers, encoders, "red fox", "owl").prompt_embeds[0]
    expected = plain[3] + (plain[2] - plain[3]) * float(weight)
    assert result.prompt_embeds[0, 2].tolist() == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("emphasis", ["lpw", "a1111", "no_norm", "comfy"])
def test_thousands_of_tokens_give_no_warning(
    tokenizers: Any, encoders: Any, emphasis: Emphasis, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    import transformers

    for tokenizer in tokenizers:
        tokenizer.deprecation_warnings.clear()  # transformers warns of a length once only
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_info()
    transformers.logging.enable_propagation()
    try:
        encode_prompt(tokenizers, encoders, "sunset " * 2000, "(hill:1.2) " * 300, emphasis=emphasis)
    finally:
        transformers.logging.set_verbosity(verbosity)
        transformers.logging.disable_propagation()
    assert caplog.text + "".join(capfd.readouterr()) == ""


def test_filling_a_chunk_up_changes_nothing_in_it(tokenizers: Any, encoders: Any) -> None:
    import torch

    result = encode_prompt(tokenizers, encoders, "sunset " * 75 + "red fox", "hill")
    for columns, tokenizer, encoder in zip((slice(0, 4), slice(4, 10)), tokenizers, encoders, strict=True):
        states, _ = run_alone(encoder, tokenizer("red fox").input_ids)
        torch.testing.assert_close(result.prompt_embeds[0, 77:, columns], states, atol=1e-5, rtol=0)


@pytest.mark.parametrize("emphasis", ["lpw", "a1111", "no_norm", "comfy"])
def test_what_was_encoded_before_leaves_no_trace(tokenizers: Any, encoders: Any, emphasis: Emphasis) -> None:
    first = encode_prompt(tokenizers, encoders, LONG, NEGATIVE, emphasis=emphasis)
    encode_prompt(tokenizers, encoders, ["other", "words " * 100], LONG, emphasis="comfy", clip_skip=1)
    again = encode_prompt(tokenizers, encoders, LONG, NEGATIVE, emphasis=emphasis)
    assert all(getattr(first, name).equal(getattr(again, name)) for name in TENSORS)


@pytest.mark.parametrize("emphasis", ["a1111", "comfy"])
def test_clip_skip_acts_in_the_padded_modes_too(tokenizers: Any, encoders: Any, emphasis: Emphasis) -> None:
    import torch

    result = encode_prompt(tokenizers, encoders, "fox", "owl", emphasis=emphasis, clip_skip=1)
    for name, word in zip(TENSORS, ("fox", "owl"), strict=False):
        expected = [
            encoder(torch.tensor([padded_chunks(tokenizer, word, 1)[0][0]]), output_hidden_states=True).hidden_states[
                -3
            ]
            for tokenizer, encoder in zip(tokenizers, encoders, strict=True)
        ]
        torch.testing.assert_close(getattr(result, name), torch.cat(expected, dim=-1), atol=1e-5, rtol=0)
