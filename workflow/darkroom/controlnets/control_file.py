"""Reading a ControlNet's file: its layout, its architecture, and where each of its tensors lies.

Both layouts hold the same numbers under other names, so nothing is converted: the engine reads each tensor's bytes from where they
are. A file is checked by its header, and for NaN by its bytes when it is fetched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from darkroom.base.files import read_pieces
from darkroom.checkpoint.architectures import fits
from darkroom.checkpoint.families import describe_family
from darkroom.checkpoint.header import Header, Shape, TensorInfo, read_header
from darkroom.checkpoint.keymap import Entry
from darkroom.checkpoint.layouts import unwrap
from darkroom.checkpoint.numbers import CONVERTIBLE, holds_nonfinite
from darkroom.controlnets.control_layers import (
    ControlLayers,
    Layout,
    control_entries,
    find_family,
    find_layout,
    read_layers,
)
from darkroom.errors import CheckpointError, ControlError, FormatError, KeysError, NanWeightError

_PREFIX = "control_model."
_ANOTHER = "use a ControlNet for SDXL, single or Union"
_OTHER_KINDS = (
    ("lora_controlnet", "a Control-LoRA, which changes a copy of the UNet instead of having one"),
    ("lllite_", "a ControlNet-LLLite, which has no ControlNet's layers"),
    ("ctrl_", "a ControlNet-XS, which has no ControlNet's layers"),
)
"""Kinds that are called ControlNets too, by the beginning of a tensor's name."""


@dataclass(frozen=True, slots=True)
class ControlFile:
    """A checked file: `tensors` are by diffusers' names, their bytes counted from `data_offset`, and `shapes` as diffusers' are.

    `layout` is what the names in the file are.
    """

    path: Path
    name: str
    layout: Layout
    layers: ControlLayers
    tensors: Mapping[str, TensorInfo]
    shapes: Mapping[str, Shape]
    data_offset: int


def read_control_file(path: Path, name: str) -> ControlFile:
    """The ControlNet at `path`, by its header; errors call it `name`.

    Raises ControlError (E-CONTROL) for a file of another kind or for another family, KeysError (E-KEYS) for tensors that are
    missing, left over or of the wrong shape, FormatError (E-FORMAT), PickleError (E-PICKLE) and NotWeightsError (E-NOTWEIGHTS)
    for a file that can't be read.
    """
    try:
        header = read_header(path)
    except CheckpointError as error:
        raise error.of_kind("ControlNet", name) from None
    tensors = {unwrap(key).removeprefix(_PREFIX): info for key, info in header.tensors.items()}
    layout = _layout_of(tensors, header, name)
    shapes = {key: info.shape for key, info in tensors.items()}
    family = find_family(shapes, layout)
    if family is not None:
        raise ControlError("ControlNet", name, f"is for {family}, not for SDXL", _ANOTHER)
    try:
        layers = read_layers(shapes, layout)
        entries = control_entries(layers)
    except (KeyError, IndexError, ValueError):
        why = "its tensors are those of no ControlNet for SDXL that Darkroom knows"
        raise ControlError("ControlNet", name, why, _ANOTHER) from None
    found = _find_tensors(entries, tensors, layout, name)
    return ControlFile(
        path, name, layout, layers, found, {entry.name: entry.shape for entry in entries}, header.data_offset
    )


def check_control_file(path: Path, name: str) -> None:
    """Raise what `read_control_file` raises, and NanWeightError (E-NANWEIGHT) for NaN or Inf among the weights."""
    found = read_control_file(path, name)
    with path.open("rb", buffering=0) as file:
        for key, info in sorted(found.tensors.items(), key=lambda item: item[1].start):
            for piece in read_pieces(file.fileno(), found.data_offset + info.start, info.end - info.start):
                if holds_nonfinite(piece, info.dtype):
                    why = f"the ControlNet {name} holds NaN or Inf there"
                    raise NanWeightError("tensor", key, why, "use another version of it")


def _layout_of(tensors: Mapping[str, TensorInfo], header: Header, name: str) -> Layout:
    for beginning, kind in _OTHER_KINDS:
        if any(key.startswith(beginning) for key in tensors):
            raise ControlError("ControlNet", name, f"is {kind}", _ANOTHER)
    layout = find_layout({key: info.shape for key, info in tensors.items()})
    if layout is not None:
        return layout
    family = describe_family(header.tensors)
    why = f"is {family.found.removesuffix(', not a checkpoint')}" if family else "is of no kind that Darkroom knows"
    is_control = family is not None and family.found == "a ControlNet"
    why = "is a ControlNet of a kind that Darkroom doesn't know" if is_control else f"{why}, not a ControlNet"
    raise ControlError("ControlNet", name, why, _ANOTHER)


def _find_tensors(
    entries: list[Entry], tensors: Mapping[str, TensorInfo], layout: Layout, name: str
) -> dict[str, TensorInfo]:
    """The tensors by diffusers' names. Raises KeysError (E-KEYS) and FormatError (E-FORMAT)."""
    hint = "the file may be damaged, or of a variant that Darkroom doesn't know"
    sources = {entry.name: entry.source if layout == "ldm" else entry.name for entry in entries}
    missing = [source for source in sources.values() if source not in tensors]
    if missing:
        raise KeysError("ControlNet", name, f"{_some(missing)} missing", hint)
    if left := sorted(tensors.keys() - set(sources.values())):
        raise KeysError("ControlNet", name, f"{_some(left)} left over", hint)
    for entry in entries:
        info = tensors[sources[entry.name]]
        if not fits(info.shape, entry.shape):
            why = f"the tensor '{sources[entry.name]}' is {list(info.shape)}, not {list(entry.shape)}"
            raise KeysError("ControlNet", name, why, hint)
        if info.dtype not in CONVERTIBLE:
            why = f"the tensor '{sources[entry.name]}' is {info.dtype}; only {', '.join(CONVERTIBLE)} can be read"
            raise FormatError("ControlNet", name, why, "use its fp16, bf16 or fp32 version")
    return {name: tensors[source] for name, source in sources.items()}


def _some(keys: list[str]) -> str:
    shown = ", ".join(key[:120] for key in keys[:5]) + (", …" if len(keys) > 5 else "")
    return f"{len(keys)} tensor{'' if len(keys) == 1 else 's'} ({shown})"
