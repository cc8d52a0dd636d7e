"""Two runs compared by their manifests: which pictures are the same, which changed and how, and which only one of them has.

A picture is the same if its file is, or if its pixels and its settings are: metadata holds versions too. Pixels are compared
where both files are there and are those that the manifests list.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

from darkroom.base.text import read_text, shorten
from darkroom.errors import ImageError, InputError
from darkroom.pictures.formats import format_of
from darkroom.pictures.png import read_png_text
from darkroom.pictures.records import MANIFEST

_SHOWN = 60
_EMPTY: tuple[Any, ...] = (None, "", [], {}, ())


@dataclass(frozen=True, slots=True)
class Run:
    """The manifest of a run, its folder, and its lines by the pictures' names, `SHEET/CHECKPOINT/ID-SEED…`."""

    manifest: Path
    entries: Mapping[str, dict[str, Any]]

    def file(self, name: str) -> Path:
        return self.manifest.parent / str(self.entries[name]["file"])


@dataclass(frozen=True, slots=True)
class PixelChange:
    """How two pictures differ: the largest and the mean difference of a value, of 255; `sizes` if these differ."""

    largest: int = 0
    mean: float = 0.0
    is_visible: bool = True
    sizes: tuple[tuple[int, int], tuple[int, int]] | None = None

    def describe(self) -> str:
        """`pixels differ by up to 12 of 255, 0.031 on average, not visibly`."""
        if self.sizes is not None:
            old, new = (f"{width} x {height}" for width, height in self.sizes)
            return f"size {old} → {new}"
        if not self.largest:
            return "same pixels"
        seen = "" if self.is_visible else ", not visibly"
        return f"pixels differ by up to {self.largest} of 255, {self.mean:.2g} on average{seen}"


@dataclass(frozen=True, slots=True)
class Change:
    """A picture that both runs have: the settings that differ, by name, and the pixels. `unknown` says why these aren't compared."""

    name: str
    settings: Mapping[str, tuple[Any, Any]]
    pixels: PixelChange | None = None
    unknown: str = ""

    def describe(self) -> str:
        """`steps 20 → 25; pixels differ by up to 120 of 255, 14 on average`."""
        parts = [f"{key} {' → '.join(_without_same_start(*both))}" for key, both in self.settings.items()]
        parts.append(self.pixels.describe() if self.pixels else f"files differ, pixels not compared: {self.unknown}")
        return "; ".join(parts)


@dataclass(slots=True)
class RunDifference:
    """The pictures by name; `made_by` are versions and devices that differ, as sorted lists of both runs' values."""

    same: list[str] = field(default_factory=list)
    changed: list[Change] = field(default_factory=list)
    only_old: list[str] = field(default_factory=list)
    only_new: list[str] = field(default_factory=list)
    made_by: dict[str, tuple[list[str], list[str]]] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether both runs have the same pictures, whatever made them."""
        return not (self.changed or self.only_old or self.only_new)


def read_run(path: Path) -> Run:
    """The run of a manifest, or of the folder that it lies in, or of a project's folder.

    Raises InputError (E-INPUT) if there is none, and for a line that is none of a manifest.
    """
    places = [path / MANIFEST, path / "results" / MANIFEST] if path.is_dir() else [path]
    manifest = next((each for each in places if each.is_file()), places[0])
    hint = "name a manifest.jsonl, or the results folder that it lies in"
    text = read_text(manifest, what="manifest", error=InputError, missing=hint)
    entries: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            entry = _read_line(line, f"{manifest}:{number}")
            entries[entry["file"].rpartition(".")[0]] = entry
    return Run(manifest, entries)


def _read_line(line: str, place: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        entry = None
    kinds = {"file": str, "sha256": str, "request": dict}
    if not isinstance(entry, dict) or any(not isinstance(entry.get(key), kind) for key, kind in kinds.items()):
        why = "is no line of a manifest, which has file, sha256 and request"
        raise InputError("line", place, why, "name the manifest.jsonl of a run's results folder")
    parts = Path(entry["file"]).parts
    if Path(entry["file"]).is_absolute() or ".." in parts or not parts:
        why = f"leads out of the results folder ({place})"
        raise InputError("file", shorten(entry["file"]), why, "use the manifest as Darkroom wrote it")
    return entry


def compare_runs(old: Run, new: Run) -> RunDifference:
    """What differs. Raises ImageError (E-IMAGE) for a picture that is as its manifest says but can't be read."""
    found = RunDifference()
    for name in old.entries:
        if name not in new.entries:
            found.only_old.append(name)
        elif (change := _compare_picture(name, old, new)) is None:
            found.same.append(name)
        else:
            found.changed.append(change)
    found.only_new = [name for name in new.entries if name not in old.entries]
    found.made_by = _compare_makers(old, new)
    return found


def _compare_picture(name: str, old: Run, new: Run) -> Change | None:
    """How a picture changed; None if it is the same."""
    one, other = old.entries[name], new.entries[name]
    if one["sha256"] == other["sha256"]:
        return None
    settings = compare_settings(one, other)
    data = []
    for run in (old, new):
        path = run.file(name)
        try:
            data.append(path.read_bytes())
        except OSError:
            return Change(name, settings, unknown=f"{path} is missing")
        if hashlib.sha256(data[-1]).hexdigest() != run.entries[name]["sha256"]:
            return Change(name, settings, unknown=f"{path} is another file than {run.manifest} lists")
    pixels = _compare_pixels(data[0], data[1], old.file(name), new.file(name))
    is_same = not settings and not pixels.largest and pixels.sizes is None
    return None if is_same else Change(name, settings, pixels)


def _compare_pixels(one: bytes, other: bytes, old: Path, new: Path) -> PixelChange:
    import numpy as np

    from darkroom.pictures.comparison import difference, is_visible

    images = [format_of(path).decode(data, path) for data, path in ((one, old), (other, new))]
    if images[0].size != images[1].size:
        return PixelChange(sizes=(images[0].size, images[1].size))
    change = difference(*(np.asarray(image) for image in images))
    return PixelChange(int(change.max()), round(float(change.mean()), 4), is_visible(change))


def compare_settings(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The settings that differ between two lines of manifests, by names such as `steps`, `loras.grain.unet`, `1-hires.steps`.

    A setting that one of them lacks is None there.
    """
    before, after = (flatten(each["request"]) | _model(each) for each in (old, new))
    keys = dict.fromkeys([*before, *after])
    return {key: (before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)}


def _model(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {"model_hash": entry["model_hash"]} if entry.get("model_hash") else {}


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A request's settings in one level, without those that aren't set; LoRAs by name, stages by number and name."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if key == "stages" and isinstance(value, list):
            for number, stage in enumerate(value, start=1):
                for each, own in stage.items():
                    found[f"{number}-{each}"] = "on"
                    found |= flatten(own, f"{number}-{each}.")
        elif key == "loras" and isinstance(value, list):
            for use in value:
                found |= flatten({k: v for k, v in use.items() if k != "name"}, f"{name}.{use.get('name')}.")
        elif isinstance(value, dict):
            found |= flatten(value, f"{name}.")
        elif value not in _EMPTY:
            found[name] = value
    return found


def _compare_makers(old: Run, new: Run) -> dict[str, tuple[list[str], list[str]]]:
    """Versions and devices that aren't the same for both runs; nothing of what one of them says nothing about."""
    before, after = (_makers(run) for run in (old, new))
    return {
        key: (sorted(values), sorted(after[key]))
        for key, values in sorted(before.items())
        if key in after and values != after[key]
    }


def _makers(run: Run) -> dict[str, set[str]]:
    """By which versions a run's pictures were made, and on what, as the manifest says, or else the pictures that are there."""
    found: dict[str, set[str]] = {}
    for name, entry in run.entries.items():
        made = entry if "versions" in entry else _read_maker(run.file(name))
        for key, value in _pairs(made):
            found.setdefault(key, set()).add(value)
    return found


def _read_maker(path: Path) -> dict[str, Any]:
    try:
        made = json.loads(read_png_text(path).get("darkroom", "{}"))
    except (ImageError, ValueError, RecursionError):
        return {}
    return made if isinstance(made, dict) else {}


def _pairs(made: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    for key in ("versions", "made_on"):
        values = made.get(key)
        if isinstance(values, dict):
            yield from ((str(name), str(value)) for name, value in values.items())


def _without_same_start(*values: Any) -> list[str]:
    """Values as short texts; long texts from the words on that differ."""
    texts = [text_of(value) for value in values]
    count = len(list(takewhile(lambda signs: len(set(signs)) == 1, zip(*texts, strict=False))))
    start = texts[0].rfind(" ", 0, count) + 1 if max(map(len, texts)) > _SHOWN else 0
    return [shorten(f"…{text[start:]}" if start else text, _SHOWN) for text in texts]


def text_of(value: Any) -> str:
    """A setting's value in a line of text."""
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value)
