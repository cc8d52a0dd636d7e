"""Adopting a folder in Diffusers layout: what a model needs of it is linked or copied, verified and published.

Weights get the file names that a conversion would give them. Text encoders whose tensors have the flattened names of
newer transformers, and VAEs whose attention has those of older diffusers, are written anew under the classic ones; a
vocabulary that only newer transformers reads is written in the classic form too. So every loader can read the folder.

Real folders hold more than a model: other variants and formats of the weights, pages, pictures. That is left out;
code among it is refused. A snapshot in Hugging Face's cache is such a folder too, of links into `blobs`.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from darkroom import revisions
from darkroom.base.claims import staging_folder
from darkroom.base.files import check_free_space, copy, copy_range, link, write_range
from darkroom.base.hashing import hash_file
from darkroom.checkpoint.architectures import component_tensors, name_of
from darkroom.checkpoint.audit import Asked, ConversionAudit
from darkroom.checkpoint.hashes import Fingerprint, take_fingerprints
from darkroom.checkpoint.header import Header, encode_header
from darkroom.checkpoint.index import CODE_ENDINGS, INDEX, REBUILD, linked_blobs, read_json, walk
from darkroom.checkpoint.keymap import COMPONENTS, ignored_reason
from darkroom.checkpoint.plan import weight_path
from darkroom.checkpoint.publish import check_destination, publish_model
from darkroom.checkpoint.verified import FileIdentity, content_digest
from darkroom.checkpoint.verify import ONE_FILE_VOCABULARY, VOCABULARY_FILES, Structure, check_structure, classic_names
from darkroom.checkpoint.weights import VARIANTS, has_weights, index_path, require_weights, shard_path, weight_files
from darkroom.errors import CheckpointError, HashError, IndexFileError, ModelError

TOKENIZERS = ("tokenizer", "tokenizer_2")
_TOKENIZER_FILES = (
    "added_tokens.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
    ONE_FILE_VOCABULARY,
    *VOCABULARY_FILES,
)
_FREE_SPACE_HINT = "free some disk space, or keep the folder and the models on one file system, where nothing is copied"


@dataclass(frozen=True, slots=True)
class Placing:
    """Files to place, by their path in the new folder: the paths in the old one, or what they hold.

    Small files are copied, so that an edit of a model's config leaves the source alone. `used` are files of the
    source that were read and that nothing is a copy of.
    """

    links: dict[str, str] = field(default_factory=dict)
    copies: dict[str, str] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    written: dict[str, bytes] = field(default_factory=dict)
    used: list[str] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    """Classic names by those in the files, for the files in `renamed`."""

    @property
    def same(self) -> dict[str, str]:
        """The files that are the source's, byte for byte."""
        return self.links | self.copies


def small_files(folder: Path) -> list[str]:
    """The relative paths of those files of a folder that a model needs besides its weights, as far as they are there."""
    configs = [f"{component}/config.json" for component in COMPONENTS]
    vocabularies = [f"{component}/{name}" for component in TOKENIZERS for name in _TOKENIZER_FILES]
    wanted = [INDEX, "scheduler/scheduler_config.json", *configs, *vocabularies]
    return [path for path in wanted if (folder / path).is_file()]


def plan_placing(folder: Path, structure: Structure, variant: str | None) -> Placing:
    """What of a checked folder goes where; the new folder's weights are of `variant`.

    Raises IndexFileError (E-INDEX) for a tokenizer.json that holds no vocabulary.
    """
    placing = Placing()
    placing.copies.update({path: path for path in small_files(folder)})
    for component, entries in component_tensors(structure.configs).items():
        weights = structure.weights[component]
        names = classic_names(component, weights.tensors, {entry.name: entry for entry in entries})
        placing.names.update({name: classic for name, classic in names.items() if name != classic})
        targets = {}
        for number, (path, header) in enumerate(weights.headers.items(), start=1):
            shard = shard_path(component, variant, number, len(weights.headers))
            targets[path] = shard if weights.index else weight_path(component, variant)
            is_classic = all(names[name] == name for name in header.tensors)
            (placing.links if is_classic else placing.renamed)[targets[path]] = path
        if weights.index:
            weight_map = {names[name]: Path(targets[placed.file]).name for name, placed in weights.tensors.items()}
            size = sum(placed.info.end - placed.info.start for placed in weights.tensors.values())
            index = {"metadata": {"total_size": size}, "weight_map": weight_map}
            placing.written[index_path(component, variant)] = _json(index)
            placing.used.append(weights.index)
    for component in TOKENIZERS:
        if not all((folder / component / name).is_file() for name in VOCABULARY_FILES):
            vocabulary = _classic_vocabulary(folder, f"{component}/{ONE_FILE_VOCABULARY}")
            placing.written.update({f"{component}/{name}": data for name, data in vocabulary.items()})
            for name in VOCABULARY_FILES:
                placing.copies.pop(f"{component}/{name}", None)
    return placing


def place_files(placing: Placing, folder: Path, headers: Mapping[str, Header], target: Path) -> None:
    """Place the files in the folder `target`, which is empty, and sync what is not linked.

    Raises DiskError (E-DISK) before it copies anything if there isn't room, OSError where the file system refuses.
    """
    for path in (*placing.same, *placing.renamed, *placing.written):
        (target / path).parent.mkdir(parents=True, exist_ok=True)
    copies = placing.copies | {
        new: old for new, old in placing.links.items() if not link((folder / old).resolve(), target / new)
    }
    need = sum((folder / old).stat().st_size for old in (*copies.values(), *placing.renamed.values()))
    need += sum(map(len, placing.written.values()))
    check_free_space(target.parent.parent, need, "the model", _FREE_SPACE_HINT)
    for new, old in copies.items():
        copy(folder / old, target / new)
    for new, old in placing.renamed.items():
        _copy_renamed(folder / old, headers[old], placing.names, target / new)
    for new, data in placing.written.items():
        with (target / new).open("xb", buffering=0) as file:
            write_range(file.fileno(), data, 0)
            os.fsync(file.fileno())


def _copy_renamed(path: Path, header: Header, names: Mapping[str, str], target: Path) -> None:
    """Copy a weight file with a header that gives tensors other names; the numbers stay where they are."""
    rows = [
        (names.get(name, name), info.dtype, info.shape, info.start, info.end) for name, info in header.tensors.items()
    ]
    encoded = encode_header(rows, header.metadata | {"format": "pt"})  # transformers 4 wants the format named
    with path.open("rb", buffering=0) as reader, target.open("xb", buffering=0) as writer:
        write_range(writer.fileno(), encoded, 0)
        size = header.file_size - header.data_offset
        copy_range(reader.fileno(), writer.fileno(), header.data_offset, len(encoded), size)
        os.fsync(writer.fileno())


def _classic_vocabulary(folder: Path, relative: str) -> dict[str, bytes]:
    """vocab.json and merges.txt with the vocabulary of a tokenizer.json (huggingface/tokenizers, models/bpe)."""
    model = read_json(folder, relative).get("model")
    vocab, merges = (model.get("vocab"), model.get("merges")) if isinstance(model, dict) else (None, None)
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in merges or ()]
    if not isinstance(vocab, dict) or not pairs or not all(isinstance(p, list) and len(p) == 2 for p in pairs):
        why = "holds no byte-pair vocabulary"
        raise IndexFileError(f"{relative}: model", None, why, "take the folder from a source you trust")
    lines = "#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in pairs)
    vocab_file, merges_file = VOCABULARY_FILES
    tokens = json.dumps(vocab, ensure_ascii=False, separators=(",", ":"))
    return {vocab_file: tokens.encode(), merges_file: lines.encode()}


def _json(data: dict[str, Any]) -> bytes:
    return (json.dumps(data, indent=2, sort_keys=True) + "\n").encode()


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
    Raises what `verify_model` raises, HashError (E-HASH) for other bytes, BadNameError (E-NAME), DiskError (E-DISK).
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
