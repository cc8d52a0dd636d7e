"""Where components are: on the device for good, or in turns, with their weights waiting in the machine's memory.

A component that takes its turn is copied to the device, and its turn ends by dropping the copy: the weights never change there,
so nothing is copied back. accelerate's hooks (`enable_model_cpu_offload`) copy 5 GB of a UNet back into fresh memory for each
picture, leave half a component on the device when memory runs out on the way, and keep a VAE that encoded a picture beside the
UNet; those of `vae.encode` leave the picture itself where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_Tensor = tuple[dict[str, Any], str, Any]
"""The dictionary of a module's parameters or buffers, a name in it, and the tensor in the machine's memory."""


class Placement:
    """Brings modules to `device` (such as `cuda:0`); with `takes_turns` only those in use are there."""

    def __init__(self, device: str, *, takes_turns: bool) -> None:
        self.device = device
        self.takes_turns = takes_turns
        self._there: dict[int, tuple[Any, list[_Tensor]]] = {}

    def bring(self, *modules: Any) -> None:
        """Have these modules on the device and, where modules take turns, no others.

        Raises torch.OutOfMemoryError; a module is then as a whole where it was.
        """
        if not self.takes_turns:
            for module in modules:
                module.to(self.device)
            return
        wanted = {id(module) for module in modules}
        self._drop(lambda key: key not in wanted)
        for module in modules:
            if id(module) not in self._there:
                self._there[id(module)] = (module, _copy(module, self.device))

    def clear(self) -> None:
        """End all turns."""
        self._drop(lambda _: True)

    @contextmanager
    def turn(self, module: Any) -> Iterator[None]:
        """Bring a module and, where modules take turns, end its turn afterwards."""
        try:
            self.bring(module)
            yield
        finally:
            self._drop(lambda key: key == id(module))

    def _drop(self, is_over: Callable[[int], bool]) -> None:
        over = [key for key in self._there if is_over(key)]
        for key in over:
            for tensors, name, kept in self._there.pop(key)[1]:
                tensors[name] = kept
        if over and self.device.startswith("cuda"):
            import torch

            torch.cuda.empty_cache()  # a UNet's blocks don't fit what a VAE asks for


def _copy(module: Any, device: str) -> list[_Tensor]:
    """Put copies on a device in the place of a module's tensors, all or none, and return the tensors."""
    import torch

    found = [
        (tensors, name, tensor)
        for part in module.modules()
        for tensors in (part._parameters, part._buffers)
        for name, tensor in tensors.items()
        if tensor is not None
    ]
    copies: dict[int, Any] = {}
    for _, _, tensor in found:
        if id(tensor) not in copies:  # a tensor may belong to two layers
            copy = tensor.data.to(device)
            is_parameter = isinstance(tensor, torch.nn.Parameter)
            copies[id(tensor)] = torch.nn.Parameter(copy, requires_grad=False) if is_parameter else copy
    for tensors, name, tensor in found:
        tensors[name] = copies[id(tensor)]
    return found
