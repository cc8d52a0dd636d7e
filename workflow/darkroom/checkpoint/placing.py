"""Placing the files of a Diffusers folder in another: weights are linked where the file system can, else copied.

Weights get the file names that a conversion would give them. Text encoders whose tensors have the flattened names of
newer transformers, and VAEs whose attention has those of older diffusers, are written anew under the classic ones; a
vocabulary that only newer transformers reads is written in the classic form too. So every loader can read the folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from darkroom.checkpoint.architectures import component_tensors
from darkroom.checkpoint.byte_ranges import copy_range, write_range
from darkroom.checkpoint.header import Header, encode_header
from darkroom.checkpoint.index import INDEX, read_json
from darkroom.checkpoint.keymap import COMPONENTS
from darkroom.checkpoint.linking import copy, link
from darkroom.checkpoint.plan import weight_path
from darkroom.checkpoint.publish import check_room
from darkroom.checkpoint.verify import ONE_FILE_VOCABULARY, VOCABULARY_FILES, Structure, classic_names
from darkroom.checkpoint.weights import index_path, shard_path
from darkroom.errors import IndexFileError

TOKENIZERS = ("tokenizer", "tokenizer_2")
_TOKENIZER_FILES = (
    "added_tokens.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
    ONE_FILE_VOCABULARY,
    *VOCABULARY_FILES,
)
_ROOM_HINT = "free some disk space, or keep the folder and the models on one file system, where nothing is copied"


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
    check_room(target.parent.parent, need + sum(map(len, placing.written.values())), _ROOM_HINT)
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
