"""Hundreds of random prompts give the numbers of the long-prompt community pipeline.

The numbers were made by make_golden.py with that pipeline itself. The quick tier runs a subset of the prompts that contains
every pair of features that occurs in any of them.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import pytest

from darkroom.checkpoint import convert
from darkroom.prompting import encode_prompt
from tests.fixtures.tiers import choose_pairwise
from tests.unit.prompting.encoders import DEMO, load_encoders
from tests.unit.prompting.golden import FILE, TENSORS, digest, draw_pairs, name_pair

CASES = json.loads(gzip.decompress(FILE.read_bytes()))
PAIRS = draw_pairs()
TOLERANCE = 5e-5
MARKS = ("(", "[", "\\", ":")


def features(case: dict[str, Any]) -> list[Hashable]:
    """For a prompt and its negative: approximate number of chunks, ASCII or not, and which characters of the grammar occur."""
    found: list[Hashable] = []
    for prompt in PAIRS[case["number"]]:
        found += [len(prompt.split()) // 70, prompt.isascii(), *(mark in prompt for mark in MARKS)]
    return found


QUICK = {case["number"] for case in choose_pairwise(CASES, features)}
PROMPTS = [
    pytest.param(case, id=case["name"], marks=() if case["number"] in QUICK else pytest.mark.full) for case in CASES
]


@pytest.fixture(scope="module")
def trained_encoders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """The demo checkpoint's."""
    folder: Path = tmp_path_factory.mktemp("demo") / "model"
    convert(DEMO, folder)
    return load_encoders(folder)


def test_the_prompts_are_those_that_the_file_was_made_from() -> None:
    assert [name_pair(PAIRS[case["number"]]) for case in CASES] == [case["name"] for case in CASES]
    assert len(CASES) >= 300


@pytest.mark.parametrize("case", PROMPTS)
def test_encoders_that_are_a_formula(tokenizers: Any, encoders: Any, case: dict[str, Any]) -> None:
    check(tokenizers, encoders, case, "tiny")


@pytest.mark.parametrize("case", PROMPTS)
def test_trained_encoders(tokenizers: Any, trained_encoders: Any, case: dict[str, Any]) -> None:
    check(tokenizers, trained_encoders, case, "demo")


def as_the_pipeline_reads(prompt: str) -> str:
    """The prompt with a backslash, which vanishes, where A1111 reads a weight with spaces and the pipeline reads text."""
    return re.sub(r":(?=\s+[+-]?[.\d]+\s*\)|[+-]?[.\d]+\s+\))", r":\\", prompt)


def check(tokenizers: Any, encoders: Any, case: dict[str, Any], name: str) -> None:
    result = encode_prompt(tokenizers, encoders, *map(as_the_pipeline_reads, PAIRS[case["number"]]))
    for tensor, golden in zip(TENSORS, case[name], strict=True):
        found = digest(getattr(result, tensor))
        assert found["shape"] == golden["shape"], tensor
        assert found["values"] == pytest.approx(golden["values"], abs=TOLERANCE, rel=0), tensor
        assert found["wave"] == pytest.approx(golden["wave"], abs=TOLERANCE, rel=0), tensor
