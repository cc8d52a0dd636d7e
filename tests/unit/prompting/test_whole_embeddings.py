"""In the padded modes an embedding that a chunk can hold is never cut, and belongs to its phrase as a word does."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from darkroom.prompting import encode_prompt
from darkroom.prompting.embeddings import Embedding

PADDED = ("a1111", "no_norm", "comfy")


def make(name: str = "easyneg", count: int = 2) -> Embedding:
    wave = torch.sin(torch.arange(count * 10, dtype=torch.float32)).reshape(count, 10)
    return Embedding(name, (wave[:, :4].contiguous(), wave[:, 4:].contiguous()))


@pytest.mark.parametrize("mode", PADDED)
@pytest.mark.parametrize("count", [3, 12, 75])
def test_an_embedding_is_kept_in_one_chunk(tokenizers: Any, encoders: Any, mode: Any, count: int) -> None:
    embedding = {"easyneg": make(count=count)}
    parted, whole = (
        encode_prompt(tokenizers, encoders, text, "", emphasis=mode, embeddings=embedding)
        for text in ("sunset " * 74 + "BREAK easyneg", "sunset " * 74 + "easyneg")
    )
    torch.testing.assert_close(whole.prompt_embeds, parted.prompt_embeds, atol=1e-5, rtol=1e-5)


def test_an_embedding_behind_a_full_chunk_moves_the_phrase_it_belongs_to(tokenizers: Any, encoders: Any) -> None:
    embedding = {"easyneg": make()}
    moved, expected = (
        encode_prompt(tokenizers, encoders, text, "", emphasis="a1111", embeddings=embedding)
        for text in ("sunset " * 70 + ", red fox in the easyneg", "sunset " * 70 + ", BREAK red fox in the easyneg")
    )
    torch.testing.assert_close(moved.prompt_embeds, expected.prompt_embeds, atol=1e-5, rtol=1e-5)
