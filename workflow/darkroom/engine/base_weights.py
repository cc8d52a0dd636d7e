"""The weights of a model as its folder holds them, read again whenever one is to be changed or put back.

Nothing is kept in memory: a second copy of a UNet would take 5 GB. The files stay open, so that a folder which is
replaced by another of its name goes on giving the weights that the model was loaded from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from darkroom.checkpoint.header import TensorInfo
from darkroom.checkpoint.weights import find_variant, read_weights
from darkroom.engine.tensor_file import TensorFile
from darkroom.errors import ModelError
from darkroom.loras.targets import COMPONENTS, TEXT_MODEL


class BaseWeights:
    """The UNet's and the text encoders' tensors by component and name, a text encoder's without `text_model.`.

    Raises ModelError (E-MODEL, E-INDEX) and the CheckpointErrors for a folder whose weights can't be read.
    """

    def __init__(self, model_dir: Path) -> None:
        self._name = model_dir.name
        self._files: list[TensorFile] = []
        self._tensors: dict[tuple[str, str], tuple[TensorFile, TensorInfo]] = {}
        variant = find_variant(model_dir)
        for component in COMPONENTS:
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
