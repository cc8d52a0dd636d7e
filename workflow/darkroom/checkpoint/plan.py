"""The plan of a conversion: every question about a checkpoint is answered, and every byte range placed, before a byte is written."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from darkroom.checkpoint.architectures import Architecture, choose_architecture, fits
from darkroom.checkpoint.audit import Ema
from darkroom.checkpoint.header import DTYPE_BYTES, Header, Shape, encode_header, read_header
from darkroom.checkpoint.keymap import NAMESPACES, Entry, ignored_reason
from darkroom.checkpoint.layouts import EMA, Layout, best_layout, checkpoint_layouts, vae_layouts
from darkroom.checkpoint.numbers import CONVERTIBLE, FP8
from darkroom.checkpoint.prediction import Prediction, find_prediction
from darkroom.checkpoint.sidecar import read_sidecar
from darkroom.errors import FormatError, KeysError, SourceError

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


_HINT = "the file may be damaged or of another model; set architecture if it is a variant of SDXL"
_VAE_HINT = "give one with --vae, or list it under vaes and name it in checkpoints.NAME.vae in the configuration"
_EMA_HINT = "leave extract_ema out, or use the version of the checkpoint that has them"
_QUANTISED = re.compile(
    r"scaled_fp8|.*\.(scale_weight|scale_input|weight_scale|comfy_quant|absmax|quant_map|quant_state\..*)"
)
_APPLIED = re.compile(r"(lora|control_model|controlnet)[._].*|.*\.lora[._].*")


def check_parts(sources: Sequence[SourceFile], parts: Sequence[Part]) -> None:
    """Check that every tensor of the parts is there, with its shape and in a number format that can be converted.

    Raises KeysError (E-KEYS) that says how many are missing and of which component, and names the first five;
    FormatError (E-FORMAT) for quantised weights and other number formats.
    """
    for source in sources:
        quantised = next((key for key in source.header.tensors if _QUANTISED.fullmatch(key)), None)
        if quantised is not None:
            why = f"its weights are quantised with scales of their own ('{quantised[:120]}')"
            raise FormatError("checkpoint", source.path, why, "use the checkpoint's fp16, bf16 or fp32 version")
    for number, source in enumerate(sources):
        _check_missing(source, [part for part in parts if part.source == number])
    for part in parts:
        _check_tensors(sources[part.source], part)


def sort_leftovers(sources: Sequence[SourceFile], parts: Sequence[Part]) -> dict[str, int]:
    """Why each tensor that no part uses is ignored: reason to number.

    Raises KeysError (E-KEYS) for tensors that may change the picture: unknown ones below a component's names, LoRAs
    and ControlNets. Unknown ones outside are ignored and named.
    """
    reasons: Counter[str] = Counter()
    strangers: list[str] = []
    for number, source in enumerate(sources):
        mine = [part for part in parts if part.source == number]
        used = set().union(*(part.layout.sources() for part in mine))
        left = [key for key in sorted(source.header.tensors) if key not in used]
        harmful = []
        for key in left:
            reason = _replaced_reason(key, number, parts) or ignored_reason(key)
            if reason is not None:
                reasons[reason] += 1
            elif key.startswith(NAMESPACES) or _APPLIED.fullmatch(key) or number > 0:
                harmful.append(key)
            else:
                strangers.append(key)
        if harmful:
            why = f"{_tensors(harmful)} left over: {_first_five(harmful)}"
            raise KeysError("checkpoint", source.path, why, _HINT)
    if strangers:
        reasons[f"of no component, such as {strangers[0][:120]}"] = len(strangers)
    return dict(reasons)


def _replaced_reason(key: str, number: int, parts: Sequence[Part]) -> str | None:
    """For the checkpoint's own weights that others take the place of."""
    if number != 0:
        return None
    if key.startswith(NAMESPACES[1]) and any(part.component == "vae" and part.source != 0 for part in parts):
        return "of the VAE that another one replaces"
    if key.startswith(NAMESPACES[0]) and any(part.layout.name == EMA for part in parts):
        return "plain UNet weights, EMA picked"
    return None


def _check_missing(source: SourceFile, parts: Sequence[Part]) -> None:
    missing = {part.component: [e for e in _sources(part) if e not in source.header.tensors] for part in parts}
    missing = {component: keys for component, keys in missing.items() if keys}
    if not missing:
        return
    whole = {part.component: len(_sources(part)) for part in parts}
    ema = any(part.layout.name == EMA for part in parts)
    if len(missing.get("vae", ())) == whole.get("vae") and set(missing) == {"vae"}:
        why = f"it has no VAE ({_tensors(missing['vae'])} missing: {_first_five(missing['vae'])})"
        raise KeysError("checkpoint", source.path, why, _VAE_HINT)
    if ema and len(missing.get("unet", ())) == whole["unet"]:
        raise KeysError("checkpoint", source.path, "it has no EMA weights (model_ema.*)", _EMA_HINT)
    keys = [key for found in missing.values() for key in found]
    counts = ", ".join(f"{component} {len(found)}" for component, found in missing.items())
    raise KeysError("checkpoint", source.path, f"{_tensors(keys)} missing ({counts}): {_first_five(keys)}", _HINT)


def _check_tensors(source: SourceFile, part: Part) -> None:
    tensors = source.header.tensors
    wrong = [entry for entry in part.layout.entries if not fits(tensors[entry.source].shape, entry.source_shape)]
    if wrong:
        key, found = wrong[0].source, list(tensors[wrong[0].source].shape)
        shapes = f"'{key}' is {found}, not {list(wrong[0].source_shape)}"
        count = _tensors(sorted({entry.source for entry in wrong}))
        raise KeysError("checkpoint", source.path, f"{count} of {part.component} of the wrong shape: {shapes}", _HINT)
    for entry in part.layout.entries:
        dtype = tensors[entry.source].dtype
        if dtype not in CONVERTIBLE:
            why = f"tensor '{entry.source}' is {dtype}; only {', '.join(CONVERTIBLE)} can be converted"
            raise FormatError("checkpoint", source.path, why, "use the checkpoint's fp16, bf16 or fp32 version")


def _sources(part: Part) -> list[str]:
    return list(dict.fromkeys(entry.source for entry in part.layout.entries))


def _tensors(keys: Sequence[str]) -> str:
    return f"{len(keys)} tensor{'' if len(keys) == 1 else 's'}"


def _first_five(keys: Sequence[str]) -> str:
    return ", ".join(key[:120] for key in keys[:5]) + (", …" if len(keys) > 5 else "")


@dataclass(frozen=True, slots=True)
class Job:
    """A conversion that only needs writing; `sources[0]` is the checkpoint, `sources[1]` the VAE of another file."""

    sources: list[SourceFile]
    architecture: Architecture
    prediction: Prediction
    dtype: str
    parts: list[Part]
    ignored: dict[str, int]
    plan: Plan

    @property
    def vae(self) -> SourceFile | None:
        return self.sources[1] if len(self.sources) > 1 else None

    @property
    def ema(self) -> Ema:
        if any(part.layout.name == EMA for part in self.parts):
            return "used"
        return "left out" if any(key.startswith("model_ema.") for key in self.sources[0].header.tensors) else "absent"


def prepare_job(
    source: Path,
    *,
    dtype: str,
    prediction: str,
    architecture: str,
    extract_ema: bool,
    vae: Path | None,
    parameterization: str | None,
) -> Job:
    """The job for `convert`'s options. Raises SourceError, the CheckpointErrors, IndexFileError and ConfigError."""
    sources = [_open_source(source, "checkpoint")]
    header = sources[0].header
    chosen = choose_architecture(header, architecture, source)
    if vae is not None:
        sources.append(_open_source(vae, "VAE"))
    parts = [_choose_part(component, chosen, sources, extract_ema) for component in chosen.entries]
    check_parts(sources, parts)
    ignored = sort_leftovers(sources, parts)
    found = find_prediction(source, header, prediction, parameterization or read_sidecar(source))
    return Job(sources, chosen, found, dtype, parts, ignored, make_plan(sources, parts, dtype))


def _open_source(path: Path, what: str) -> SourceFile:
    if not path.exists():
        raise SourceError(what, path, "does not exist", "check the path, or fetch it first")
    if not path.is_file():
        raise SourceError(what, path, "is not a file", "give the path of a .safetensors file")
    return SourceFile(path, read_header(path))


def _choose_part(component: str, chosen: Architecture, sources: list[SourceFile], extract_ema: bool) -> Part:
    original = chosen.entries[component]
    if component == "vae" and len(sources) > 1:
        return Part(component, best_layout(vae_layouts(original), sources[1].header.tensors), 1)
    layouts = checkpoint_layouts(component, original)
    if component == "unet":
        layouts = [layout for layout in layouts if (layout.name == EMA) == extract_ema]
    return Part(component, best_layout(layouts, sources[0].header.tensors), 0)
