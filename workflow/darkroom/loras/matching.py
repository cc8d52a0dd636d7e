"""Which of a model's tensors a LoRA changes: all of the LoRA, or an error that says what doesn't fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from darkroom.checkpoint.header import Shape
from darkroom.errors import LoraError
from darkroom.loras.file import SHOWN, LoraFile
from darkroom.loras.kinds import LoraModule, PartsError, is_whole, magnitude_axis
from darkroom.loras.targets import Module, Targets


@dataclass(frozen=True, slots=True)
class Change:
    """A tensor of a component that `module` changes: its bias or its weight, of which `axis` is that of magnitudes."""

    component: str
    tensor: str
    module: LoraModule
    is_bias: bool
    axis: int | None


def match(lora: LoraFile, targets: Targets) -> list[Change]:
    """Every change that the LoRA makes. Raises LoraError (E-LORA) if any of its modules has no place in the model."""
    changes: list[Change] = []
    misfits: list[str] = []
    owners: dict[Module, str] = {}
    for module in lora.modules:
        target = targets.find(module.name)
        if target is None:
            misfits.append(f"'{module.name[:120]}'")
            continue
        if target in owners:
            why = f"changes {'.'.join(target)} twice, as '{owners[target][:120]}' and '{module.name[:120]}'"
            raise LoraError("LoRA", lora.name, why, "use another version of it")
        owners[target] = module.name
        try:
            changes += _changes(module, target, targets)
        except PartsError as error:
            misfits.append(f"'{module.name[:120]}', which {error}")
    if misfits:
        raise _misfit(lora, misfits)
    return changes


def _changes(module: LoraModule, target: Module, targets: Targets) -> Iterator[Change]:
    component, name = target
    for tensor, found, is_bias in ((f"{name}.weight", module.shape, False), (f"{name}.bias", module.bias_shape, True)):
        if found is None:
            continue
        needed = targets.shape(component, tensor)
        if needed is None or not is_whole(found, needed):
            what = "bias" if is_bias else "weight"
            raise PartsError(f"is for a {what} of {_text(found)}; this model has {_text(needed)}")
        yield Change(component, tensor, module, is_bias, None if is_bias else magnitude_axis(module, needed))


def _misfit(lora: LoraFile, misfits: list[str]) -> LoraError:
    total = len(lora.modules)
    left = f" and {len(misfits) - SHOWN} more" if len(misfits) > SHOWN else ""
    made = f"; it was made for {lora.base}" if lora.base else ""
    why = f"{total - len(misfits)} of {total} modules fit this model{made}; not {', '.join(misfits[:SHOWN])}{left}"
    return LoraError("LoRA", lora.name, why, "use a LoRA that was made for this model's kind")


def _text(shape: Shape | None) -> str:
    return "none" if shape is None else "x".join(map(str, shape))
