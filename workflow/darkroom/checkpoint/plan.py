"""The plan of a conversion: all decisions about a checkpoint, and the place of every byte, before a byte is written."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from darkroom.checkpoint.architectures import choose_architecture
from darkroom.checkpoint.conversion import Conversion, Copy, Output, Part, SourceFile
from darkroom.checkpoint.coverage import check_parts, sort_leftovers
from darkroom.checkpoint.header import DTYPE_BYTES, Header, encode_header, read_header
from darkroom.checkpoint.keymap import Entry
from darkroom.checkpoint.layouts import EMA, best_layout, checkpoint_layouts, plain_header, vae_layouts
from darkroom.checkpoint.numbers import FP8
from darkroom.checkpoint.prediction import find_prediction, read_sidecar
from darkroom.checkpoint.weights import DTYPES, weight_path
from darkroom.errors import SourceError

MAX_COPY_BYTES = 256 * 2**20
"""Longer ranges are not joined, so that several threads share them."""
# With `keep`, formats in which no model is computed become the nearest format that holds all their numbers.
_KEPT = {**dict.fromkeys(FP8, "F16"), "F64": "F32"}


def plan_conversion(conversion: Conversion) -> None:
    """Read the sources' headers, and fill in all that is known from them.

    Raises SourceError (E-SOURCE), the CheckpointErrors, IndexFileError (E-INDEX) and ConfigError (E-CONFIG).
    """
    source, inputs = conversion.source, conversion.inputs
    sources = conversion.sources = [_open_source(source, "checkpoint")]
    header = sources[0].header
    conversion.architecture = choose_architecture(header, inputs.architecture, source)
    if conversion.vae_path is not None:
        sources.append(_open_source(conversion.vae_path, "VAE"))
    conversion.parts = [_choose_part(conversion, component) for component in conversion.architecture.entries]
    check_parts(sources, conversion.parts)
    conversion.ignored = sort_leftovers(sources, conversion.parts)
    parameterization = inputs.parameterization or read_sidecar(source)
    conversion.prediction = find_prediction(source, header, inputs.prediction, parameterization)
    _place_bytes(conversion)


def _open_source(path: Path, what: str) -> SourceFile:
    if not path.exists():
        raise SourceError(what, path, "does not exist", "check the path, or fetch it first")
    if not path.is_file():
        raise SourceError(what, path, "is not a file", "give the path of a .safetensors file")
    return SourceFile(path, plain_header(read_header(path), path))


def _choose_part(conversion: Conversion, component: str) -> Part:
    original, sources = conversion.architecture.entries[component], conversion.sources
    if component == "vae" and len(sources) > 1:
        return Part(component, best_layout(vae_layouts(original), sources[1].header.tensors), 1)
    layouts = checkpoint_layouts(component, original)
    if component == "unet":
        layouts = [layout for layout in layouts if (layout.name == EMA) == conversion.inputs.extract_ema]
    return Part(component, best_layout(layouts, sources[0].header.tensors), 0)


def _place_bytes(conversion: Conversion) -> None:
    """Plan the outputs, and the copies in the order of the sources' bytes."""
    dtype = conversion.inputs.dtype
    copies: list[Copy] = []
    conversion.outputs = []
    for number, part in enumerate(conversion.parts):
        path = weight_path(part.component, "fp16" if dtype == "fp16" else None)
        header = conversion.sources[part.source].header
        output, moved = _plan_part(header, part, DTYPES.get(dtype), number, path)
        conversion.outputs.append(output)
        copies += moved
    conversion.tensors_written = len(copies)
    conversion.copies = list(_joined(sorted(copies, key=lambda copy: (copy.source, copy.start))))


def _joined(copies: Iterable[Copy]) -> Iterator[Copy]:
    """Copies in the source's order; neighbours in both the source and the output become one copy."""
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
