"""Preparing a conversion: every question about a checkpoint is answered before a byte is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from darkroom.checkpoint.architectures import Architecture, choose_architecture
from darkroom.checkpoint.audit import Ema
from darkroom.checkpoint.checks import check_parts, sort_leftovers
from darkroom.checkpoint.header import read_header
from darkroom.checkpoint.layouts import EMA, best_layout, checkpoint_layouts, vae_layouts
from darkroom.checkpoint.plan import Part, Plan, SourceFile, make_plan
from darkroom.checkpoint.prediction import Prediction, find_prediction
from darkroom.checkpoint.sidecar import read_sidecar
from darkroom.errors import SourceError


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
