"""The data of the gallery's page: what every picture has as columns, prompts once each, the rest in chunks for single pictures.

- A block holds the columns of BLOCK pictures: what cards, facets, sorting and layout need. A column is `[values, codes]`,
  where a picture's value is `values[code]` and -1 stands for none, or `[[value]]` if all have the same.
- Texts are the different `[prompt, negative prompt, …]`, numbered in the order in which they first appear.
- Details are for each picture its line of the manifest, its infotext, and the pictures that it was made of.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from darkroom.errors import DarkroomError
from darkroom.pictures.gallery_chunks import make_chunk
from darkroom.pictures.measures import Measures
from darkroom.pictures.picture import GalleryPicture, Scores
from darkroom.pictures.records import PictureRecord
from darkroom.request.lora_tags import take_out_loras

BLOCK = 4096
TEXTS = 256
DETAILS = 200
"""Pictures whose details are read together, some 400 KB: a browser reads that in a few milliseconds."""

_NOT_SETTINGS = frozenset(
    (
        "prompt",
        "negative_prompt",
        "prompt_2",
        "negative_prompt_2",
        "seed",
        "width",
        "height",
        "loras",
        "image",
        "stages",
    )
)
_MEASURES = {"difference": 2, "ssim": 4, "hash_distance": 0, "clipped": 4, "contrast": 2}
_SUFFIX = ".png"
_OWN = frozenset(("prompt", "negative_prompt", "prompt_2", "negative_prompt_2", "seed"))
"""What nearly each picture has for itself; LoRAs may also stand in prompts."""
_dump = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

Shown = tuple[GalleryPicture, PictureRecord]


@dataclass(frozen=True, slots=True)
class GalleryData:
    """What the chunks hold, by kind."""

    chunks: Mapping[str, Sequence[bytes]]
    texts: int


def collect_chunks(
    shown: Sequence[Shown],
    lines: Mapping[str, str],
    by_path: Mapping[str, GalleryPicture],
    scores: Scores,
    measures: Mapping[str, Measures],
) -> GalleryData:
    """The chunks of the pictures that have cards; `lines` are the manifest's, `scores` and `measures` the numbers, by name."""
    texts: dict[tuple[str, ...], int] = {}
    blocks = [
        make_chunk("blocks", number, [_dump(_columns(part, texts, scores, measures))])
        for number, part in enumerate(_parts(shown, BLOCK))
    ]
    written = [make_chunk("texts", number, map(_dump, part)) for number, part in enumerate(_parts(list(texts), TEXTS))]
    details = [
        make_chunk("details", number, [_details(picture, record, lines, by_path) for picture, record in part])
        for number, part in enumerate(_parts(shown, DETAILS))
    ]
    return GalleryData({"blocks": blocks, "texts": written, "details": details}, len(texts))


def find_earlier(picture: GalleryPicture, by_path: Mapping[str, GalleryPicture]) -> list[tuple[str, str]]:
    """The pictures that the picture was made of, by their stages and addresses, the first one first."""
    found: list[tuple[str, str]] = []
    path = picture.before
    while path is not None:
        before = by_path.get(path)
        found.insert(0, ("first pass" if before is None else before.last_stage or "first pass", quote(path)))
        path = None if before is None else before.before
    return found


def _columns(
    shown: Sequence[Shown],
    texts: dict[tuple[str, ...], int],
    scores: Scores,
    measures: Mapping[str, Measures],
) -> dict[str, Any]:
    """The columns of some pictures by name; texts that aren't known yet get the next numbers."""
    pictures, records = [picture for picture, _ in shown], [record for _, record in shown]
    columns: dict[str, list[Any]] = {
        "sheet": [each.sheet for each in pictures],
        "checkpoint": [each.checkpoint for each in pictures],
        "id": [each.id for each in pictures],
        "seed": [str(each.seed) for each in pictures],  # may be larger than a number in JavaScript can be
        "stage": [each.last_stage or None for each in pictures],
        "stages": [each.stage or None for each in pictures],
        "path": [None if each.path == each.name + _SUFFIX else each.path for each in pictures],
        "width": [each.width for each in records],
        "height": [each.height for each in records],
        "text": [texts.setdefault(_texts(each.request), len(texts)) for each in pictures],
        "warnings": [each.warnings or None for each in records],
        "sha256": [each.sha256 for each in records],
        "made by": [made.describe() if each.versions and (made := each.made_by) else None for each in records],
    }
    columns |= _spread([_study_row(each.study) for each in pictures])
    columns |= _spread(_settings_rows(pictures))
    columns |= _spread([_numbers(scores.get(each.name), measures.get(each.name)) for each in pictures])
    return {name: packed for name, values in columns.items() if (packed := _pack(values)) is not None}


def _spread(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Rows as columns, in the order in which their names first appear."""
    names = dict.fromkeys(name for row in {id(row): row for row in rows}.values() for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _pack(values: Sequence[Any]) -> list[Any] | None:
    """`[values]` or `[values, codes]`, each value once; nothing for a column without values."""
    known: dict[Any, int] = {}
    found: list[Any] = []
    codes = []
    for value in values:
        if value is None:
            codes.append(-1)
            continue
        key = _dump(value) if isinstance(value, list) else (type(value), value) if isinstance(value, float) else value
        code = known.setdefault(key, len(found))
        if code == len(found):
            found.append(value)
        codes.append(code)
    if not found:
        return None
    is_plain = -1 not in codes and len(found) in (1, len(codes))
    return [found] if is_plain else [found, codes]


def _texts(request: Mapping[str, Any]) -> tuple[str, ...]:
    texts = (request.get("prompt") or "", request.get("negative_prompt") or "")
    second = (request.get("prompt_2") or "", request.get("negative_prompt_2") or "")
    return (*texts, *second) if any(second) else texts


def _settings_rows(pictures: Sequence[GalleryPicture]) -> list[Mapping[str, Any]]:
    """The settings of each picture; those of pictures that share all settings are one mapping."""
    known: dict[Any, Mapping[str, Any]] = {}
    rows = []
    for picture in pictures:
        request = picture.request
        key: Any = repr([value for name, value in request.items() if name not in _OWN])
        if "<" in request["prompt"] or "<" in (request.get("prompt_2") or ""):
            key = (key, request["prompt"], request.get("prompt_2"))
        row = known.get(key)
        if row is None:
            row = known[key] = _settings(request)
        rows.append(row)
    return rows


def _settings(request: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that cards, facets and the search know, without prompts; those of stages by `STAGE SETTING`."""
    found = {name: _flat(value) for name, value in request.items() if name not in _NOT_SETTINGS}
    found["loras"] = _loras(request) or None
    found["given picture"] = "yes" if request.get("image") else None
    for stage in request.get("stages", ()):
        for kind, settings in stage.items():
            found |= {f"{kind} {name}": _flat(value) for name, value in settings.items()}
    return found


def _study_row(study: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if study is None:
        return {}
    axes = {f"axis {name}": label for name, label in study.get("axes", {}).items()}
    return {"prompt id": study.get("prompt"), **axes}


def _flat(value: Any) -> Any:
    """A setting as a number or a text; nothing for one that isn't set."""
    if isinstance(value, dict):
        return ", ".join(
            f"{key} {each:g}" if isinstance(each, float) else f"{key} {each}" for key, each in value.items()
        )
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or None
    return value


def _loras(request: Mapping[str, Any]) -> list[list[Any]]:
    """`[name, weight]` of each LoRA, or `[name, weight, weight on the text encoders]` where that is another one."""
    uses = [(each["name"], each["unet"], each["te"]) for each in request.get("loras", ())]
    for prompt in (request.get("prompt") or "", request.get("prompt_2") or ""):
        if "<" in prompt:
            uses += [(each.name, each.unet, each.te) for each in _tags(prompt)]
    return [[name, unet] if unet == te else [name, unet, te] for name, unet, te in uses]


def _tags(prompt: str) -> Iterable[Any]:
    try:
        return take_out_loras(prompt)[1]
    except DarkroomError:  # no picture is rendered with such a prompt
        return []


def _numbers(scores: Mapping[str, float] | None, measures: Measures | None) -> Mapping[str, Any]:
    found: dict[str, Any] = {}
    if measures is not None:
        numbers = {name: getattr(measures, name) for name in _MEASURES}
        found = {name: None if value is None else round(value, _MEASURES[name]) for name, value in numbers.items()}
        found |= {f"score {name}": float(f"{value:.4g}") for name, value in measures.scores.items()}
    return found | {f"score {name}": value for name, value in (scores or {}).items()}


def _details(
    picture: GalleryPicture,
    record: PictureRecord,
    lines: Mapping[str, str],
    by_path: Mapping[str, GalleryPicture],
) -> str:
    parts = [lines[picture.path], _dump(record.infotext)]
    if picture.before is not None:
        parts.append(_dump(find_earlier(picture, by_path)))
    return f"[{','.join(parts)}]"


def _parts(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))
