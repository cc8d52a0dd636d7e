"""Each mode gives what its formula gives, worked out here one token at a time; no weight makes a number infinite."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from darkroom.errors import RequestError
from darkroom.prompting import encode_prompt

BOS, EOS = 49406, 49407
PROMPT = "a (red:1.4) fox, [old] hill (in the snow:-0.5)"
Weigh = Callable[[Any, list[float], Any], Any]


def a1111(states: Any, weights: list[float], _empty: Any) -> Any:
    result = no_norm(states, weights, _empty)
    return result * (states.mean() / result.mean())


def no_norm(states: Any, weights: list[float], _empty: Any) -> Any:
    return torch.stack([state * weight for state, weight in zip(states, weights, strict=True)])


def comfy(states: Any, weights: list[float], empty: Any) -> Any:
    rows = zip(states, weights, empty, strict=True)
    return torch.stack([none + (state - none) * weight for state, weight, none in rows])


FORMULAS: dict[str, Weigh] = {"a1111": a1111, "no_norm": no_norm, "comfy": comfy}


def run(encoder: Any, ids: list[int]) -> tuple[Any, Any]:
    """One chunk on its own: hidden states before the last layer, and what comes out first."""
    output = encoder(torch.tensor([ids]), output_hidden_states=True)
    return output.hidden_states[-2][0], output[0][0]


def padded(ids: list[int], filler: int) -> list[int]:
    return [BOS, *ids, EOS, *[filler] * (75 - len(ids))]


@pytest.mark.parametrize("mode", FORMULAS)
def test_a_mode_follows_its_formula_chunk_by_chunk_and_encoder_by_encoder(
    tokenizers: Any, encoders: Any, mode: str
) -> None:
    texts = [("a ", 1.0), ("red", 1.4), (" fox, ", 1.0), ("old", 1 / 1.1), (" hill ", 1.0), ("in the snow", -0.5)]
    halves = []
    for tokenizer, encoder, filler in zip(tokenizers, encoders, (EOS, 0), strict=True):
        ids: list[int] = []
        weights = [1.0]
        for text, weight in texts:
            found = tokenizer(text, add_special_tokens=False).input_ids
            ids += found
            weights += [weight] * len(found)
        empty, _ = run(encoder, padded([], filler))
        first, pooled = run(encoder, padded(ids, filler))
        second, _ = run(encoder, padded(tokenizer("owl", add_special_tokens=False).input_ids, filler))
        weights += [1.0] * (77 - len(weights))
        halves.append(torch.cat([FORMULAS[mode](first, weights, empty), second]))

    result = encode_prompt(tokenizers, encoders, f"{PROMPT} BREAK owl", "", emphasis=mode)  # type: ignore[arg-type]

    torch.testing.assert_close(result.prompt_embeds[0], torch.cat(halves, dim=-1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(result.pooled_prompt_embeds[0], pooled, atol=1e-5, rtol=1e-5)
    assert result.chunks == 2


@pytest.mark.parametrize("mode", FORMULAS)
def test_without_weights_the_padded_modes_agree(tokenizers: Any, encoders: Any, mode: str) -> None:
    plain, other = (
        encode_prompt(tokenizers, encoders, "a red fox", "owl", emphasis=emphasis)  # type: ignore[arg-type]
        for emphasis in ("no_norm", mode)
    )
    assert other.prompt_embeds.equal(plain.prompt_embeds)


@pytest.mark.parametrize("mode", ["lpw", *FORMULAS])
@pytest.mark.parametrize("weight", ["11", "70000", "-1e7", "9" * 30, "0", "0.0000001"])
def test_an_absurd_weight_gives_finite_numbers(tokenizers: Any, encoders: Any, mode: str, weight: str) -> None:
    number = f"{float(weight):.7f}"  # the grammar has no exponents
    result = encode_prompt(tokenizers, encoders, f"a (fox:{number})", "", emphasis=mode)  # type: ignore[arg-type]
    assert result.prompt_embeds.isfinite().all()
    assert not result.prompt_embeds.equal(encode_prompt(tokenizers, encoders, "a fox", "", emphasis=mode).prompt_embeds)  # type: ignore[arg-type]


@pytest.mark.parametrize("number", ["9" * 39, "9" * 400, "-" + "9" * 400])
def test_a_weight_beyond_single_precision_is_refused(tokenizers: Any, encoders: Any, number: str) -> None:
    with pytest.raises(RequestError, match="E-REQUEST weight"):
        encode_prompt(tokenizers, encoders, f"(fox:{number})", "")


def test_lpw_rounds_weights_to_half_precision_as_the_pipeline_does(tokenizers: Any, encoders: Any) -> None:
    near, rounded, plain = (
        encode_prompt(tokenizers, encoders, text, "").prompt_embeds
        for text in ("(fox:1.3001)", "(fox:1.2998046875)", "(fox:1.0001)")
    )
    assert near.equal(rounded)
    assert plain.equal(encode_prompt(tokenizers, encoders, "fox", "").prompt_embeds)


@pytest.mark.parametrize("mode", FORMULAS)
def test_in_padded_modes_the_second_encoder_reads_an_exclamation_mark_as_the_first_does(
    tokenizers: Any, encoders: Any, mode: str
) -> None:
    seen: list[list[int]] = []
    handle = encoders[1].register_forward_hook(lambda _, inputs, __: seen.extend(inputs[0].tolist()))
    try:
        encode_prompt(tokenizers, encoders, "wow!!! fox", "", emphasis=mode)  # type: ignore[arg-type]
    finally:
        handle.remove()
    expected = tokenizers[0]("wow!!! fox").input_ids
    assert seen[0][: len(expected)] == expected
