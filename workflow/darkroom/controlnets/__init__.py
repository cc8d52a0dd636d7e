"""ControlNet files: single ones and Union, for SDXL, in the layouts that they are shared in.

Takes a safetensors file. Gives its tensors under diffusers' names, checked for names, shapes and number formats, and the
architecture that they are of. Never reads weights into torch, copies a file, or runs a model: `darkroom.engine.controls` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from darkroom.controlnets.control_file import ControlFile, check_control_file, read_control_file
else:
    from darkroom.base.lazy import attributes_of

    __getattr__ = attributes_of(__name__, {"control_file": ("ControlFile", "check_control_file", "read_control_file")})

__all__ = ["ControlFile", "check_control_file", "read_control_file"]
