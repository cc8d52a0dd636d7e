"""Which embeddings a prompt names."""

from __future__ import annotations

import subprocess
import sys

import pytest

from darkroom.errors import EmbeddingError
from darkroom.prompting.grammar import find_embeddings

NAMES = ("easyneg", "easyneg-v2", "cat", "bad", "bad.hands_5")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("a red fox", []),
        ("easyneg, fox", ["easyneg"]),
        ("fox, EasyNeg.", ["easyneg"]),
        ("(easyneg:1.2), [cat]", ["easyneg", "cat"]),
        ("embedding:easyneg", ["easyneg"]),
        ("(embedding:easyneg:1.2)", ["easyneg"]),
        ("Embedding:EasyNeg.", ["easyneg"]),
        ("embedding:easyneg.safetensors, fox", ["easyneg"]),
        ("embedding:bad.hands_5 and bad.hands_5", ["bad.hands_5"]),
        ("easyneg-v2", ["easyneg-v2"]),  # the longest name, and it alone
        ("embedding:easyneg-v2, easyneg", ["easyneg-v2", "easyneg"]),
        ("category, concat, cat2, cat_2, cat-like, écat, éasyneg", []),
        ("cat's", ["cat"]),
        ("fox,cat,hill", ["cat"]),
        ("cat BREAK easyneg", ["cat", "easyneg"]),
        ("an embedding: cat", ["cat"]),
        ("textembedding:fox", []),
        (r"embedding\:cat, ea\syneg", ["cat", "easyneg"]),  # as the grammar reads it
        ("<lora:cat:0.8> fox", []),
    ],
)
def test_names_are_found_as_words(text: str, found: list[str]) -> None:
    assert find_embeddings(text, NAMES) == found


def test_the_name_is_given_back_as_it_is_configured() -> None:
    assert find_embeddings("easyneg", ("EasyNeg",)) == ["EasyNeg"]


def test_break_is_no_embedding() -> None:
    assert find_embeddings("a BREAK b, break", ("break",)) == ["break"]
    assert find_embeddings("a BREAK b", ("break",)) == []


FREE = ("Dark Style (v1.2)", "[Pony] neon", "暗黒スタイル", "Dark", "easy")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (r"a fox, Dark Style \(v1.2\), x", ["Dark Style (v1.2)"]),
        (r"(dark style \(v1.2\):1.3)", ["Dark Style (v1.2)"]),
        (r"embedding:Dark Style \(v1.2\) fox", ["Dark Style (v1.2)"]),
        (r"\[Pony\] neon, easy", ["[Pony] neon", "easy"]),
        ("狐、暗黒スタイル、夜", ["暗黒スタイル"]),
        ("狐、embedding:暗黒スタイル、夜", ["暗黒スタイル"]),
        ("embedding:easy.safetensors, dark", ["easy", "Dark"]),
    ],
)
def test_names_may_hold_spaces_brackets_and_letters_of_all_scripts(text: str, found: list[str]) -> None:
    assert find_embeddings(text, FREE) == found


def test_an_unknown_name_in_another_script_is_refused_too() -> None:
    with pytest.raises(EmbeddingError, match="'暗黒': there is none of that name"):
        find_embeddings("embedding:暗黒", FREE)


@pytest.mark.parametrize("text", ["embedding:easynge", "a (embedding:easynge:1.2)", "Embedding:EasyNge."])
def test_an_unknown_name_is_refused_with_the_near_ones(text: str) -> None:
    with pytest.raises(EmbeddingError, match=r"E-EMBEDDING embedding '(?i:easynge)\.?'.*did you mean 'easyneg"):
        find_embeddings(text, NAMES)


def test_with_no_embeddings_at_all_an_explicit_name_is_refused() -> None:
    with pytest.raises(EmbeddingError, match="list it under embeddings"):
        find_embeddings("embedding:cat", ())


def test_looking_for_names_imports_no_torch() -> None:
    code = "import sys, darkroom.prompting.grammar as names; names.find_embeddings('cat', ('cat',))"
    subprocess.run([sys.executable, "-c", f"{code}; sys.exit('torch' in sys.modules)"], check=True)
