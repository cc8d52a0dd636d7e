"""Reading single tensors from an open safetensors file.

The file is read through its descriptor, not mapped: what takes its place under its name doesn't matter, pages of it
don't count as the process's memory, and a file cut short is an error instead of a crash.
"""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import Any

from darkroom.checkpoint.byte_ranges import read_range
from darkroom.checkpoint.header import TensorInfo
from darkroom.loras.file import Stamp, file_stamp

_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}


class TensorFile:
    """An open file whose data begins at `data_offset`; it is closed when nothing holds it any more.

    Raises OSError if it can't be opened.
    """

    def __init__(self, path: Path, data_offset: int) -> None:
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._data_offset = data_offset
        self.close = weakref.finalize(self, os.close, self._file)
        self.opened = self.stamp()

    def stamp(self) -> Stamp:
        """Tells, beside an earlier one, whether the file was written to since."""
        return file_stamp(os.fstat(self._file))

    def read_as(self, info: TensorInfo, dtype: Any, buffer: Any) -> Any:
        """A tensor on the CPU as `dtype`, by way of `buffer`, a tensor of bytes that holds any number of whole elements.

        A kept buffer spares fresh memory for every tensor, which takes longer than converting it. Raises as `read` does.
        """
        import torch

        kind = getattr(torch, _DTYPES[info.dtype])
        values = torch.empty(info.shape, dtype=dtype)
        flat, window = values.reshape(-1), buffer.view(kind)
        position = self._data_offset + info.start
        for piece in flat.split(len(window)):
            here = piece.view(torch.uint8) if dtype == kind else buffer[: len(piece) * kind.itemsize]
            read_range(self._file, memoryview(here.numpy()), position)
            position += len(here)
            if dtype != kind:
                piece.copy_(window[: len(piece)])
        return values

    def read(self, info: TensorInfo) -> Any:
        """A tensor on the CPU, in the file's number format. Raises OSError, and FormatError (E-FORMAT) past the end."""
        import torch

        data = torch.empty(info.end - info.start, dtype=torch.uint8)
        read_range(self._file, memoryview(data.numpy()), self._data_offset + info.start)
        return data.view(getattr(torch, _DTYPES[info.dtype])).reshape(info.shape)
