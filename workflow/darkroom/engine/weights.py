"""The weights of a model folder: tensors read from open safetensors files, ahead in threads, or again to be put back.

A file is read through its descriptor, not mapped: another file under its name doesn't matter, its pages don't count as
the process's memory, and a file cut short is an error instead of a crash.

No tensor is kept in memory: a second copy of a UNet would take 5 GB. The files stay open, so that a folder that is
replaced by another of its name goes on giving the weights that the model was loaded from.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from darkroom.base.files import Stamp, file_stamp, read_range
from darkroom.checkpoint.header import TensorInfo
from darkroom.checkpoint.keymap import COMPONENTS, is_ignored
from darkroom.checkpoint.layouts import TEXT_MODEL
from darkroom.checkpoint.verify import VerifiedModel
from darkroom.engine.devices import torch_dtype
from darkroom.errors import ModelError
from darkroom.loras.targets import LORA_COMPONENTS

OnRead = Callable[[int, int], None]
"""Called with the bytes that have been read and those that there are."""
THREADS = 2
"""One waits for memory while the other computes; more would only share the same memory's speed."""
_PIECE_BYTES = 2**25  # large, since after each piece a thread waits for Python's lock, which imports hold for long
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
        """The file's stamp now, which differs from an earlier one if the file was written to."""
        return file_stamp(os.fstat(self._file))

    def read_as(self, info: TensorInfo, dtype: Any, buffer: Any, device: str = "cpu") -> Any:
        """A tensor on `device` as `dtype`, read by way of `buffer`, a tensor of bytes that holds whole elements.

        A kept buffer spares fresh memory for every tensor, which takes longer than converting it; of numbers that stay as they
        are, none is needed on the CPU. Raises as `read` does, and torch.OutOfMemoryError.
        """
        import torch

        kind = getattr(torch, _DTYPES[info.dtype])
        values = torch.empty(info.shape, dtype=dtype, device=device)
        flat, window = values.reshape(-1), buffer.view(kind)
        position = self._data_offset + info.start
        is_direct = device == "cpu" and dtype == kind
        for piece in flat.split(len(window)):
            here = piece.view(torch.uint8) if is_direct else buffer[: len(piece) * kind.itemsize]
            read_range(self._file, memoryview(here.numpy()), position)
            position += len(here)
            if not is_direct:
                piece.copy_(window[: len(piece)])
        return values

    def read(self, info: TensorInfo) -> Any:
        """A tensor on the CPU, in the file's number format. Raises OSError, and FormatError (E-FORMAT) past the end."""
        import torch

        data = torch.empty(info.end - info.start, dtype=torch.uint8)
        read_range(self._file, memoryview(data.numpy()), self._data_offset + info.start)
        return data.view(getattr(torch, _DTYPES[info.dtype])).reshape(info.shape)


class WeightFiles:
    """The weight files of a verified `model`, open.

    Raises ModelError (E-MODEL) for a file that can't be read or was replaced since the model was verified.
    """

    def __init__(self, model: VerifiedModel) -> None:
        self.model = model
        self._files = {
            relative: self._open(relative, header.data_offset, weights.found[relative])
            for weights in model.weights.values()
            for relative, header in weights.headers.items()
        }
        self._base = {
            (component, name.removeprefix(TEXT_MODEL)): (file, info)
            for component in LORA_COMPONENTS
            if component in model.entries
            for name, file, info in self.tensors(component)
        }

    def tensors(self, component: str) -> Iterator[tuple[str, TensorFile, TensorInfo]]:
        """A component's tensors by their classic names, in the order of the files."""
        names = self.model.names[component]
        for relative, header in self.model.weights[component].headers.items():
            for key, info in sorted(header.tensors.items(), key=lambda item: item[1].start):
                if not is_ignored(key):
                    yield names[key], self._files[relative], info

    def read(self, component: str, tensor: str) -> Any:
        """A tensor of the UNet or a text encoder (its name without `text_model.`) on the CPU, in its number format."""
        file, info = self._base[component, tensor]
        return file.read(info)

    def dtype(self, component: str, tensor: str) -> Any:
        """The number format in which the files hold a tensor."""
        import torch

        return getattr(torch, _DTYPES[self._base[component, tensor][1].dtype])

    def check(self) -> None:
        """Raise ModelError (E-MODEL) if a file was written to since the model was loaded: its old contents are gone."""
        if any(file.stamp() != file.opened for file in self._files.values()):
            raise self._error("its files were changed while it is in use")

    def _open(self, relative: str, data_offset: int, verified: os.stat_result) -> TensorFile:
        try:
            file = TensorFile(self.model.folder / relative, data_offset)
        except OSError as error:
            raise self._error(error.strerror or "can't be read") from None
        if file.opened != file_stamp(verified):
            raise self._error("its files were changed while it was loaded")
        return file

    def _error(self, why: str) -> ModelError:
        return ModelError("weights of", self.model.folder.name, why, "load the model again")


class WeightReader:
    """Reads all weights in threads from the start; `dtypes` are the components' number formats (`fp16`, `fp32`, `bf16`).

    Each piece of a tensor goes to `device` as soon as it is read: the machine's memory holds a piece for each thread, not the model.
    For a GPU the pieces are page-locked, from where it takes them itself; from other memory the driver would copy them into such a piece first.
    `on_read` is called in these threads, by one at a time.
    """

    def __init__(
        self, files: WeightFiles, dtypes: Mapping[str, str], on_read: OnRead | None = None, device: str = "cpu"
    ) -> None:
        self._on_read = on_read
        self._device = device
        self._done = 0
        self._dtypes = {component: torch_dtype(dtype) for component, dtype in dtypes.items()}
        self._read: dict[str, dict[str, Any]] = {component: {} for component in COMPONENTS}
        every = [(component, *found) for component in files.model.entries for found in files.tensors(component)]
        self._total = sum(info.end - info.start for *_, info in every)
        self._left = iter(every)
        self._lock = threading.Lock()
        pool = ThreadPoolExecutor(THREADS, thread_name_prefix="weights")
        self._threads: list[Future[None]] = [pool.submit(self._read_all) for _ in range(THREADS)]
        pool.shutdown(wait=False)

    def take(self, component: str) -> dict[str, Any]:
        """A component's tensors by their classic names, once all are read; each component can be taken once.

        Raises OSError and FormatError (E-FORMAT) for a file that can't be read to its end, and torch.OutOfMemoryError.
        """
        for thread in self._threads:
            thread.result()
        return self._read.pop(component)

    def _read_all(self) -> None:
        import torch

        buffer = torch.empty(_PIECE_BYTES, dtype=torch.uint8, pin_memory=self._device.startswith("cuda"))
        while True:
            with self._lock:
                left = next(self._left, None)
            if left is None:
                return
            component, name, file, info = left
            self._read[component][name] = file.read_as(info, self._dtypes[component], buffer, self._device)
            if self._on_read is not None:
                with self._lock:
                    self._done += info.end - info.start
                    self._on_read(self._done, self._total)
