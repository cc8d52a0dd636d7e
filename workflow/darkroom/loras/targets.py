"""The modules of a model that LoRAs can change, under every name that LoRA files use, and matching a LoRA to them.

The names follow from the model's own tensors, as in ComfyUI (comfy/lora.py), so they are right for every relative of
SDXL. A UNet's modules are known by Diffusers' names and by the original layout's, with
dots or, as sd-scripts writes them, with underscores.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from darkroom.checkpoint.header import Shape
from darkroom.checkpoint.keymap import UNET_PREFIX, Entry
from darkroom.checkpoint.layouts import TEXT_MODEL
from darkroom.errors import LoraError
from darkroom.loras.file import SHOWN, LoraFile
from darkroom.loras.kinds import ANY, LoraModule, PartsError, is_whole, magnitude_axis

Module = tuple[str, str]
"""Component and module; a text encoder's modules without `text_model.`, which some libraries leave out."""
LORA_COMPONENTS = ("unet", "text_encoder", "text_encoder_2")
_PEFT = "base_model.model."
_PREFIXES = (
    ("lora_unet_", "unet"),
    ("unet.", "unet"),
    ("oft_unet_", "unet"),  # sd-scripts
    ("diffusion_model.", "unet"),  # ComfyUI
    ("model.diffusion_model.", "unet"),
    ("lycoris_", "unet"),  # SimpleTuner
    ("lora_te1_", "text_encoder"),
    ("lora_te_", "text_encoder"),  # as diffusers and ComfyUI read it
    ("text_encoder.", "text_encoder"),
    ("text_encoders.clip_l.transformer.", "text_encoder"),
    ("clip_l.", "text_encoder"),  # OneTrainer
    ("lora_te2_", "text_encoder_2"),
    ("text_encoder_2.", "text_encoder_2"),
    ("text_encoders.clip_g.transformer.", "text_encoder_2"),
    ("clip_g.", "text_encoder_2"),
    ("", "unet"),
)
_OLD_NAMES = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}
"""The names of the layers of a text encoder's attention in older diffusers."""


class Targets:
    """The modules of a model with these tensors by component, and the shapes of their weights and biases."""

    def __init__(self, entries: Mapping[str, Sequence[Entry]]) -> None:
        self._shapes: dict[tuple[str, str], Shape] = {}
        self._modules: dict[str, dict[str, str]] = {component: {} for component in LORA_COMPONENTS}
        for component in LORA_COMPONENTS:
            for entry in entries.get(component, ()):
                tensor = entry.name.removeprefix(TEXT_MODEL)
                self._shapes[component, tensor] = entry.shape
                module, source = (name.rpartition(".")[0] for name in (tensor, entry.source.removeprefix(UNET_PREFIX)))
                for name in _unet_names(module, source) if component == "unet" else _text_names(module):
                    self._modules[component][_flat(name)] = module

    def find(self, name: str) -> Module | None:
        """The component and module that a LoRA file calls `name`, None if there is none."""
        for prefix, component in _PREFIXES:
            if name.startswith(prefix):
                module = self._modules[component].get(_flat(name.removeprefix(prefix).removeprefix(_PEFT)))
                if module is not None:
                    return component, module
        return None

    def shape(self, component: str, tensor: str) -> Shape | None:
        """The shape of a tensor such as `conv_in.weight`, None if the model has none of that name."""
        return self._shapes.get((component, tensor))


def _unet_names(module: str, source: str) -> Iterator[str]:
    yield from (module, source)
    if module.endswith(".to_out.0"):
        yield module.removesuffix(".0")
    parent, _, layer = module.rpartition(".to_")
    if parent:  # older diffusers kept the layers of LoRAs in attention's processors
        yield from (f"{parent}.processor.to_{layer}", f"{parent}.processor.to_{layer.removesuffix('.0')}")


def _text_names(module: str) -> Iterator[str]:
    parent, _, layer = module.rpartition(".")
    layers = [layer, _OLD_NAMES[layer]] if layer in _OLD_NAMES else [layer]
    for name in (f"{parent}.{layer}".removeprefix(".") for layer in layers):
        yield from (name, TEXT_MODEL + name)


def _flat(name: str) -> str:
    return name.replace(".", "_")


@dataclass(frozen=True, slots=True)
class Change:
    """A tensor of a component that `module` changes: a bias or a weight. `axis` is that of a DoRA's magnitudes."""

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
    return "none" if shape is None else "x".join("…" if size == ANY else str(size) for size in shape)
