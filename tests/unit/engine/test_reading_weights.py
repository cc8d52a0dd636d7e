"""Weights on their way to a device: the machine's memory holds a few tensors, never the model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.measure import run_python
from darkroom.checkpoint.header import TensorInfo, encode_header, read_header
from darkroom.checkpoint.keymap import COMPONENTS
from darkroom.engine import weights
from darkroom.engine.devices import torch_dtype
from darkroom.engine.weights import THREADS, TensorFile, WeightReader

COUNT, SIDE = 16, 2**12
_CODE = """
import sys
from pathlib import Path
from types import SimpleNamespace
from darkroom.checkpoint.header import read_header
from darkroom.engine.weights import TensorFile, WeightReader

class Files:
    model = SimpleNamespace(entries=["unet"])

    def tensors(self, component):
        header = read_header(Path(sys.argv[1]))
        file = TensorFile(Path(sys.argv[1]), header.data_offset)
        if component == "unet":
            yield from ((name, file, info) for name, info in header.tensors.items())

formats = dict.fromkeys(("unet", "vae", "text_encoder", "text_encoder_2"), "fp16")
taken = WeightReader(Files(), formats, device=sys.argv[2]).take("unet")
assert len(taken) == 16 and {tensor.device.type for tensor in taken.values()} == {sys.argv[2]}
"""


def test_a_device_gets_each_tensor_as_soon_as_it_is_read(tmp_path: Path) -> None:
    """A file of 16 tensors of 32 MiB, of holes; torch's meta device takes tensors and needs no memory for them."""
    size = SIDE * SIDE * 2
    rows = [(f"t{i}", "F16", (SIDE, SIDE), i * size, (i + 1) * size) for i in range(COUNT)]
    head = encode_header(rows, {})
    path = tmp_path / "weights.safetensors"
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + COUNT * size)
    peaks = {device: run_python(_CODE, path, device)[1] for device in ("meta", "cpu")}
    assert peaks["cpu"] - peaks["meta"] > 0.5 * COUNT * size / 1e6


@pytest.mark.parametrize(("stored", "dtype"), [("F16", "fp16"), ("F32", "fp16"), ("F16", "fp32"), ("BF16", "fp16")])
def test_a_gpu_takes_the_numbers_from_page_locked_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: str, dtype: str
) -> None:
    """CUDA is a stand-in: the device's tensors are the CPU's, and page-locked memory is noted instead of locked."""
    locked, own = list[int](), torch.empty

    def empty(*size: Any, device: str = "cpu", pin_memory: bool = False, **more: Any) -> torch.Tensor:
        made = own(*size, **more)
        locked.extend([made.nbytes] * pin_memory)
        return made

    monkeypatch.setattr(torch, "empty", empty)
    monkeypatch.setattr(weights, "_PIECE_BYTES", 2**10)
    kind = {"F16": torch.float16, "F32": torch.float32, "BF16": torch.bfloat16}[stored]
    numbers = torch.randn(3, 1000, generator=torch.Generator().manual_seed(1)).to(kind)
    path = tmp_path / "weights.safetensors"
    save_file({"a": numbers, "b": numbers[0].clone(), "c": numbers[0, :0].clone()}, path)
    header = read_header(path)
    file = TensorFile(path, header.data_offset)

    class Files:
        model = SimpleNamespace(entries=["unet"])

        def tensors(self, component: str) -> Iterator[tuple[str, TensorFile, TensorInfo]]:
            if component == "unet":
                yield from ((name, file, info) for name, info in header.tensors.items())

    reader = WeightReader(Files(), dict.fromkeys(COMPONENTS, dtype), device="cuda:0")  # type: ignore[arg-type]
    taken = reader.take("unet")
    assert locked == [2**10] * THREADS
    assert taken["a"].equal(numbers.to(torch_dtype(dtype))) and taken["b"].equal(taken["a"][0])
    assert taken["c"].shape == (0,)
