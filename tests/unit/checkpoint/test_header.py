"""The safetensors header: what is refused, with which code, and that nothing in a file is executed."""

from __future__ import annotations

import json
import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from darkroom.checkpoint.header import MAX_HEADER_BYTES, TensorInfo, encode_header, read_header
from darkroom.errors import FormatError, NotWeightsError, PickleError


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


FAULTS = {
    "overlap": ({"a": entry(), "b": entry(offsets=(2, 6))}, bytes(6), "'b' overlaps"),
    "gap": ({"a": entry(), "b": entry(offsets=(6, 10))}, bytes(10), "belong to no tensor"),
    "truncated": ({"a": entry(shape=(200,), offsets=(0, 400))}, bytes(10), "'a' ends beyond"),
    "slightly truncated": ({"a": entry()}, bytes(3), "truncated"),
    "trailing": ({"a": entry()}, bytes(5), "1 bytes after"),
    "unknown dtype": ({"a": entry(dtype="F17")}, bytes(4), "unknown dtype 'F17'"),
    "shape and bytes differ": ({"a": entry(shape=(3,))}, bytes(4), "'a' of shape"),
    "shape that overflows 64 bits": ({"a": entry(shape=(2**33, 2**33))}, bytes(4), "'a' of shape"),
    "negative shape": ({"a": entry(shape=(-1, -2))}, bytes(4), "not a list of sizes"),
    "true as a size": ({"a": entry(shape=(True, 2))}, bytes(4), "not a list of sizes"),
    "offsets backwards": ({"a": entry(offsets=(4, 0))}, bytes(4), "not a range"),
    "no offsets": ({"a": {"dtype": "F16", "shape": [2]}}, bytes(4), "lacks"),
    "duplicate key": (b'{"a":{"dtype":"F16","shape":[0],"data_offsets":[0,0]},"a":{}}', b"", "'a' twice"),
    "not JSON": (b'{"a": nonsense}', b"", "not valid JSON"),
    "not UTF-8": (b'{"a\xff": 1}', b"", "not valid JSON"),
    "deeply nested": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b"", "not valid JSON"),
    "a number of a million digits": (b'{"a":' + b"9" * 1_000_000 + b"}", b"", "not valid JSON"),
    "metadata that is not text": ({"__metadata__": {"a": 1}}, b"", "__metadata__"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_header_is_refused(fault: str, tmp_path: Path) -> None:
    header, data, why = FAULTS[fault]
    with pytest.raises(FormatError, match=why):
        read_header(raw_file(tmp_path / "x", header, data))


@pytest.mark.parametrize("length", [MAX_HEADER_BYTES + 1, MAX_HEADER_BYTES, 2**39])
def test_an_absurd_header_length_allocates_nothing(length: int, tmp_path: Path) -> None:
    path = tmp_path / "x"
    with path.open("wb") as file:
        file.write(length.to_bytes(8, "little") + b"{")
        file.truncate(MAX_HEADER_BYTES + 1000)  # sparse: large enough for the largest header allowed
    tracemalloc.start()
    try:
        with pytest.raises(FormatError):
            read_header(path)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("content", [b"", b"\0" * 4, b"\0" * 100, b"GGUF" + bytes(100), b"hello, this is text"])
def test_what_is_no_safetensors_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(FormatError):
        read_header(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"<!DOCTYPE html><html><body>Log in</body></html>", "HTML"),
        (b"\n\n <html>", "HTML"),
        (b'{"error": "Unauthorized"}', "JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "LFS"),
    ],
)
def test_a_page_instead_of_weights_is_told_apart(content: bytes, word: str, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(NotWeightsError, match=word):
        read_header(tmp_path / "x.safetensors")


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("ending", ["ckpt", "safetensors"])
def test_a_pickle_is_refused_whatever_its_ending_and_not_run(protocol: int, ending: str, tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / f"x.{ending}"
    path.write_bytes(pickle.dumps(Canary(canary), protocol=protocol))
    with pytest.raises(PickleError):
        read_header(path)
    assert not canary.exists()


def test_a_torch_zip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"PK\x03\x04" + bytes(500))
    with pytest.raises(PickleError):
        read_header(tmp_path / "x.safetensors")
