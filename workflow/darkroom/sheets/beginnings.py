"""`from`: the pictures that chains of stages begin with, in place of first passes.

    from: photos/*.png                                       files, and patterns
    from: {sheet: demo, ids: [cat], axes: {age: old}, stage: first}   pictures of another sheet
    from: {sheet: demo, rating: ">=4"}                       those that people rated so

A file's prompt, seed and settings come from its metadata, and its chain is rendered from its bytes. Another sheet's picture is
known before it is made: its chain is continued by the stages of this sheet.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from darkroom.base.names import is_reserved
from darkroom.base.text import did_you_mean, shorten
from darkroom.errors import ImageError, SheetError
from darkroom.pictures.inputs import InputPictures
from darkroom.pictures.made_with import settings_of
from darkroom.sheets.axes import label_of
from darkroom.sheets.names import MAX_ID
from darkroom.sheets.planned import PlannedPicture, PlannedSheet, prompt_id
from darkroom.sheets.rated import choose_rated

FROM = "from"
_KEYS = ("sheet", "ids", "axes", "stage", "rating", "best")
_EXAMPLE = "write from: photos/*.png, or from: {sheet: NAME}"
_PATTERN = re.compile(r"[*?\[]")
_SMALLEST, _LARGEST = 64, 8192

SheetNamed = Callable[[str, str], PlannedSheet]
"""The sheet with this name, for a key at this place."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """A picture that a chain begins with: a file with the `settings` of its metadata, or a picture of another sheet.

    `id` is a file's; for a planned picture, which has one, the prompt's.
    """

    id: str
    title: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    picture: PlannedPicture | None = None


def read_beginnings(
    given: Any, own_id: str | None, place: str, inputs: InputPictures, sheet_named: SheetNamed
) -> list[Beginning]:
    """The pictures that a `from` names, in the order of their names; `own_id` is the prompt's, if it has one.

    Raises SheetError (E-SHEET) with the place for what can't be, and for what names nothing.
    """
    if isinstance(given, Mapping):
        return [Beginning(own_id or "", p.path, picture=p) for p in _choose(given, place, sheet_named)]
    paths = given if isinstance(given, list) else [given]
    if not paths or not all(isinstance(path, str) and path.strip() for path in paths):
        raise SheetError(FROM, shorten(given), f"is neither a path nor a sheet ({place})", _EXAMPLE)
    is_single = len(paths) == 1 and _match(paths[0], place)[0] == [Path(paths[0])]
    found: dict[Path, Beginning] = {}
    for path in paths:
        matched, root = _match(path, place)
        for file in matched:
            if file not in found:
                found[file] = _of_file(file, root, own_id, place, inputs, is_single=is_single)
    return list(found.values())


def _match(text: str, place: str) -> tuple[list[Path], Path]:
    """The files that a path or a pattern names, and the folder that their ids are made below."""
    pattern = Path(text).expanduser()
    if pattern.exists() or not _PATTERN.search(text):
        return [pattern], pattern.parent
    fixed = Path(pattern.anchor)
    for part in pattern.relative_to(pattern.anchor).parts[:-1]:
        if _PATTERN.search(part):
            break
        fixed /= part
    anchor = Path(pattern.anchor)
    found = sorted(path for path in anchor.glob(str(pattern.relative_to(anchor))) if path.is_file())
    if not found:
        raise SheetError(FROM, text, f"is a pattern that matches no file ({place})", "correct the pattern")
    return found, fixed


def _of_file(
    path: Path, root: Path, own_id: str | None, place: str, inputs: InputPictures, *, is_single: bool
) -> Beginning:
    try:
        picture = inputs.read(path)
        settings = settings_of(picture.texts, path)
    except ImageError as error:
        raise SheetError("picture", path, f"{error.why} ({place})", error.hint) from None
    size = {"width": -(-picture.width // 8) * 8, "height": -(-picture.height // 8) * 8}
    if not _SMALLEST <= min(size.values()) <= max(size.values()) <= _LARGEST:
        why = f"has {picture.width} x {picture.height} pixels, and an edge has {_SMALLEST} to {_LARGEST:,} ({place})"
        raise SheetError("picture", path, why, "resize it")
    slug = _slug(path.relative_to(root), settings.get("seed"))
    slug = slug if own_id is None else own_id if is_single else f"{own_id}.{slug}"
    layer = {**settings, "image": picture.sha256, **size}
    return Beginning(slug, str(path), layer, {picture.sha256: str(path)})


def _slug(path: Path, seed: object) -> str:
    """The id of a file: its path as a file's name. The seed is left out, since it stands behind the id anyway."""
    text = "-".join(path.with_suffix("").parts)
    text = text.removesuffix(f"-{seed}") or text
    slug = re.sub(r"\.{2,}", ".", re.sub(r"[^a-z0-9_.-]+", "-", text.lower())).strip("-._")
    if slug and text.isascii() and len(slug) <= MAX_ID and not is_reserved(slug):
        return slug
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{slug[: MAX_ID - 9].strip('-._')}-{digest}".strip("-")


def _choose(given: Mapping[str, Any], place: str, sheet_named: SheetNamed) -> list[PlannedPicture]:
    """The pictures of another sheet that a mapping names."""
    for key in given:
        if key not in _KEYS:
            raise SheetError(
                f"{FROM}: key", key, f"unknown ({place})", did_you_mean(key, _KEYS, f"known are {', '.join(_KEYS)}")
            )
    if not isinstance(given.get("sheet"), str):
        raise SheetError(FROM, label_of(dict(given)), f"names no sheet ({place})", _EXAMPLE)
    sheet = sheet_named(given["sheet"], place)
    pictures = list(sheet)
    chosen = _of_stage(pictures, given.get("stage"), place)
    chosen = _of_ids(chosen, given.get("ids"), place)
    chosen = _of_axes(chosen, given.get("axes"), place)
    if pictures and not chosen:
        raise SheetError(FROM, label_of(dict(given)), f"matches no picture ({place})", "leave ids, axes or stage out")
    return choose_rated(chosen, sheet, given["sheet"], given, place)


def _of_stage(pictures: list[PlannedPicture], stage: object, place: str) -> list[PlannedPicture]:
    """The pictures after a stage, by its name with or without its number; `first` for first passes, None for the last."""
    if stage is None:
        return [picture for picture in pictures if picture.is_result]
    if stage == "first":
        return [picture for picture in pictures if not picture.stage]
    ends = {picture.stage.rpartition(".")[2] for picture in pictures if picture.stage}
    names = {name for end in ends for name in (end, end.partition("-")[2])}
    if stage not in names and pictures:
        known = ["first", *sorted(ends)]
        hint = did_you_mean(str(stage), known, f"known are {', '.join(known)}")
        raise SheetError(f"{FROM}: stage", stage, f"is none of that sheet ({place})", hint)
    ends = {end for end in ends if stage in (end, end.partition("-")[2])}
    return [picture for picture in pictures if picture.stage.rpartition(".")[2] in ends]


def _of_ids(pictures: list[PlannedPicture], ids: object, place: str) -> list[PlannedPicture]:
    if ids is None:
        return pictures
    wanted = list(map(label_of, ids)) if isinstance(ids, list) else [label_of(ids)]
    known = {prompt_id(picture): None for picture in pictures}
    for each in wanted:
        if each not in known and pictures:
            hint = did_you_mean(each, known, f"known are {', '.join(list(known)[:20])}")
            raise SheetError(f"{FROM}: id", each, f"is none of that sheet ({place})", hint)
    return [picture for picture in pictures if prompt_id(picture) in wanted]


def _of_axes(pictures: list[PlannedPicture], axes: object, place: str) -> list[PlannedPicture]:
    if axes is None:
        return pictures
    if not isinstance(axes, Mapping):
        raise SheetError(
            f"{FROM}: axes", label_of(axes), f"is no mapping of axes to labels ({place})", "write {age: old}"
        )
    for name, values in axes.items():
        wanted = list(map(label_of, values)) if isinstance(values, list) else [label_of(values)]
        found = [(picture, (picture.study or {}).get("axes", {}).get(name, "~")) for picture in pictures]
        known = list(dict.fromkeys(label for _, label in found))
        for each in wanted:
            if each not in known and pictures:
                hint = did_you_mean(each, known, f"known are {', '.join(known[:20])}")
                raise SheetError(f"{FROM}: axis {name}", each, f"is none of its labels in that sheet ({place})", hint)
        pictures = [picture for picture, label in found if label in wanted]
    return pictures
