"""The weights of a model folder, read in threads of their own while the libraries that need them are being imported."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darkroom.checkpoint.header import TensorInfo
from darkroom.checkpoint.keymap import COMPONENTS, component_entries, is_ignored
from darkroom.checkpoint.verify import classic_names
from darkroom.checkpoint.weights import find_variant, read_weights
from darkroom.engine.devices import torch_dtype
from darkroom.engine.tensor_file import TensorFile

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
