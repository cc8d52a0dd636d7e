"""Adopting a folder in Diffusers layout: the files that a model needs are linked or copied, verified and published.

Weights get the file names that a conversion would give them. Text encoders whose tensors have the flattened names of
newer transformers, and VAEs whose attention has the names of older diffusers, are written anew under the classic names;
a vocabulary that only newer transformers reads is written in the classic form too. So every loader can read the folder.
Files that the model doesn't need are left out; code among them is refused.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from darkroom import revisions
from darkroom.base.claims import staging_folder
from darkroom.base.files import check_free_space, copy, copy_range, link, write_range
from darkroom.base.hashing import hash_file
from darkroom.checkpoint.architectures import name_of
from darkroom.checkpoint.audit import ConversionAudit
from darkroom.checkpoint.conversion import Conversion
from darkroom.checkpoint.folder import (
    ONE_FILE_VOCABULARY,
    VOCABULARY_FILES,
    hints_for_sources,
    linked_blobs,
    open_source,
    small_files,
    walk,
)
from darkroom.checkpoint.hashes import take_fingerprints
from darkroom.checkpoint.header import Header, encode_header
from darkroom.checkpoint.index import CODE_ENDINGS, read_json, tokenizers_of
from darkroom.checkpoint.keymap import ignored_reason
from darkroom.checkpoint.layouts import FOLDER_NAMES
from darkroom.checkpoint.publish import check_destination, publish_model
from darkroom.checkpoint.verified import FileIdentity, Fingerprint, content_digest
from darkroom.checkpoint.verify import VerifiedModel, check_structure
from darkroom.checkpoint.weights import VARIANTS, has_weights, index_path, shard_path, weight_path
from darkroom.errors import HashError, IndexFileError

_FREE_SPACE_HINT = "free some disk space, or keep the folder and the models on one file system, where nothing is copied"


@dataclass(frozen=True, slots=True)
class Placing:
    """The files of the new folder by relative path: the source's relative path, or the contents (`written`).

    Small files are copied, so that an edit of a model's config leaves the source alone. `used` are files of the source
    that were read and have no copy in the new folder.
    """

    links: dict[str, str] = field(default_factory=dict)
    copies: dict[str, str] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    written: dict[str, bytes] = field(default_factory=dict)
    used: list[str] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    """The classic names of the tensors in the files `renamed`, by their names there."""

    @property
    def same(self) -> dict[str, str]:
        """The files that equal the source's byte for byte."""
        return self.links | self.copies


def adopt_folder(conversion: Conversion) -> ConversionAudit:
    """Make `dest` a verified model of the source, a Diffusers folder, and write `DEST.audit.json` beside it.

    The weights keep their number format: `fp16` prefers fp16 variants, any other dtype plain weights. An existing
    `dest` is replaced once the new folder is complete and verified; another process that is making it is waited for.
    Raises what `verify_model` raises, HashError (E-HASH) for other bytes than expected, BadNameError (E-NAME), DiskError
    (E-DISK).
    """
    dest = conversion.dest
    with hints_for_sources():
        folder = open_source(conversion.source)
        model = check_structure(folder, lambda component: _preferred(folder, component, conversion.inputs.dtype))
        with_infix = model.dtype == "fp16" or any(weights.variant for weights in model.weights.values())
        variant = "fp16" if with_infix else None
        placing = plan_placing(model, variant)
    check_destination(dest, source=folder)
    with staging_folder(dest, conversion.on_wait) as staging:
        place_files(placing, folder, model.headers, staging.new)
        found = _verify_placed(staging.new, conversion.source, placing, variant)
        sources = _source_identities(folder, placing, found)
        if conversion.expected_files is not None:
            _check_hashes(conversion.source, sources, conversion.expected_files)
        audit = _describe(conversion, model, placing, sources, found)
        publish_model(staging, audit, found)
    return audit


def plan_placing(model: VerifiedModel, variant: str | None) -> Placing:
    """Where the files of a checked source folder go; the new folder's weights are of `variant`.

    Raises IndexFileError (E-INDEX) for a tokenizer.json that holds no vocabulary.
    """
    placing, folder = Placing(), model.folder
    placing.copies.update({path: path for path in small_files(folder)})
    for component, weights in model.weights.items():
        names = model.names[component]
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
    for component in tokenizers_of(model.configs):
        if not all((folder / component / name).is_file() for name in VOCABULARY_FILES):
            vocabulary = _classic_vocabulary(folder, f"{component}/{ONE_FILE_VOCABULARY}")
            placing.written.update({f"{component}/{name}": data for name, data in vocabulary.items()})
            for name in VOCABULARY_FILES:
                placing.copies.pop(f"{component}/{name}", None)
    return placing


def place_files(placing: Placing, folder: Path, headers: Mapping[str, Header], target: Path) -> None:
    """Link, copy or write the files into the empty folder `target`, and sync those that are not linked.

    Raises DiskError (E-DISK), before anything is copied, if free space is too small; OSError where the file system
    refuses.
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


def _preferred(folder: Path, component: str, dtype: str) -> str | None:
    order = VARIANTS if dtype == "fp16" else VARIANTS[::-1]
    return next(variant for variant in order if has_weights(folder, component, variant))


def _verify_placed(new: Path, source: Path, placing: Placing, variant: str | None) -> dict[str, Fingerprint]:
    """Verify the staged folder as strictly as any; errors name the source's files."""
    model = check_structure(new, lambda _: variant)
    files = [path.relative_to(new).as_posix() for path in walk(new, CODE_ENDINGS)]
    shown = {file: source / old for file, old in (placing.same | placing.renamed).items()}
    return take_fingerprints(new, files, model.headers, known={}, shown=shown)


def _source_identities(folder: Path, placing: Placing, found: Mapping[str, Fingerprint]) -> dict[str, FileIdentity]:
    """Size and SHA256 of every file of the source that the model is made from."""
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
    conversion: Conversion,
    model: VerifiedModel,
    placing: Placing,
    sources: Mapping[str, FileIdentity],
    found: Mapping[str, Fingerprint],
) -> ConversionAudit:
    names = [tensor for weights in model.weights.values() for tensor in weights.tensors]
    ignored = Counter(reason for reason in map(ignored_reason, names) if reason is not None)
    architecture = name_of(model.entries)
    known = "its configs give that architecture's tensors, and it has them all"
    custom = "its configs give no architecture's tensors that comes with Darkroom; it has them all"
    scheduler = model.configs.scheduler
    is_given = "prediction_type" in scheduler
    return ConversionAudit(
        name=conversion.name,
        source=_title(model.folder),
        source_kind="folder",
        source_sha256=content_digest(sources),
        source_bytes=sum(identity.size for identity in sources.values()),
        autov2=None,
        title=None,
        architecture=architecture,
        architecture_reason=custom if architecture == "custom" else known,
        prediction_type=str(scheduler.get("prediction_type", "epsilon")),
        prediction_evidence=f"its scheduler_config.json {'says so' if is_given else 'is silent'}",
        zero_terminal_snr=bool(scheduler.get("rescale_betas_zero_snr", False)),
        layouts={component: _layout(component, model, placing) for component in model.weights},
        dtypes_in=dict(sorted(model.dtypes.items())),
        dtype_out=model.dtype,
        keys_mapped=len(names) - ignored.total(),
        keys_ignored=ignored.total(),
        keys_by_reason=dict(ignored),
        keys_missing=0,
        tensors_written=len(names),
        written_bytes=sum(fingerprint.size for fingerprint in found.values()),
        revision=revisions.CONVERT,
        seconds=conversion.seconds,
        asked=conversion.asked,
    )


def _layout(component: str, model: VerifiedModel, placing: Placing) -> str:
    weights, names = model.weights[component], FOLDER_NAMES[component]
    layout = names.other if any(path in weights.headers for path in placing.renamed.values()) else names.classic
    return f"{layout} in {len(weights.headers)} shards" if weights.index else layout


def _title(folder: Path) -> str:
    """The folder's name; for a snapshot in Hugging Face's cache the repository's name and the revision."""
    if linked_blobs(folder):
        repository = folder.parent.parent.name.removeprefix("models--").replace("--", "/")
        return f"{repository}@{folder.name}"
    return folder.name


def _copy_renamed(path: Path, header: Header, names: Mapping[str, str], target: Path) -> None:
    """Copy a weight file with the tensors renamed in its header."""
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
