"""The header parser against any file: what is read is exact, and everything else is refused in one way only."""

from __future__ import annotations

import json
import math
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkroom.checkpoint.header import DTYPE_BYTES, Shape, TensorInfo, encode_header, read_header
from darkroom.errors import CheckpointError
from tests.fuzz.invariants import ACCEPTED, examine
from tests.fuzz.mutators import mutate, valid_file

NAMES = st.text(min_size=0, max_size=40).filter(lambda name: name != "__metadata__")
SHAPES = st.lists(st.integers(0, 4), max_size=5).map(tuple)
TENSORS = st.dictionaries(NAMES, st.tuples(st.sampled_from(sorted(DTYPE_BYTES)), SHAPES), max_size=6)
NUMBERS = st.one_of(st.integers(-(2**70), 2**70), st.integers(-4, 40), st.sampled_from([2**31, 2**63, 2**64]))
JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), NUMBERS, st.floats(), st.text(max_size=5), st.sampled_from(sorted(DTYPE_BYTES))
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "a"]), inner, max_size=4),
    ),
    max_leaves=12,
)
ENTRIES = st.fixed_dictionaries(
    {"dtype": st.sampled_from(["F16", "F32", "U8", "X"]) | JSON}
    | {"shape": st.lists(NUMBERS, max_size=3) | JSON, "data_offsets": st.lists(NUMBERS, min_size=2, max_size=2) | JSON}
)


def examples(count: int) -> settings:
    """The same ones in every run, however slow; tests/fuzz looks for new ones."""
    return settings(max_examples=count, deadline=None, derandomize=True)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file for all examples; each writes it anew."""
    return tmp_path_factory.mktemp("headers") / "x.safetensors"


def layout(tensors: dict[str, tuple[str, Shape]]) -> dict[str, TensorInfo]:
    """The tensors one after the other."""
    found, position = {}, 0
    for name, (dtype, shape) in tensors.items():
        end = position + DTYPE_BYTES[dtype] * math.prod(shape)
        found[name] = TensorInfo(dtype, shape, position, end)
        position = end
    return found


@examples(100)
@given(tensors=TENSORS, metadata=st.dictionaries(st.text(max_size=20), st.text(max_size=200)), order=st.randoms())
def test_what_is_written_is_read_as_the_same(
    path: Path, tensors: dict[str, tuple[str, Shape]], metadata: dict[str, str], order: random.Random
) -> None:
    expected = layout(tensors)
    rows = [(name, t.dtype, t.shape, t.start, t.end) for name, t in expected.items()]
    order.shuffle(rows)
    encoded = encode_header(rows, metadata)
    content = encoded + bytes(max((t.end for t in expected.values()), default=0))
    assert examine(path, content) == ACCEPTED
    path.write_bytes(content)
    header = read_header(path)
    assert (header.tensors, header.metadata, header.data_offset) == (expected, metadata, len(encoded))


@examples(200)
@given(chance=st.randoms(use_true_random=False))
def test_a_mutated_file_is_read_exactly_or_refused(path: Path, chance: random.Random) -> None:
    examine(path, mutate(valid_file(chance), chance, valid_file(chance)))


@examples(200)
@given(header=st.dictionaries(NAMES, ENTRIES | JSON, max_size=3), data=st.binary(max_size=16))
def test_any_json_object_is_read_exactly_or_refused(path: Path, header: dict[str, Any], data: bytes) -> None:
    body = json.dumps(header).encode()
    examine(path, len(body).to_bytes(8, "little") + body + data)


@examples(100)
@given(content=st.binary(max_size=64) | st.binary(max_size=64).map(lambda body: bytes([len(body), *[0] * 7]) + body))
def test_any_bytes_are_read_exactly_or_refused(path: Path, content: bytes) -> None:
    examine(path, content)


@examples(50)
@given(claimed=st.integers(0, 2**64 - 1) | st.integers(0, 10**8 + 9), size=st.integers(0, 3 * 10**8), end=st.booleans())
def test_fault_19_the_size_that_a_header_claims_is_never_allocated(
    path: Path, claimed: int, size: int, end: bool
) -> None:
    with path.open("wb") as file:
        file.write(claimed.to_bytes(8, "little") + b'{"a":')
        file.truncate(max(13, size))  # sparse, so that it costs no disk
        if end and 13 < 8 + claimed <= size:
            file.seek(7 + claimed)
            file.write(b"}")
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError):
            read_header(path)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
