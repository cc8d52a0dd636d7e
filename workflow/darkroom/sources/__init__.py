"""Sources: checkpoints, VAEs, LoRAs, embeddings, upscalers and ControlNets from this machine, Civitai, the Hugging Face Hub or the web.

Takes a reference as the configuration has it. Gives the file or Diffusers folder at its destination, checked and
complete, and a receipt of its identity; while a workflow is planned, the state of a source.
Never converts or repairs a file, runs or unpickles anything from one, sends a token to another origin than its own, or
touches the network while a workflow is planned.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from darkroom.errors import CheckpointError, PickleError, SourceError
from darkroom.sources.inspect import source_identity
from darkroom.sources.receipt import FetchReceipt
from darkroom.sources.references import parse_reference
from darkroom.sources.source import FetchRequest, Source, SourceState

if TYPE_CHECKING:
    from darkroom.config import FetchConfig

__all__ = [
    "FetchReceipt",
    "Source",
    "SourceState",
    "fetch",
    "inspect_source",
    "parse_reference",
    "source_identity",
]


_TITLES = {"vae": "VAE", "lora": "LoRA", "controlnet": "ControlNet"}
"""Kinds of files as errors call them, where that is not the kind's own name."""


def inspect_source(source: str, receipt: Path, cache: Path, sha256: str | None = None) -> SourceState:
    """The state of `source` now; if it is gone, the one in `receipt`, which an earlier fetch wrote.

    The receipt serves only if it names that source, or the same bytes: those of `sha256`, or those that `source` had when
    it was last there. Hashes are remembered in the file `cache`. Raises SourceError (E-SOURCE) if nothing serves and for a text that is no reference, ModelError (E-MODEL) or IndexFileError (E-INDEX) for a folder that isn't a model,
    ConfigError (E-CONFIG) for a broken sidecar.
    """
    return parse_reference(source).inspect(receipt, cache, sha256 and sha256.lower())


def fetch(
    source: str,
    dest: Path | str,
    receipt: Path | str | None = None,
    *,
    sha256: str | None = None,
    kind: str = "checkpoint",
    dtype: str = "fp16",
    downloads: Path | None = None,
    lock: Path | None = None,
    dates: Path | None = None,
    update: bool = False,
    options: FetchConfig | None = None,
    report: Callable[[str], None] | None = None,
    has_bar: bool = False,
) -> FetchReceipt:
    """Bring the safetensors file or Diffusers folder `source` to `dest`, and write its receipt if a path is given.

    `kind` is `checkpoint`, `vae`, `lora`, `embedding`, `upscaler`, `controlnet` or `score`; a file that can't be that is refused. For a remote source,
    `downloads` is the folder of the store (else one beside `dest`, deleted once everything is there), `lock` the lock
    file, `dtype` the preferred weights of a folder; `update` asks the source even if everything is here. `dates` is the
    JSON file of the days on which bytes were first fetched. `report` gets lines for people; with `has_bar` there is a
    progress bar on stderr.

    Raises SourceError (E-SOURCE), the CheckpointErrors, HashError (E-HASH) if the content is not that of `sha256`,
    LoraError, EmbeddingError, UpscalerError, ControlError, ScoreError, ConfigError (E-CONFIG) for a broken sidecar or lock file, DiskError (E-DISK); for a folder
    ModelError, IndexFileError and BadNameError too; for a remote source AuthError (E-AUTH) and the FetchErrors.
    What was at `dest` before stays if anything fails.
    """
    if not source.strip():
        raise SourceError("source", source, "is empty", "give a path, civitai:…, hf:… or https://…")
    found = parse_reference(source)
    request = FetchRequest(
        dest=Path(dest),
        kind=kind,
        dtype=dtype,
        sha256=sha256,
        downloads=downloads,
        lock=lock,
        dates=dates,
        update=update,
        options=options,
        report=report or (lambda _: None),
        has_bar=has_bar,
        check=_check_of(kind, found.text),
    )
    try:
        made = found.fetch(request)
    except CheckpointError as error:
        if kind == "checkpoint":
            raise
        hint = None
        if kind == "upscaler" and isinstance(error, PickleError):
            from darkroom.upscalers import pickle_hint

            hint = f"{error.hint.replace('checkpoint', kind)}; docs/how-to/own-checkpoint.md has the conversion"
            hint = pickle_hint(found.text) if found.is_local else hint
        raise error.of_kind(_TITLES.get(kind, kind), hint=hint) from None
    if receipt is not None:
        made.write(receipt)
    return made


def _check_of(kind: str, source: str) -> Callable[[Path], object]:
    """What a file of that kind must pass, by its header; an upscaler by loading it, a ControlNet by its numbers too, checkpoints and VAEs when they are converted."""
    name = Path(source).name
    if kind == "lora":
        from darkroom.loras import read_lora  # here, as below, since planning fetches nothing

        return lambda path: read_lora(path, name)
    if kind == "embedding":
        from darkroom.prompting.embeddings import check_embedding_file

        return lambda path: check_embedding_file(path, name)
    if kind == "score":
        from darkroom.scores.score_files import read_score_file

        return lambda path: read_score_file(path, name)
    if kind == "upscaler":
        from darkroom.upscalers import load_upscaler

        return lambda path: load_upscaler(path, name)
    if kind == "controlnet":
        from darkroom.controlnets import check_control_file

        return lambda path: check_control_file(path, name)
    return lambda _: None
