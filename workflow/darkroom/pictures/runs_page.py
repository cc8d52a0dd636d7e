"""The page of `darkroom diff --html`: two runs' pictures side by side, opened from disk. It shows the files where they are."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from darkroom.base.files import write_bytes
from darkroom.errors import ImageError
from darkroom.pictures.png import read_size
from darkroom.pictures.records import thumbnail_path
from darkroom.pictures.two_runs import Change, Run, RunDifference, flatten, text_of
from darkroom.pictures.web_page import render_template, script_json

_STYLES = ("tokens.css", "parts.css", "viewer.css", "gallery_compare.css", "gallery_runs.css")
_SCRIPTS = ("dom.js", "gallery_zoom.js", "gallery_compare.js", "gallery_runs.js")


def write_runs_page(path: Path, old: Run, new: Run, found: RunDifference) -> None:
    """Write the page. Raises DiskError (E-DISK)."""
    folder = path.absolute().parent
    changed = [_changed(change, old, new, folder) for change in found.changed]
    sides = [("old", old, found.only_old), ("new", new, found.only_new)]
    page = render_template(
        "runs.html.j2",
        _STYLES,
        _SCRIPTS,
        title=f"{_name(old)} → {_name(new)}",
        counts=[(key, len(names)) for key, names in _counts(found)],
        changed=changed,
        only=[
            {"side": side, "title": _name(run), "cards": [_side(name, run, folder) for name in names]}
            for side, run, names in sides
        ],
        same=[_link(name, new, folder) for name in found.same],
        made_by=[(key, ", ".join(before), ", ".join(after)) for key, (before, after) in found.made_by.items()],
        runs=[str(run.manifest) for run in (old, new)],
        data=script_json([[each["old"], each["new"]] for each in changed]),
    )
    write_bytes(path, page.encode())


def _counts(found: RunDifference) -> Iterable[tuple[str, list[Any]]]:
    yield from (("same", found.same), ("changed", found.changed), ("only in old", found.only_old))
    yield "only in new", found.only_new


def _name(run: Run) -> str:
    """What tells two runs apart for people: the name of the project's folder, or of the results folder if it isn't `results`."""
    folder = run.manifest.absolute().parent
    return folder.parent.name if folder.name == "results" else folder.name


def _changed(change: Change, old: Run, new: Run, folder: Path) -> dict[str, Any]:
    sides = {"old": _side(change.name, old, folder), "new": _side(change.name, new, folder)}
    is_whole = all(each["url"] for each in sides.values())
    return {"name": change.name, "text": change.describe(), "can_compare": is_whole, **sides}


def _side(name: str, run: Run, folder: Path) -> dict[str, Any]:
    """A picture of a run: its addresses, its size and its settings; no addresses if its file isn't there."""
    path, entry = run.file(name), run.entries[name]
    settings = [(key, text_of(value)) for key, value in flatten(entry["request"]).items()]
    settings += [("model_hash", entry["model_hash"])] if entry.get("model_hash") else []
    side: dict[str, Any] = {"name": name, "url": None, "thumbnail": None, "settings": settings}
    try:
        width, height = read_size(path)
    except ImageError:
        return side
    small = run.manifest.parent / thumbnail_path(name)
    thumbnail = _address(small if small.is_file() else path, folder)
    return {**side, "url": _address(path, folder), "thumbnail": thumbnail, "width": width, "height": height}


def _link(name: str, run: Run, folder: Path) -> tuple[str, str | None]:
    path = run.file(name)
    return name, _address(path, folder) if path.is_file() else None


def _address(path: Path, folder: Path) -> str:
    """A file's address relative to the page's folder."""
    return quote(os.path.relpath(path.absolute(), folder).replace(os.sep, "/"))
