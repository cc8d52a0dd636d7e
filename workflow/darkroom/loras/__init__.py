"""LoRA files: their contents, the model they were made for, and the weights of a model that they change.

Takes a safetensors file and a model's tensors by component. Gives checked modules, and the changes they make by tensor.
Never computes a change (`darkroom.engine.loras` does) or imports torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from darkroom.loras.file import LoraFile, read_lora
else:
    from darkroom.base.lazy import attributes_of

    __getattr__ = attributes_of(__name__, {"file": ("LoraFile", "read_lora")})

__all__ = ["LoraFile", "read_lora"]
