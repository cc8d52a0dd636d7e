"""Finished pictures as the pages know them: where each belongs, what was read from it, and the manifest of all.

A line of results/manifest.jsonl is a JSON object with the keys sheet, checkpoint, id, seed, file (relative to the
results folder), sha256 (of the file), model_hash (AutoV2 as the picture itself states it, or null), warnings and
request (as RenderRequest), for a study's picture, or one that goes on with such, study, its cell, with configured scores scores, by their names, and for a
picture that a stage made stage, its number and name. versions are those of the libraries that made the picture, made_on the
kind of device, its processor, dtype, what was compiled (compile) and, on a CPU, threads, as far as the picture says. Nothing else in it depends on when or where the run was made.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from darkroom.pictures.infotext import read_model_hash
from darkroom.pictures.records import MANIFEST, PictureRecord, load_scores

Scores = Mapping[str, Mapping[str, float]]
_encode = json.JSONEncoder(ensure_ascii=False).encode  # made once: `json.dumps` makes one each time


@dataclass(frozen=True, slots=True)
class GalleryPicture:
    """A finished picture and its place.

    `path` is relative to the results folder, with forward slashes; `request` is the RenderRequest as a dict. `study` is
    a study's cell: `prompt` (an id), `axes` (labels by axis), `draw` from 1 on, and `template` if it isn't the prompt;
    with `continued` it is the cell of the picture in another sheet that this one goes on with, and its sheet is no study.
    `stage` is what stands behind the seed in its name, `before` the path of the picture that the stage was applied to. One
    that isn't a result was made for the stages after it; pages show it as a part of these.
    """

    sheet: str
    checkpoint: str
    id: str
    seed: int
    path: str
    request: dict[str, Any]
    study: dict[str, Any] | None = None
    stage: str = ""
    before: str | None = None
    is_result: bool = True

    @property
    def name(self) -> str:
        """`SHEET/CHECKPOINT/ID-SEED`, or `…/ID-SEED.1-STAGE`: unique within the results folder, whatever the suffix."""
        return f"{self.sheet}/{self.checkpoint}/{self.id}-{self.seed}{self.stage and f'.{self.stage}'}"

    @property
    def is_cell(self) -> bool:
        """Whether it is a picture of a study."""
        return is_cell(self.study)

    @property
    def last_stage(self) -> str:
        """The number and name of the stage that made it, `2-upscale`; empty for a first pass."""
        return self.stage.rpartition(".")[2]


def is_cell(study: Mapping[str, Any] | None) -> bool:
    """Whether a picture with that `study`, in its line of the manifest, is one of a study."""
    return bool(study) and not (study or {}).get("continued")


def make_manifest(pictures: list[GalleryPicture], records: list[PictureRecord], scores: Scores) -> bytes:
    """The manifest, in the pictures' order; `records[i]` belongs to `pictures[i]`, `scores` are by picture's name."""
    pairs = zip(pictures, records, strict=True)
    return "".join(_line(picture, record, scores.get(picture.name)) for picture, record in pairs).encode()


def find_scores(results: Path, pictures: Iterable[GalleryPicture], records: Iterable[PictureRecord]) -> Scores:
    """The pictures' scores by their names, of those that have some; `records` belong to the pictures."""
    pairs = zip(pictures, records, strict=True)
    found = {picture.name: load_scores(results, picture.name, record.sha256) for picture, record in pairs}
    return {name: scores for name, scores in found.items() if scores is not None}


def read_manifest(results: Path) -> list[dict[str, Any]]:
    """The entries of a results folder's manifest. Raises OSError or ValueError where it can't be read."""
    # Only line feeds end a line: prompts may hold other characters that end lines.
    return [json.loads(line) for line in (results / MANIFEST).read_bytes().splitlines()]


def _line(picture: GalleryPicture, record: PictureRecord, scores: Mapping[str, float] | None) -> str:
    entry = {
        "sheet": picture.sheet,
        "checkpoint": picture.checkpoint,
        "id": picture.id,
        "seed": picture.seed,
        "file": picture.path,
        "sha256": record.sha256,
        "model_hash": read_model_hash(record.infotext),
        "warnings": record.warnings,
        "request": picture.request,
        **({} if picture.study is None else {"study": picture.study}),
        **({} if scores is None else {"scores": scores}),
        **({"stage": picture.last_stage} if picture.stage else {}),
        **({"versions": record.versions} if record.versions else {}),
        **({"made_on": record.made_on} if record.made_on else {}),
    }
    return _encode(entry) + "\n"


def group_pictures(pictures: list[GalleryPicture]) -> list[tuple[str, str, list[GalleryPicture]]]:
    """(sheet, checkpoint, its pictures), in the order in which each pair first appears."""
    pairs = {(p.sheet, p.checkpoint): place for place, p in reversed(list(enumerate(pictures)))}
    ordered = sorted(pictures, key=lambda p: pairs[p.sheet, p.checkpoint])
    return [
        (sheet, checkpoint, list(members))
        for (sheet, checkpoint), members in groupby(ordered, key=lambda p: (p.sheet, p.checkpoint))
    ]


def shorten_middle(text: str, limit: int) -> str:
    """At most `limit` characters on one line: prompts of a sweep differ at their end, so the middle goes first."""
    text = " ".join(text.split())
    if len(text) <= limit:
        return text
    room = limit - 3
    if room < 2:
        return "…"[:limit]
    head, tail = text[: room * 2 // 5], text[-(room - room * 2 // 5) :]
    head, tail = head.rpartition(" ")[0] or head, tail.partition(" ")[2] or tail
    return f"{head.rstrip(' ,')} … {tail}"
