"""The weights of a model folder: tensors read from open safetensors files, ahead in threads, or again to be put back.

The file is read through its descriptor, not mapped: what takes its place under its name doesn't matter, pages of it
don't count as the process's memory, and a file cut short is an error instead of a crash.

Nothing is kept in memory: a second copy of a UNet would take 5 GB. The files stay open, so that a folder which is
replaced by another of its name goes on giving the weights that the model was loaded from.
"""

from __future__ import annotations

import json
import os
import threading
import weakref
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darkroom.base.files import Stamp, file_stamp, read_range
from darkroom.checkpoint.header import TensorInfo
from darkroom.checkpoint.keymap import COMPONENTS, component_entries, is_ignored
from darkroom.checkpoint.layouts import classic_names
from darkroom.checkpoint.weights import find_variant, read_weights
from darkroom.engine.devices import torch_dtype
from darkroom.errors import ModelError
from darkroom.loras.targets import LORA_COMPONENTS, TEXT_MODEL

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


class BaseWeights:
    """The UNet's and the text encoders' tensors by component and name, a text encoder's without `text_model.`.

    Raises ModelError (E-MODEL, E-INDEX) and the CheckpointErrors for a folder whose weights can't be read.
    """

    def __init__(self, model_dir: Path) -> None:
        self._name = model_dir.name
        self._files: list[TensorFile] = []
        self._tensors: dict[tuple[str, str], tuple[TensorFile, TensorInfo]] = {}
        variant = find_variant(model_dir)
        for component in LORA_COMPONENTS:
            for relative, header in read_weights(model_dir, component, variant).headers.items():
                try:
                    file = TensorFile(model_dir / relative, header.data_offset)
                except OSError as error:
                    raise self._error(error.strerror or "can't be read") from None
                self._files.append(file)
                for name, info in header.tensors.items():
                    self._tensors[component, name.removeprefix(TEXT_MODEL)] = (file, info)

    def check(self) -> None:
        """Raise ModelError (E-MODEL) if a file was written to since the model was loaded: what it held is gone."""
        if any(file.stamp() != file.opened for file in self._files):
            raise self._error("its files were changed while it is in use")

    def read(self, component: str, tensor: str) -> Any:
        """A tensor on the CPU, in the folder's number format."""
        file, info = self._tensors[component, tensor]
        return file.read(info)

    def _error(self, why: str) -> ModelError:
        return ModelError("weights of", self._name, why, "load the model again")


THREADS = 2
"""One waits for memory while the other computes; more only share the same memory's speed."""
_PIECE_BYTES = 2**25  # large, since after each piece a thread waits for Python's lock, which imports hold for long


@dataclass(frozen=True, slots=True)
class _Tensor:
    component: str
    name: str
    file: TensorFile
    info: TensorInfo


class Weights:
    """Begins to read at once. `dtypes` gives each component's number format: `fp16`, `fp32` or `bf16`.

    Raises ModelError (E-MODEL, E-INDEX) and the CheckpointErrors for a folder whose weights can't be read.
    """

    def __init__(self, model_dir: Path, dtypes: Mapping[str, str]) -> None:
        self._dtypes = {component: torch_dtype(dtype) for component, dtype in dtypes.items()}
        self._read: dict[str, dict[str, Any]] = {component: {} for component in COMPONENTS}
        self._left = iter(_list_tensors(model_dir))
        self._lock = threading.Lock()
        pool = ThreadPoolExecutor(THREADS, thread_name_prefix="weights")
        self._threads: list[Future[None]] = [pool.submit(self._read_all) for _ in range(THREADS)]
        pool.shutdown(wait=False)

    def take(self, component: str) -> dict[str, Any]:
        """A component's tensors on the CPU by their classic names, once all are read; they can be taken once.

        Raises OSError and FormatError (E-FORMAT) for a file that can't be read to its end.
        """
        for thread in self._threads:
            thread.result()
        return self._read.pop(component)

    def _read_all(self) -> None:
        import torch

        buffer = torch.empty(_PIECE_BYTES, dtype=torch.uint8)
        while True:
            with self._lock:
                tensor = next(self._left, None)
            if tensor is None:
                return
            values = tensor.file.read_as(tensor.info, self._dtypes[tensor.component], buffer)
            self._read[tensor.component][tensor.name] = values


def _list_tensors(model_dir: Path) -> list[_Tensor]:
    """Every tensor that a component needs, in the order of the files."""
    found, variant = [], find_variant(model_dir)
    for component in COMPONENTS:
        config = json.loads((model_dir / component / "config.json").read_bytes())
        expected = {entry.name: entry.shape for entry in component_entries(component, config)}
        weights = read_weights(model_dir, component, variant)
        names = classic_names(component, weights.tensors, expected)
        for relative, header in weights.headers.items():
            file = TensorFile(model_dir / relative, header.data_offset)
            tensors = sorted(header.tensors.items(), key=lambda item: item[1].start)
            found += [_Tensor(component, names[key], file, info) for key, info in tensors if not is_ignored(key)]
    return found
