"""The plan of a conversion: the files to write, and for every byte range of the sources where it goes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from darkroom.checkpoint.entries import Entry
from darkroom.checkpoint.header import DTYPE_BYTES, Header, Shape, encode_header
from darkroom.checkpoint.layouts import Layout
from darkroom.checkpoint.numbers import FP8

MAX_COPY_BYTES = 256 * 2**20
"""Longer ranges are not joined, so that several threads share them."""
DTYPES = {"fp16": "F16", "fp32": "F32", "bf16": "BF16"}
# With `keep`, formats in which no model is computed become the nearest one that holds all their numbers' meaning.
_KEPT = {**dict.fromkeys(FP8, "F16"), "F64": "F32"}
_STEMS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
}


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A safetensors file that tensors are taken from."""

    path: Path
    header: Header


@dataclass(frozen=True, slots=True)
class Part:
    """A component, the layout in which its tensors stand, and the number of the source file that holds them."""

    component: str
    layout: Layout
    source: int


@dataclass(frozen=True, slots=True)
class Output:
    """One weight file to write: its path in the folder, its encoded header and its whole size in bytes."""

    path: str
    header: bytes
    size: int


@dataclass(frozen=True, slots=True)
class Copy:
    """`length` bytes from `start` of source file number `source` to `target` in output number `output`.

    Where `dtype` and `target_dtype` differ the numbers are converted; `transpose` is the source's shape
    if rows and columns change places. `name` is the tensor's, or the first's of several.
    """

    source: int
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
    """Outputs, copies in the order of the sources' bytes, and by source file the tensors that are used."""

    outputs: list[Output]
    copies: list[Copy]
    tensors: int
    used: list[set[str]]
    dtypes_in: dict[str, int]

    @property
    def written_bytes(self) -> int:
        return sum(output.size for output in self.outputs)

    @property
    def keys_mapped(self) -> int:
        return sum(len(names) for names in self.used)


def weight_path(component: str, variant: str | None) -> str:
    """The path of a component's weights in a Diffusers folder; `variant` is None or `fp16`."""
    return f"{component}/{_STEMS[component]}{f'.{variant}' if variant else ''}.safetensors"


def make_plan(sources: Sequence[SourceFile], parts: Sequence[Part], dtype: str) -> Plan:
    """Plan the conversion to `dtype` (fp16, fp32, bf16 or keep) of parts that `checks.check_parts` found complete."""
    outputs: list[Output] = []
    copies: list[Copy] = []
    used: list[set[str]] = [set() for _ in sources]
    for number, part in enumerate(parts):
        path = weight_path(part.component, "fp16" if dtype == "fp16" else None)
        output, moved = _plan_part(sources[part.source].header, part, DTYPES.get(dtype), number, path)
        outputs.append(output)
        copies += moved
        used[part.source] |= part.layout.sources()
    counts = Counter(
        source.header.tensors[name].dtype for source, names in zip(sources, used, strict=True) for name in names
    )
    ordered = sorted(copies, key=lambda copy: (copy.source, copy.start))
    return Plan(outputs, list(_joined(ordered)), len(copies), used, dict(sorted(counts.items())))


def _joined(copies: Iterable[Copy]) -> Iterator[Copy]:
    """Copies in the source's order, with those joined that are one range in the source and in the output."""
    before: Copy | None = None
    for copy in copies:
        if before is not None and _continues(copy, before):
            before = replace(before, length=before.length + copy.length)
            continue
        if before is not None:
            yield before
        before = copy
    if before is not None:
        yield before


def _continues(copy: Copy, before: Copy) -> bool:
    as_it_is = all(one.dtype == one.target_dtype and one.transpose is None for one in (copy, before))
    same_files = (copy.source, copy.output) == (before.source, before.output)
    follows = (copy.start, copy.target) == (before.start + before.length, before.target + before.length)
    return as_it_is and same_files and follows and before.length + copy.length <= MAX_COPY_BYTES


def _plan_part(header: Header, part: Part, dtype: str | None, number: int, path: str) -> tuple[Output, list[Copy]]:
    def target_dtype(entry: Entry) -> str:
        found = header.tensors[entry.source].dtype
        return dtype or _KEPT.get(found, found)

    def order(entry: Entry) -> tuple[int, int, int]:
        # Wide numbers first, so that every tensor is aligned; then as in the source, so that writing is sequential.
        return -DTYPE_BYTES[target_dtype(entry)], header.tensors[entry.source].start, entry.source_row

    position, rows, moved = 0, [], []
    for entry in sorted(part.layout.entries, key=order):
        target = target_dtype(entry)
        size = math.prod(entry.shape) * DTYPE_BYTES[target]
        rows.append((entry.name, target, entry.shape, position, position + size))
        moved.append(_plan_copy(header, entry, target, part.source, number, position))
        position += size
    encoded = encode_header(rows, {"format": "pt"})
    # Offsets are known only after the header's length is.
    shifted = [replace(copy, target=copy.target + len(encoded)) for copy in moved]
    return Output(path, encoded, len(encoded) + position), shifted


def _plan_copy(header: Header, entry: Entry, target_dtype: str, source: int, output: int, target: int) -> Copy:
    info = header.tensors[entry.source]
    width = DTYPE_BYTES[info.dtype]
    first = entry.source_row * math.prod(entry.source_shape[1:]) * width
    return Copy(
        source=source,
        start=header.data_offset + info.start + first,
        length=math.prod(entry.shape) * width,
        output=output,
        target=target,
        dtype=info.dtype,
        target_dtype=target_dtype,
        name=entry.source,
        transpose=entry.source_shape if entry.transposed else None,
    )
