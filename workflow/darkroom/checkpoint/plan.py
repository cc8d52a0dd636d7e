"""The plan of a conversion: the files to write, and for every byte range of the source where it goes.

Making the plan checks that nothing is missing, nothing left over and every shape right, before a byte is written.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from darkroom.checkpoint.architectures import Architecture, fits
from darkroom.checkpoint.entries import Entry
from darkroom.checkpoint.header import DTYPE_BYTES, Header, Shape, encode_header
from darkroom.checkpoint.keymap import is_ignored
from darkroom.errors import FormatError, KeysError

DTYPES = {"fp16": "F16", "fp32": "F32", "bf16": "BF16"}
CONVERTIBLE = ("F16", "BF16", "F32", "F64")
_STEMS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
}
_HINT = "the file may be damaged or of another model; set architecture if it is a variant of SDXL"


@dataclass(frozen=True, slots=True)
class Output:
    """One weight file to write: its path in the folder, its encoded header and its whole size in bytes."""

    path: str
    header: bytes
    size: int


@dataclass(frozen=True, slots=True)
class Copy:
    """`length` bytes from `start` of the source file to `target` in output number `output`.

    Where `dtype` and `target_dtype` differ the numbers are converted; `transpose` is the source's shape
    if rows and columns change places.
    """

    start: int
    length: int
    output: int
    target: int
    dtype: str
    target_dtype: str
    name: str
    transpose: Shape | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """Outputs, and copies in the order of the source's bytes, with the counts for the audit."""

    outputs: list[Output]
    copies: list[Copy]
    dtypes_in: dict[str, int]
    keys_mapped: int
    keys_ignored: int

    @property
    def written_bytes(self) -> int:
        return sum(output.size for output in self.outputs)


def weight_path(component: str, variant: str | None) -> str:
    """The path of a component's weights in a Diffusers folder; `variant` is None or `fp16`."""
    return f"{component}/{_STEMS[component]}{f'.{variant}' if variant else ''}.safetensors"


def make_plan(header: Header, architecture: Architecture, dtype: str, source: object) -> Plan:
    """Plan the conversion of `source` to `dtype` (fp16, fp32, bf16 or keep).

    Raises KeysError (E-KEYS) for missing, left-over and misshapen tensors, FormatError (E-FORMAT) for number
    formats that can't be converted.
    """
    _check_keys(header, architecture, source)
    outputs, copies = [], []
    for number, (component, entries) in enumerate(architecture.entries.items()):
        path = weight_path(component, "fp16" if dtype == "fp16" else None)
        output, moved = _plan_component(header, entries, DTYPES.get(dtype), number, path)
        outputs.append(output)
        copies += moved
    sources = architecture.source_shapes().keys()
    return Plan(
        outputs,
        sorted(copies, key=lambda copy: copy.start),
        dict(sorted(Counter(header.tensors[key].dtype for key in sources).items())),
        len(sources),
        len(header.tensors) - len(sources),
    )


def _plan_component(
    header: Header, entries: Sequence[Entry], dtype: str | None, number: int, path: str
) -> tuple[Output, list[Copy]]:
    def target_dtype(entry: Entry) -> str:
        return dtype or header.tensors[entry.source].dtype

    def order(entry: Entry) -> tuple[int, int, int]:
        # Wide numbers first, so that every tensor is aligned; then as in the source, so that writing is sequential.
        return -DTYPE_BYTES[target_dtype(entry)], header.tensors[entry.source].start, entry.source_row

    position, rows, moved = 0, [], []
    for entry in sorted(entries, key=order):
        target = target_dtype(entry)
        size = math.prod(entry.shape) * DTYPE_BYTES[target]
        rows.append((entry.name, target, entry.shape, position, position + size))
        moved.append(_plan_copy(header, entry, target, number, position))
        position += size
    encoded = encode_header(rows, {"format": "pt"})
    # Offsets are known only after the header's length is.
    shifted = [_shift(copy, len(encoded)) for copy in moved]
    return Output(path, encoded, len(encoded) + position), shifted


def _plan_copy(header: Header, entry: Entry, target_dtype: str, output: int, target: int) -> Copy:
    info = header.tensors[entry.source]
    width = DTYPE_BYTES[info.dtype]
    first = entry.source_row * math.prod(entry.source_shape[1:]) * width
    return Copy(
        start=header.data_offset + info.start + first,
        length=math.prod(entry.shape) * width,
        output=output,
        target=target,
        dtype=info.dtype,
        target_dtype=target_dtype,
        name=entry.source,
        transpose=entry.source_shape if entry.transposed else None,
    )


def _shift(copy: Copy, offset: int) -> Copy:
    return Copy(
        copy.start,
        copy.length,
        copy.output,
        copy.target + offset,
        copy.dtype,
        copy.target_dtype,
        copy.name,
        copy.transpose,
    )


def _check_keys(header: Header, architecture: Architecture, source: object) -> None:
    expected = architecture.source_shapes()
    missing = [key for key in expected if key not in header.tensors]
    if missing:
        owners = {entry.source: component for component, entries in architecture.entries.items() for entry in entries}
        counts = ", ".join(
            f"{component} {count}" for component, count in Counter(owners[key] for key in missing).items()
        )
        why = f"{_tensors(missing)} missing ({counts}): {_first_five(missing)}"
        raise KeysError("checkpoint", source, why, _HINT)
    left = [key for key in header.tensors if key not in expected and not is_ignored(key)]
    if left:
        raise KeysError("checkpoint", source, f"{_tensors(left)} left over: {_first_five(sorted(left))}", _HINT)
    wrong = [key for key, shape in expected.items() if not fits(header.tensors[key].shape, shape)]
    if wrong:
        key = wrong[0]
        shapes = f"'{key}' is {list(header.tensors[key].shape)}, not {list(expected[key])}"
        raise KeysError("checkpoint", source, f"{_tensors(wrong)} of the wrong shape: {shapes}", _HINT)
    strange = [key for key in expected if header.tensors[key].dtype not in CONVERTIBLE]
    if strange:
        why = f"tensor '{strange[0]}' is {header.tensors[strange[0]].dtype}; only {', '.join(CONVERTIBLE)} can be converted"
        raise FormatError("checkpoint", source, why, "use the checkpoint's fp16, bf16 or fp32 version")


def _tensors(keys: Sequence[str]) -> str:
    return f"{len(keys)} tensor{'s' if len(keys) > 1 else ''}"


def _first_five(keys: Sequence[str]) -> str:
    return ", ".join(key[:120] for key in keys[:5]) + (", …" if len(keys) > 5 else "")
