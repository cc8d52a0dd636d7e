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

Shown = tuple[GalleryPicture, PictureRecord]


@dataclass(frozen=True, slots=True)
class GalleryData:
    """What the chunks hold, by kind."""

    chunks: Mapping[str, Sequence[bytes]]
    texts: int


def collect_chunks(
    shown: Sequence[Shown],
    lines: Mapping[str, bytes],
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
        make_chunk("details", number, [_details(*pair, lines, by_path) for pair in part])
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
    columns: dict[str, _Column] = {}
    for place, (picture, record) in enumerate(shown):
        request = picture.request
        text = _texts(request)
        row = {
            "sheet": picture.sheet,
            "checkpoint": picture.checkpoint,
            "id": picture.id,
            "seed": str(picture.seed),  # may be larger than a number in JavaScript can be
            "stage": picture.last_stage,
            "stages": picture.stage,
            "path": None if picture.path == picture.name + _SUFFIX else picture.path,
            "width": record.width,
            "height": record.height,
            "text": texts.setdefault(text, len(texts)),
            "warnings": record.warnings or None,
            "sha256": record.sha256,
            "prompt id": (picture.study or {}).get("prompt"),
            **{f"axis {name}": label for name, label in (picture.study or {}).get("axes", {}).items()},
            **_settings(request),
            **{f"score {name}": value for name, value in scores.get(picture.name, {}).items()},
            **_measured(measures.get(picture.name)),
        }
        for name, value in row.items():
            if value is not None and value != "":
                columns.setdefault(name, _Column()).set(place, value)
    return {name: column.pack(len(shown)) for name, column in columns.items()}


class _Column:
    """The values of one column, each once, and which picture has which."""

    __slots__ = ("_codes", "_known", "_values")

    def __init__(self) -> None:
        self._known: dict[Any, int] = {}
        self._values: list[Any] = []
        self._codes: list[tuple[int, int]] = []

    def set(self, place: int, value: Any) -> None:
        key = (type(value), value) if not isinstance(value, list | dict) else _dump(value)
        code = self._known.get(key)
        if code is None:
            code = self._known[key] = len(self._values)
            self._values.append(value)
        self._codes.append((place, code))

    def pack(self, count: int) -> list[Any]:
        if len(self._codes) == count and len(self._values) == 1:
            return [self._values]
        codes = [-1] * count
        for place, code in self._codes:
            codes[place] = code
        return [self._values] if codes == list(range(count)) else [self._values, codes]


def _texts(request: Mapping[str, Any]) -> tuple[str, ...]:
    texts = (request.get("prompt") or "", request.get("negative_prompt") or "")
    second = (request.get("prompt_2") or "", request.get("negative_prompt_2") or "")
    return (*texts, *second) if any(second) else texts


def _settings(request: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that cards, facets and the search know, without prompts; those of stages by `STAGE SETTING`."""
    found = {name: _flat(value) for name, value in request.items() if name not in _NOT_SETTINGS}
    found["loras"] = _loras(request) or None
    found["given picture"] = "yes" if request.get("image") else None
    for stage in request.get("stages", ()):
        for kind, settings in stage.items():
            found |= {f"{kind} {name}": _flat(value) for name, value in settings.items()}
    return found


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


def _measured(measures: Measures | None) -> dict[str, Any]:
    if measures is None:
        return {}
    numbers = {name: getattr(measures, name) for name in _MEASURES}
    found = {name: None if value is None else round(value, _MEASURES[name]) for name, value in numbers.items()}
    return found | {f"score {name}": float(f"{value:.4g}") for name, value in measures.scores.items()}


def _details(
    picture: GalleryPicture,
    record: PictureRecord,
    lines: Mapping[str, bytes],
    by_path: Mapping[str, GalleryPicture],
) -> str:
    parts = [lines[picture.name].decode(), _dump(record.infotext)]
    if picture.before is not None:
        parts.append(_dump(find_earlier(picture, by_path)))
    return f"[{','.join(parts)}]"


def _dump(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))


def _parts(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))
