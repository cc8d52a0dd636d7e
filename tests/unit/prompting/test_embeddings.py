"""Textual inversions: what is read and refused, where they stand in a prompt, and what the encoders make of them."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from darkroom.errors import DarkroomError, EmbeddingError
from darkroom.prompting import encode_prompt
from darkroom.prompting.embeddings import Embedding, check_embedding_file, read_embedding
from darkroom.prompting.grammar import find_embeddings
from darkroom.request.render_request import Emphasis
from tests.fixtures.assets import write_lora
from tests.fixtures.checkpoints import write_random_checkpoint, write_tensors
from tests.unit.prompting.golden import TENSORS

MODES = ("lpw", "a1111", "no_norm", "comfy")
STAND_INS = ("zebra", "tiger", "piano")
"""Words of one token each, whose rows in a copy of the encoders' tables hold the vectors instead."""


def numbers(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


@pytest.fixture
def style() -> Embedding:
    """Two vectors for each of the toy encoders."""
    import torch

    return Embedding("style", (torch.from_numpy(numbers(2, 4)), torch.from_numpy(numbers(2, 6, seed=1))))


def with_stand_ins(tokenizers: Any, encoders: Any, *embeddings: Embedding) -> Any:
    """Copies of the encoders that read the vectors, in their order, where the stand-in words are."""
    copies = copy.deepcopy(encoders)
    for number, (tokenizer, encoder) in enumerate(zip(tokenizers, copies, strict=True)):
        vectors = [vector for embedding in embeddings for vector in embedding.vectors[number]]
        for word, vector in zip(STAND_INS, vectors, strict=False):
            (token,) = tokenizer(word, add_special_tokens=False).input_ids
            encoder.get_input_embeddings().weight[token] = vector
    return copies


def assert_same(result: Any, expected: Any) -> None:
    import torch

    for name in TENSORS:
        torch.testing.assert_close(getattr(result, name), getattr(expected, name), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("keys", [("clip_l", "clip_g"), ("text_encoders_0", "text_encoders_1")])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_both_spellings_are_read_as_fp32(tmp_path: Path, keys: tuple[str, str], dtype: str) -> None:
    first, second = numbers(3, 768).astype(dtype), numbers(3, 1280).astype(dtype)
    save_file({keys[0]: first, keys[1]: second}, tmp_path / "style.safetensors")
    embedding = read_embedding(tmp_path / "style.safetensors", "style")
    assert embedding.count == 3
    for vectors, written in zip(embedding.vectors, (first, second), strict=True):
        assert str(vectors.dtype) == "torch.float32"
        np.testing.assert_array_equal(vectors.numpy(), written.astype("float32"))


REFUSED = {
    "SD 1.x": ({"emb_params": numbers(2, 768)}, "E-EMBEDDING embedding 'style': is an embedding for SD 1.x"),
    "SD 2.x": ({"emb_params": numbers(2, 1024)}, "E-EMBEDDING embedding 'style': is an embedding for SD 2.x"),
    "first only": ({"clip_l": numbers(2, 768)}, "E-EMBEDDING .*for one text encoder only, 'clip_l'"),
    "second only": ({"text_encoders_1": numbers(2, 1280)}, "E-EMBEDDING .*one text encoder only, 'text_encoders_1'"),
    "mixed keys": ({"clip_l": numbers(2, 768), "text_encoders_1": numbers(2, 1280)}, "E-EMBEDDING .*one text encoder"),
    "counts": ({"clip_l": numbers(2, 768), "clip_g": numbers(3, 1280)}, "E-EMBEDDING .*has 2 and 3 vectors"),
    "none": ({"clip_l": numbers(0, 768), "clip_g": numbers(0, 1280)}, "E-EMBEDDING .*has 0 and 0 vectors"),
    "76": ({"clip_l": numbers(76, 8), "clip_g": numbers(76, 8)}, "E-EMBEDDING .*has 76 and 76 vectors.*1 to 75"),
    "one row": ({"clip_l": numbers(768), "clip_g": numbers(1280)}, "E-EMBEDDING .*holds no rows"),
    "integers": ({"clip_l": numbers(1, 8).astype("int32"), "clip_g": numbers(1, 8)}, "E-EMBEDDING .*clip_l I32 1x8"),
    "more": ({"clip_l": numbers(1, 8), "clip_g": numbers(1, 8), "x": numbers(1)}, "E-EMBEDDING .*such as 'x'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_files_that_are_no_embedding_for_sdxl_are_refused(tmp_path: Path, name: str) -> None:
    tensors, message = REFUSED[name]
    save_file(tensors, tmp_path / "style.safetensors")
    with pytest.raises(EmbeddingError, match=message):
        check_embedding_file(tmp_path / "style.safetensors", "style")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("key", ["clip_l", "clip_g"])
def test_numbers_that_are_none_are_refused(tmp_path: Path, key: str, value: float) -> None:
    tensors = {"clip_l": numbers(2, 768), "clip_g": numbers(2, 1280)}
    tensors[key][1, 5] = value
    save_file(tensors, tmp_path / "style.safetensors")
    with pytest.raises(DarkroomError, match=f"E-NANWEIGHT tensor '{key}'"):
        read_embedding(tmp_path / "style.safetensors", "style")


def test_a_checkpoint_and_a_lora_are_refused(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path / "checkpoint.safetensors")
    write_lora(tmp_path / "lora.safetensors")
    for name in ("checkpoint", "lora"):
        with pytest.raises(EmbeddingError, match=f"E-EMBEDDING embedding '{name}': has no 'clip_l' and 'clip_g' among"):
            check_embedding_file(tmp_path / f"{name}.safetensors", name)


def test_several_embeddings_bundled_with_a_lora_are_none_for_one_name(tmp_path: Path) -> None:
    vectors = {f"bundle_emb.{word}.clip_{end}": np.ones((1, 4), np.float32) for word in "ab" for end in "lg"}
    path = write_tensors(tmp_path / "x.safetensors", vectors)
    with pytest.raises(EmbeddingError, match="is a LoRA with 2 embeddings bundled in it"):
        check_embedding_file(path, "x")


def test_a_pickle_is_refused_unopened(tmp_path: Path) -> None:
    class Marker:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    (tmp_path / "style.pt").write_bytes(pickle.dumps(Marker()))
    with pytest.raises(DarkroomError, match="E-PICKLE embedding 'style': is a pickle"):
        read_embedding(tmp_path / "style.pt", "style")
    assert not (tmp_path / "ran").exists()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DarkroomError, match="embedding 'style'"):
        read_embedding(tmp_path / "style.safetensors", "style")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a photo of style", ["style"]),
        ("STYLE, a photo", ["style"]),
        ("a photo, (style:1.2).", ["style"]),
        ("style.", ["style"]),
        ("style-xl, style", ["style-xl", "style"]),  # the longest name that fits
        ("style-xl style-xl", ["style-xl"]),
        ("style.v2, style", ["style.v2", "style"]),
        ("stylex, restyle, style2, my_style, style-like", []),  # within other words
        ("embedding:style", ["style"]),
        ("Embedding:Style-XL and more", ["style-xl"]),
        ("embedding:style.safetensors", ["style"]),
        ("the end: embedding:style.", ["style"]),
        ("nothing", []),
    ],
)
def test_names_in_a_text(text: str, found: list[str]) -> None:
    assert find_embeddings(text, ("style", "style-xl", "style.v2")) == found


@pytest.mark.parametrize("text", ["embedding:stile", "a (embedding:styl:1.2)"])
def test_an_unknown_name_is_refused_with_the_near_ones(tokenizers: Any, encoders: Any, style: Any, text: str) -> None:
    with pytest.raises(EmbeddingError, match=r"E-EMBEDDING embedding '(stile|styl)': .*did you mean 'style'\?"):
        encode_prompt(tokenizers, encoders, text, embeddings={"style": style})


def test_an_unknown_name_is_refused_where_there_are_none(tokenizers: Any, encoders: Any) -> None:
    with pytest.raises(EmbeddingError, match="E-EMBEDDING embedding 'style'"):
        encode_prompt(tokenizers, encoders, "embedding:style", "")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("prompt", "same_as"),
    [
        ("a photo of embedding:style, snow", "a photo of zebra tiger, snow"),
        ("a photo of style, snow", "a photo of zebra tiger, snow"),
        ("Style", "zebra tiger"),
        ("a (style:1.4) [hill]", "a (zebra tiger:1.4) [hill]"),
        ("a ((embedding:style)), (fox, style:0.5)", "a ((zebra tiger)), (fox, zebra tiger:0.5)"),
        ("snow " * 76 + "style", "snow " * 76 + "zebra tiger"),
    ],
)
def test_vectors_act_as_tokens_of_the_table(
    tokenizers: Any, encoders: Any, style: Embedding, mode: Emphasis, prompt: str, same_as: str
) -> None:
    copies = with_stand_ins(tokenizers, encoders, style)
    result = encode_prompt(tokenizers, encoders, prompt, "owl, style", emphasis=mode, embeddings={"style": style})
    expected = encode_prompt(tokenizers, copies, same_as, "owl, zebra tiger", emphasis=mode)
    assert_same(result, expected)
    assert (result.prompt_tokens, result.negative_tokens) == (expected.prompt_tokens, expected.negative_tokens)
    plain = encode_prompt(tokenizers, encoders, same_as, "owl, zebra tiger", emphasis=mode)
    assert not result.prompt_embeds.equal(plain.prompt_embeds)


def test_vectors_reach_the_encoder_itself(tokenizers: Any, encoders: Any, style: Embedding) -> None:
    """Against the encoder's own forward, without anything of ours but the vectors."""
    import torch

    result = encode_prompt(tokenizers, encoders, "a style fox", embeddings={"style": style})
    copies = with_stand_ins(tokenizers, encoders, style)
    parts = []
    for tokenizer, encoder in zip(tokenizers, copies, strict=True):
        output = encoder(tokenizer("a zebra tiger fox", return_tensors="pt").input_ids, output_hidden_states=True)
        parts.append(output.hidden_states[-2])
    torch.testing.assert_close(result.prompt_embeds, torch.cat(parts, dim=-1), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(result.pooled_prompt_embeds, output[0], atol=1e-6, rtol=1e-6)


def test_several_embeddings_keep_their_own_vectors(tokenizers: Any, encoders: Any, style: Embedding) -> None:
    import torch

    mood = Embedding("mood", (torch.from_numpy(numbers(1, 4, seed=2)), torch.from_numpy(numbers(1, 6, seed=3))))
    copies = with_stand_ins(tokenizers, encoders, style, mood)
    known = {"style": style, "mood": mood}
    result = encode_prompt(tokenizers, encoders, "mood, style, mood", "style mood", embeddings=known)
    assert_same(result, encode_prompt(tokenizers, copies, "piano, zebra tiger, piano", "zebra tiger piano"))


def test_a1111_moves_an_embedding_that_would_be_cut(tokenizers: Any, encoders: Any, style: Embedding) -> None:
    copies = with_stand_ins(tokenizers, encoders, style)
    result = encode_prompt(
        tokenizers, encoders, "snow " * 74 + "style fox", emphasis="a1111", embeddings={"style": style}
    )
    expected = encode_prompt(tokenizers, copies, "snow " * 74 + "BREAK zebra tiger fox", emphasis="a1111")
    assert result.chunks == 2
    assert_same(result, expected)


@pytest.mark.parametrize("shapes", [((2, 5), (2, 6)), ((2, 4), (2, 7)), ((2, 768), (2, 1280))])
def test_vectors_of_another_width_are_refused(tokenizers: Any, encoders: Any, shapes: Any) -> None:
    import torch

    first, second = (torch.zeros(shape) for shape in shapes)
    message = f"E-EMBEDDING embedding 'wide': .*{shapes[0][1]} and {shapes[1][1]} numbers; this model needs 4 and 6"
    with pytest.raises(EmbeddingError, match=message):
        encode_prompt(tokenizers, encoders, "wide fox", embeddings={"wide": Embedding("wide", (first, second))})


@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_left_on_the_encoders(tokenizers: Any, encoders: Any, style: Embedding, mode: Emphasis) -> None:
    tables = [encoder.get_input_embeddings() for encoder in encoders]
    weights = [table.weight.clone() for table in tables]
    before = encode_prompt(tokenizers, encoders, "a zebra fox", "style", emphasis=mode)
    encode_prompt(tokenizers, encoders, "a (style:1.2) fox", "style", emphasis=mode, embeddings={"style": style})
    after = encode_prompt(tokenizers, encoders, "a zebra fox", "style", emphasis=mode)
    assert all(getattr(before, name).equal(getattr(after, name)) for name in TENSORS)
    assert all(table.weight.equal(weight) for table, weight in zip(tables, weights, strict=True))
    assert not any(table._forward_hooks for table in tables)


def test_nothing_is_left_after_a_failure(tokenizers: Any, encoders: Any, style: Embedding) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    table = encoders[0].get_input_embeddings()
    handle = encoders[0].register_forward_hook(fail)
    try:
        with pytest.raises(RuntimeError, match="out of memory"):
            encode_prompt(tokenizers, encoders, "style", embeddings={"style": style})
    finally:
        handle.remove()
    assert not table._forward_hooks
