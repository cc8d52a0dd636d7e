"""Conversion: the one object that goes through a conversion's stages, from its options to its audit."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from darkroom import revisions
from darkroom.base.hashing import autov2
from darkroom.checkpoint.architectures import Architecture
from darkroom.checkpoint.audit import ConversionAudit, ConversionInputs, Ema
from darkroom.checkpoint.header import Header, Shape
from darkroom.checkpoint.layouts import EMA, Layout
from darkroom.checkpoint.prediction import Prediction


@dataclass(frozen=True, slots=True)
class Expected:
    """The SHA256 in receipts: the checkpoint's, the VAE's, and those of a folder's files by relative path."""

    checkpoint: str | None = None
    vae: str | None = None
    files: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A safetensors file that tensors are taken from."""

    path: Path
    header: Header


@dataclass(frozen=True, slots=True)
class Part:
    """A component, the layout of its tensors, and the number of the source file that holds them."""

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

    The numbers are converted where `dtype` and `target_dtype` differ. `transpose` is the source's shape if the matrix
    is transposed. `name` is the tensor's, or the first of several tensors'.
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


@dataclass(slots=True)
class Conversion:
    """A conversion of `source` to the folder `dest`; each stage fills in its fields, and later stages read them.

    `inputs` are the options and the sources' expected SHA256, `vae_path` the file of another VAE, `expected_files` the
    SHA256 of a source folder's files by relative path, `name` the model's in its audit. `on_begin` is called before a file is converted, `on_wait` once if
    another process is making `dest`.
    """

    source: Path
    dest: Path
    inputs: ConversionInputs
    name: str
    vae_path: Path | None = None
    expected_files: Mapping[str, str] | None = None
    on_wait: Callable[[], None] | None = None
    on_begin: Callable[[], None] | None = None
    started: float = field(default_factory=time.monotonic)

    sources: list[SourceFile] = field(init=False)
    """Planned: the checkpoint and, if it comes from another file, the VAE."""
    architecture: Architecture = field(init=False)
    prediction: Prediction = field(init=False)
    parts: list[Part] = field(init=False)
    ignored: dict[str, int] = field(init=False)
    """Planned: the number of tensors left out, by reason."""
    outputs: list[Output] = field(init=False)
    copies: list[Copy] = field(init=False)
    """Planned: what to copy, in the order of the sources' bytes."""
    tensors_written: int = field(init=False)
    hashes: list[str] = field(init=False)
    """Transferred: the SHA256 of each source."""

    @property
    def used(self) -> list[set[str]]:
        """The names of the tensors used, for each source."""
        return [
            set().union(*(part.layout.sources() for part in self.parts if part.source == number))
            for number in range(len(self.sources))
        ]

    @property
    def written_bytes(self) -> int:
        return sum(output.size for output in self.outputs)

    @property
    def ema(self) -> Ema:
        if any(part.layout.name == EMA for part in self.parts):
            return "used"
        return "left out" if any(key.startswith("model_ema.") for key in self.sources[0].header.tensors) else "absent"

    @property
    def seconds(self) -> float:
        """Wall time since the conversion started."""
        return round(time.monotonic() - self.started, 3)

    @property
    def asked(self) -> ConversionInputs | None:
        """The inputs as the audit keeps them, which a later run compares: None unless the source's SHA256 was given."""
        return self.inputs if self.inputs.checkpoint is not None else None

    def audit(self) -> ConversionAudit:
        """The audit of a transferred conversion."""
        checkpoint, *vae = self.sources
        used = self.used
        dtypes = Counter(
            file.header.tensors[name].dtype for file, names in zip(self.sources, used, strict=True) for name in names
        )
        return ConversionAudit(
            name=self.name,
            source=checkpoint.path.name,
            source_sha256=self.hashes[0],
            source_bytes=checkpoint.header.file_size,
            autov2=autov2(self.hashes[0]),
            title=checkpoint.header.metadata.get("modelspec.title"),
            architecture=self.architecture.name,
            architecture_reason=self.architecture.reason,
            prediction_type=self.prediction.type,
            prediction_evidence=self.prediction.evidence,
            zero_terminal_snr=self.prediction.zero_terminal_snr,
            ema=self.ema,
            vae_source=vae[0].path.name if vae else None,
            vae_sha256=self.hashes[1] if vae else None,
            layouts={part.component: part.layout.name for part in self.parts},
            dtypes_in=dict(sorted(dtypes.items())),
            dtype_out=self.inputs.dtype,
            keys_mapped=sum(map(len, used)),
            keys_ignored=sum(self.ignored.values()),
            keys_by_reason=self.ignored,
            keys_missing=0,
            tensors_written=self.tensors_written,
            written_bytes=self.written_bytes,
            revision=revisions.CONVERT,
            seconds=self.seconds,
            asked=self.asked,
        )
