"""LoRA files: what is in one, which model it was made for, which weights of a model it changes. All without torch."""

from __future__ import annotations

from darkroom.loras.file import LoraFile, read_lora

__all__ = ["LoraFile", "read_lora"]
