"""The safetensors header: what is read and written, what is refused and why, and how little a broken one costs."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from darkroom.checkpoint.header import MAX_HEADER_BYTES, MAX_TENSORS, TensorInfo, encode_header, read_header
from darkroom.errors import FormatError
from tests.fixtures.tiers import full_except


def raw_file(path: Path, header: object, data: bytes = b"") -> Path:
    body = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(body).to_bytes(8, "little") + body + data)
    return path


def entry(dtype: str = "F16", shape: object = (2,), offsets: object = (0, 4)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_reads_what_it_wrote(tmp_path: Path) -> None:
    rows = [("b", "F32", (1, 2), 0, 8), ("ä", "F16", (), 8, 10), ("empty", "I64", (0, 3), 10, 10)]
    encoded = encode_header(rows, {"format": "pt"})
    (tmp_path / "x").write_bytes(encoded + bytes(10))
    header = read_header(tmp_path / "x")
    assert header.tensors["b"] == TensorInfo("F32", (1, 2), 0, 8)
    assert header.tensors["ä"].shape == ()
    assert header.metadata == {"format": "pt"}
    assert header.data_offset == len(encoded)
    assert len(encoded) % 8 == 0


def test_the_safetensors_library_reads_what_it_wrote(tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import load_file

    data = np.arange(3, dtype="<f2")
    (tmp_path / "x.safetensors").write_bytes(
        encode_header([("t", "F16", (3,), 0, 6)], {"format": "pt"}) + data.tobytes()
    )
    np.testing.assert_array_equal(load_file(tmp_path / "x.safetensors")["t"], data)


def raw_entry(dtype: bytes = b'"F16"', shape: bytes = b"[2]", offsets: bytes = b"[0,4]") -> bytes:
    return b'{"a":{"dtype":' + dtype + b',"shape":' + shape + b',"data_offsets":' + offsets + b"}}"


FAULTS: dict[str, tuple[object, bytes, str]] = {
    "overlap": ({"a": entry(), "b": entry(offsets=(2, 6))}, bytes(6), "'b' overlaps"),
    "gap": ({"a": entry(), "b": entry(offsets=(6, 10))}, bytes(10), "2 bytes before tensor 'b' belong to no tensor"),
    "gap at the start": ({"a": entry(offsets=(1, 5))}, bytes(5), "1 bytes before tensor 'a' belong to no tensor"),
    "tensor that ends within a number": ({"a": entry(offsets=(0, 3))}, bytes(3), "'a' of shape"),
    "truncated": ({"a": entry(shape=(200,), offsets=(0, 400))}, bytes(10), "'a' ends beyond"),
    "slightly truncated": ({"a": entry()}, bytes(3), "truncated"),
    "trailing": ({"a": entry()}, bytes(5), "1 bytes after"),
    "unknown dtype": ({"a": entry(dtype="F17")}, bytes(4), "'a' has the unknown dtype 'F17'"),
    "dtype that is a number": (raw_entry(dtype=b"16"), bytes(4), "'a' has a dtype that is not text"),
    "dtype that is deeply nested": (raw_entry(dtype=b"[" * 900 + b"]" * 900), bytes(4), "a header|'a' has a dtype"),
    "shape and bytes differ": ({"a": entry(shape=(3,))}, bytes(4), "'a' of shape"),
    "shape that overflows 64 bits": ({"a": entry(shape=(2**33, 2**33))}, bytes(4), "'a' of shape .* 64 bits"),
    "shape that overflows before it is 0": ({"a": entry(shape=(2**40, 2**40, 0), offsets=(0, 0))}, b"", "'a' of shape"),
    "shape times dtype that overflows": (raw_entry(b'"F64"', b"[2305843009213693952]", b"[0,0]"), b"", "'a' of shape"),
    "shape that is a number": ({"a": entry(shape=2)}, bytes(4), "'a' has a shape"),
    "shape of 17 dimensions": ({"a": entry(shape=[1] * 16 + [2])}, bytes(4), "'a' has a shape"),
    "negative shape": ({"a": entry(shape=(-1, -2))}, bytes(4), "'a' has a shape"),
    "minus zero as a size": (raw_entry(shape=b"[-0]", offsets=b"[0,0]"), b"", "'a' has a shape"),
    "true as a size": ({"a": entry(shape=(True, 2))}, bytes(4), "'a' has a shape"),
    "fraction as a size": ({"a": entry(shape=(2.0,))}, bytes(4), "'a' has a shape"),
    "exponent as a size": (raw_entry(shape=b"[2e0]"), bytes(4), "'a' has a shape"),
    "text as a size": ({"a": entry(shape=("2",))}, bytes(4), "'a' has a shape"),
    "offsets backwards": ({"a": entry(offsets=(4, 0))}, bytes(4), "'a' has data_offsets that are not a range"),
    "negative offsets": ({"a": entry(offsets=(-4, 0))}, bytes(4), "'a' has data_offsets"),
    "offsets of 2**63": ({"a": entry(offsets=(2**63, 2**63 + 4))}, bytes(4), "'a' has data_offsets"),
    "offsets of 2**64": ({"a": entry(offsets=(2**64, 2**64 + 4))}, bytes(4), "'a' has data_offsets"),
    "false as an offset": ({"a": entry(offsets=(False, 4))}, bytes(4), "'a' has data_offsets"),
    "fraction as an offset": ({"a": entry(offsets=(0.0, 4.0))}, bytes(4), "'a' has data_offsets"),
    "three offsets": ({"a": entry(offsets=(0, 2, 4))}, bytes(4), "'a' has data_offsets"),
    "no offsets": ({"a": {"dtype": "F16", "shape": [2]}}, bytes(4), "'a' lacks"),
    "one field too many": ({"a": entry() | {"code": "x"}}, bytes(4), "'a' lacks"),
    "tensor that is a list": ({"a": []}, b"", "'a' lacks"),
    "duplicate key": (b'{"a":{"dtype":"F16","shape":[0],"data_offsets":[0,0]},"a":{}}', b"", "'a' twice"),
    "duplicate key in other letters": (b'{"a":1,"\\u0061":2}', b"", "'a' twice"),
    "duplicate field": (raw_entry(dtype=b'"F16","dtype":"F16"'), bytes(4), "'dtype' twice"),
    "not JSON": (b'{"a": nonsense}', b"", "not valid JSON"),
    "NaN": (raw_entry(shape=b"[NaN]"), bytes(4), "not valid JSON"),
    "Infinity": (raw_entry(offsets=b"[0,-Infinity]"), bytes(4), "not valid JSON"),
    "not UTF-8": (b'{"a\xff": 1}', b"", "not valid JSON"),
    "surrogates in UTF-8": (b'{"a\xed\xa0\x80": 1}', b"", "not valid JSON"),
    "name that is half a sign": (raw_entry().replace(b'"a"', b'"a\\ud800"'), bytes(4), "names a tensor .* not text"),
    "control character": (b'{"a\x00": 1}', b"", "not valid JSON"),
    "deeply nested lists": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b"", "not valid JSON"),
    "deeply nested objects": (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, b"", "not valid JSON"),
    "a number of a million digits": (b'{"a":' + b"9" * 1_000_000 + b"}", b"", "not valid JSON"),
    "metadata that is not text": ({"__metadata__": {"a": 1}}, b"", "__metadata__"),
    "metadata that is a list": ({"__metadata__": ["a"]}, b"", "__metadata__"),
    "metadata that is half a sign": (b'{"__metadata__":{"a":"\\udfff"}}', b"", "__metadata__"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_19_a_broken_header_is_refused_and_says_where(fault: str, tmp_path: Path) -> None:
    header, data, why = FAULTS[fault]
    with pytest.raises(FormatError, match=why) as raised:
        read_header(raw_file(tmp_path / "x", header, data))
    assert str(raised.value).startswith(f"E-FORMAT checkpoint '{tmp_path / 'x'}': ")
    assert len(str(raised.value).replace(str(tmp_path), "")) < 600
    str(raised.value).encode()


@contextmanager
def allocating_at_most(count: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < count
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("end", [b"\0", b" ", b"}"])
@pytest.mark.parametrize("length", [MAX_HEADER_BYTES + 1, MAX_HEADER_BYTES, 2**39])
def test_fault_19_a_huge_header_allocates_nothing(length: int, end: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x"
    with path.open("wb") as file:
        file.write(length.to_bytes(8, "little") + b'{"a":{')
        file.truncate(MAX_HEADER_BYTES + 1000)  # sparse: large enough for the largest header allowed
        file.seek(8 + MAX_HEADER_BYTES - 1)
        file.write(end)
    with allocating_at_most(5_000_000), pytest.raises(FormatError):
        read_header(path)


def test_fault_19_a_header_too_long_or_cut_short_is_told_apart(tmp_path: Path) -> None:
    whole = encode_header([("a", "F16", (2,), 0, 4)], {"title": "x" * 1000})
    (tmp_path / "x").write_bytes(whole[:500])
    with pytest.raises(FormatError, match=f"claims a header of {len(whole) - 8:,} bytes but holds 500: .*truncated"):
        read_header(tmp_path / "x")
    (tmp_path / "x").write_bytes((MAX_HEADER_BYTES + 1).to_bytes(8, "little") + whole[8:])
    with pytest.raises(FormatError, match="claims a header of 100,000,001 bytes; at most 100,000,000"):
        read_header(tmp_path / "x")


@pytest.mark.parametrize("item", full_except([b"{},"], [b"[],", b"{},", b'{"":[]},', b"1,"]))
def test_fault_19_a_header_of_countless_items_is_not_parsed(item: bytes, tmp_path: Path) -> None:
    header = b'{"a":[' + item * (32 * MAX_TENSORS + 1) + b"1]}"
    with (
        allocating_at_most(3 * len(header) + 2_000_000),
        pytest.raises(FormatError, match="more items than 50,000 tensors"),
    ):
        read_header(raw_file(tmp_path / "x", header))


@pytest.mark.parametrize("shape", [(), (0,) * 16])
def test_the_limit_of_a_header_is_its_tensors_whatever_their_shapes(shape: tuple[int, ...], tmp_path: Path) -> None:
    size = 0 if shape else 1
    rows = [(f"t{i}", "U8", shape, i * size, (i + 1) * size) for i in range(MAX_TENSORS)]
    (tmp_path / "x").write_bytes(encode_header(rows, {"format": "pt"}) + bytes(MAX_TENSORS * size))
    assert len(read_header(tmp_path / "x").tensors) == MAX_TENSORS
    rows.append(("more", "U8", (0,), MAX_TENSORS * size, MAX_TENSORS * size))
    (tmp_path / "x").write_bytes(encode_header(rows, {}) + bytes(MAX_TENSORS * size))
    with pytest.raises(FormatError, match="has 50,001 tensors; at most 50,000"):
        read_header(tmp_path / "x")


def test_training_metadata_of_many_megabytes_is_read(tmp_path: Path) -> None:
    """sd-scripts writes every tag of a data set as JSON into one text."""
    tags = json.dumps({"train": {f'the "tag" \\ {i}': [i, {"n": 1}] for i in range(200_000)}})
    metadata = {"ss_tag_frequency": tags, "ss_network_dim": "4"}
    (tmp_path / "x").write_bytes(encode_header([("a", "F16", (2,), 0, 4)], metadata) + bytes(4))
    found = read_header(tmp_path / "x")
    assert (found.metadata, list(found.tensors)) == (metadata, ["a"])


def test_metadata_that_is_null_is_none(tmp_path: Path) -> None:
    from safetensors import safe_open

    path = raw_file(tmp_path / "x.safetensors", {"__metadata__": None, "a": entry()}, bytes(4))
    with safe_open(path, "numpy") as file:
        assert list(file.keys()) == ["a"]
    assert read_header(path).metadata == {}


@pytest.mark.parametrize("content", [b"", b"\0" * 4, b"\0" * 100, b"GGUF" + bytes(100), b"hello, this is text"])
def test_what_is_no_safetensors_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(FormatError):
        read_header(tmp_path / "x.safetensors")
