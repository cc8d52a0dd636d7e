"""Weights on their way to a device: the machine's memory holds a few tensors, never the model."""

from __future__ import annotations

from pathlib import Path

from benchmarks.measure import run_python
from darkroom.checkpoint.header import encode_header

COUNT, SIDE = 16, 2**12
_CODE = """
import sys
from pathlib import Path
from darkroom.checkpoint.header import read_header
from darkroom.engine.weights import TensorFile, WeightReader

class Files:
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
