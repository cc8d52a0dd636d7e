"""Taking over a folder that is in Diffusers layout already: what a model needs of it is linked, verified, published.

Real folders hold more than a model: other variants and formats of the weights, pages, pictures. That is left out;
code among it is refused. A snapshot in Hugging Face's cache is such a folder too, of links into `blobs`.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from darkroom import revisions
from darkroom.checkpoint.architectures import name_of
from darkroom.checkpoint.audit import Asked, ConversionAudit
from darkroom.checkpoint.fingerprints import Fingerprint, take_fingerprints
from darkroom.checkpoint.index import INDEX, REBUILD
from darkroom.checkpoint.keymap import COMPONENTS, ignored_reason
from darkroom.checkpoint.placing import Placing, place_files, plan_placing, small_files
from darkroom.checkpoint.publish import check_destination, publish_model
from darkroom.checkpoint.staging import staging_folder
from darkroom.checkpoint.verified import FileIdentity, content_digest
from darkroom.checkpoint.verify import Structure, check_structure
from darkroom.checkpoint.walk import CODE_ENDINGS, linked_blobs, walk
from darkroom.checkpoint.weights import VARIANTS, has_weights, require_weights, weight_files
from darkroom.errors import CheckpointError, HashError, ModelError
from darkroom.hashing import hash_file

_AGAIN = "fetch the folder again, or take it from a source you trust"


def model_files(folder: Path) -> list[str]:
    """The relative paths of every file of a Diffusers folder that a model may need, all variants of the weights.

    Raises ModelError (E-MODEL) if it isn't one, IndexFileError (E-INDEX) for code in it, links that lead elsewhere and
    shards that aren't there, PickleError (E-PICKLE) for weights that are only there as pickles.
    """
    with _hints_for_sources():
        folder = _open_source(folder)
        files = small_files(folder)
        for component in COMPONENTS:
            for variant in VARIANTS:
                if has_weights(folder, component, variant):
                    files += weight_files(folder, component, variant)
    return sorted(files)


def adopt_folder(
    source: Path | str,
    dest: Path | str,
    *,
    dtype: str,
    name: str | None = None,
    expected_files: Mapping[str, str] | None = None,
    asked: Asked | None = None,
    on_wait: Callable[[], None] | None = None,
) -> ConversionAudit:
    """Make `dest` a verified model of the Diffusers folder `source`, and write `DEST.audit.json` beside it.

    The weights keep their number format: `fp16` prefers fp16 variants, any other `dtype` plain ones. `expected_files`
    are the SHA256 that the source's files must have, by relative path; `name` is the model's in the audit (else the
    folder's), which also keeps what was `asked`. Others at work on `dest` are waited for, calling `on_wait`. An existing
    folder is replaced, and only after the new one is complete and verified.
    Raises what `verify_model` raises, HashError (E-HASH) for other bytes, NameError (E-NAME), DiskError (E-DISK).
    """
    begun = time.monotonic()
    source, dest = Path(source), Path(os.path.abspath(dest))  # noqa: PTH100 - a link stays a link
    with _hints_for_sources():
        folder = _open_source(source)
        structure = check_structure(folder, lambda component: _preferred(folder, component, dtype))
        with_infix = structure.dtype == "fp16" or any(weights.variant for weights in structure.weights.values())
        variant = "fp16" if with_infix else None
        placing = plan_placing(folder, structure, variant)
    check_destination(dest, source=folder)
    with staging_folder(dest, on_wait) as staging:
        place_files(placing, folder, structure.headers, staging.new)
        found = _verify_placed(staging.new, source, placing, variant)
        sources = _source_identities(folder, placing, found)
        if expected_files is not None:
            _check_hashes(source, sources, expected_files)
        audit = _describe(folder, structure, placing, sources, found, name or dest.name, time.monotonic() - begun)
        audit = audit.model_copy(update={"asked": asked})
        publish_model(staging, audit, found)
    return audit


def _open_source(source: Path) -> Path:
    """The folder itself, of which no file is code, no link leads elsewhere and every component has weights."""
    folder = source.resolve()
    if not (folder / INDEX).is_file():
        why = f"it has no {INDEX}" if folder.is_dir() else "the folder does not exist"
        raise ModelError("Diffusers format missing", source, why, REBUILD)
    for _ in walk(folder, CODE_ENDINGS, *linked_blobs(folder)):
        pass
    require_weights(folder)
    return folder


def _preferred(folder: Path, component: str, dtype: str) -> str | None:
    order = VARIANTS if dtype == "fp16" else VARIANTS[::-1]
    return next(variant for variant in order if has_weights(folder, component, variant))


def _verify_placed(new: Path, source: Path, placing: Placing, variant: str | None) -> dict[str, Fingerprint]:
    """Verify what is about to be published, as strictly as any folder; errors name the source's files."""
    structure = check_structure(new, lambda _: variant)
    files = [path.relative_to(new).as_posix() for path in walk(new, CODE_ENDINGS)]
    shown = {file: source / old for file, old in (placing.same | placing.renamed).items()}
    return take_fingerprints(new, files, structure.headers, known={}, shown=shown)


def _source_identities(folder: Path, placing: Placing, found: Mapping[str, Fingerprint]) -> dict[str, FileIdentity]:
    """Size and SHA256 of every file of the source that was used."""
    identities = {old: found[new].identity() for new, old in placing.same.items()}
    for path in (*placing.renamed.values(), *placing.used):
        size = (folder / path).stat().st_size
        identities[path] = FileIdentity(size=size, sha256=hash_file(folder / path), sample="")
    return identities


def _check_hashes(source: Path, found: Mapping[str, FileIdentity], expected: Mapping[str, str]) -> None:
    for path, identity in found.items():
        promised = expected.get(path, "").lower()
        if identity.sha256 != promised:
            why = f"its SHA256 is {identity.sha256}, expected {promised or 'no such file'}"
            raise HashError("file", source / path, why, "fetch the folder again")


def _describe(
    folder: Path,
    structure: Structure,
    placing: Placing,
    sources: Mapping[str, FileIdentity],
    found: Mapping[str, Fingerprint],
    name: str,
    seconds: float,
) -> ConversionAudit:
    names = [tensor for weights in structure.weights.values() for tensor in weights.tensors]
    ignored = Counter(reason for reason in map(ignored_reason, names) if reason is not None)
    architecture = name_of(structure.configs)
    known = "its configs give that architecture's tensors, and it has them all"
    custom = "its configs give no architecture's tensors that comes with Darkroom; it has them all"
    scheduler = structure.configs.scheduler
    said = (
        "its scheduler_config.json says so" if "prediction_type" in scheduler else "its scheduler_config.json is silent"
    )
    return ConversionAudit(
        name=name,
        source=_title(folder),
        source_kind="folder",
        source_sha256=content_digest(sources),
        source_bytes=sum(identity.size for identity in sources.values()),
        autov2=None,
        title=None,
        architecture=architecture,
        architecture_reason=custom if architecture == "custom" else known,
        prediction_type=str(scheduler.get("prediction_type", "epsilon")),
        prediction_evidence=said,
        zero_terminal_snr=bool(scheduler.get("rescale_betas_zero_snr", False)),
        layouts={component: _layout(component, structure, placing) for component in structure.weights},
        dtypes_in=dict(sorted(structure.dtypes.items())),
        dtype_out=structure.dtype,
        keys_mapped=len(names) - ignored.total(),
        keys_ignored=ignored.total(),
        keys_by_reason=dict(ignored),
        keys_missing=0,
        tensors_written=len(names),
        written_bytes=sum(fingerprint.size for fingerprint in found.values()),
        revision=revisions.CONVERT,
        seconds=round(seconds, 3),
    )


def _layout(component: str, structure: Structure, placing: Placing) -> str:
    headers = structure.weights[component].headers
    is_renamed = bool(set(headers) & set(placing.renamed.values()))
    if component.startswith("text_encoder"):
        layout = "flattened" if is_renamed else "classic"
    else:
        layout = "diffusers, older names" if is_renamed else "diffusers"
    return f"{layout} in {len(headers)} shards" if structure.weights[component].index else layout


def _title(folder: Path) -> str:
    """The folder's name, or for a snapshot in Hugging Face's cache the repository's and its revision."""
    if linked_blobs(folder):
        repository = folder.parent.parent.name.removeprefix("models--").replace("--", "/")
        return f"{repository}@{folder.name}"
    return folder.name


@contextmanager
def _hints_for_sources() -> Iterator[None]:
    """A source can't be rebuilt as a model folder can: replace that hint."""
    try:
        yield
    except (CheckpointError, ModelError) as error:
        if REBUILD not in error.hint:
            raise
        raise type(error)(error.what, error.value, error.why, _AGAIN) from None
