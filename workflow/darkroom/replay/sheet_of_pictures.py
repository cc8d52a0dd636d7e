"""A YAML sheet of pictures: common settings in `defaults`, one entry a picture, and beside it as comments what was not used.

Reading the sheet gives the same requests: every text is a quoted scalar, `${` in it is written as `$${`, and what a picture
surely did not have is written out, so that the configuration's own `render` settings don't change it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from darkroom.base.files import write_bytes
from darkroom.base.names import is_reserved
from darkroom.base.text import shorten
from darkroom.errors import DarkroomError, SheetError
from darkroom.replay.foreign import ForeignPicture, ModelReference
from darkroom.replay.model_matching import ModelMatch, checkpoint_of, with_matches
from darkroom.request.render_request import RenderRequest
from darkroom.sheets.control_settings import CONTROL
from darkroom.sheets.settings import SETTING_KEYS
from darkroom.sheets.study import TEXTS
from darkroom.sheets.then import STAGE_TEXTS, THEN

NEUTRAL: dict[str, Any] = {
    "negative_prompt": "",
    "clip_skip": 0,
    "cfg_rescale": 0,
    "freeu": None,
    "eta": None,
    "vae": None,
    "prompt_2": None,
    "negative_prompt_2": None,
    "variation_strength": 0,
}
"""What a picture has whose metadata states nothing else."""
_MAX_ID = 60
_COMMENT_WIDTH = 110
_FIRST = ("id", "prompt", "negative_prompt", "checkpoints", "seed", "seeds")
_SAFE_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_KEPT_WORDS = ("null", "true", "false", "yes", "no", "on", "off")


@dataclass(frozen=True, slots=True)
class SheetEntry:
    """A prompt of a sheet: its keys as a sheet has them, texts as they are to be drawn, and lines to stand beside it.

    `name` is what its id is made of. `files` are the picture files that the settings name by their SHA-256.
    """

    name: str
    settings: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    files: Mapping[str, Path] = field(default_factory=dict)


def entry_of(foreign: ForeignPicture, matches: Sequence[ModelMatch], path: Path | str) -> SheetEntry:
    """The entry of a foreign picture, with its models' names as configured."""
    settings, left = with_matches(foreign, matches)
    notes = [f"{Path(path).name}, by {foreign.tool}"]
    notes += [str(each) for each in matches if each.is_notable]
    notes += [f"not used: {each}" for each in (*foreign.unused, *left)]
    notes += [f"differs: {each}" for each in foreign.differs]
    return entry_of_request(settings, path, checkpoint=checkpoint_of(matches), notes=notes)


def entry_of_request(
    settings: Mapping[str, Any],
    path: Path | str,
    *,
    checkpoint: str | None = None,
    notes: Iterable[str] = (),
    files: Mapping[str, Path] = MappingProxyType({}),
) -> SheetEntry:
    """The entry of settings as a RenderRequest has them; `checkpoint` is a name in the configuration, None for all of them.

    `files` are where the picture files are that the settings name by their SHA-256.
    """
    made = {**NEUTRAL, **{key: value for key, value in settings.items() if key != "embeddings"}}
    if not made["variation_strength"]:
        made.pop("variation_seed", None)
    stages = made.pop("stages", None)
    if stages:
        made[THEN] = [dict(each) for each in stages]
    if not made.get("loras"):
        made.pop("loras", None)
    if checkpoint is not None:
        made["checkpoints"] = [checkpoint]
    return SheetEntry(Path(path).stem, made, tuple(notes), files)


def references_as_matches(references: Iterable[ModelReference]) -> tuple[ModelMatch, ...]:
    """Matches for where no configuration is known: every model under its own name."""
    return tuple(ModelMatch(each, each.name, "name") for each in references if each.kind != "checkpoint")


def write_sheet(entries: Iterable[SheetEntry], out: Path | str) -> None:
    """Write the sheet atomically. Raises as `sheet_text`, and DiskError (E-DISK)."""
    write_bytes(out, sheet_text(entries).encode())


def sheet_text(
    entries: Iterable[SheetEntry],
    *,
    about: Sequence[str] = (),
    left_out: Sequence[str] = (),
    styles_file: Path | None = None,
) -> str:
    """The sheet as YAML text; `about` are comment lines at its top, `left_out` at its end, each with its reason.

    A picture that no request can be made of becomes a comment too. Raises SheetError (E-SHEET) if nothing else is left.
    """
    usable: list[tuple[SheetEntry, dict[str, Any]]] = []
    refused: list[tuple[SheetEntry, str]] = []
    for entry in entries:
        reason = _why_not(entry)
        if reason is None:
            usable.append((entry, _with_paths(entry)))
        else:
            refused.append((entry, reason))
    if not usable:
        reasons = [*(f"{entry.name}: {reason}" for entry, reason in refused), *left_out]
        why = f"nothing of them can be in a sheet{': ' + reasons[0] if reasons else ''}"
        raise SheetError("prompts", None, why, "write the sheet by hand")
    common = _common([settings for _, settings in usable])
    lines = _comments(about, "")
    if common:
        lines += [
            "defaults:",
            *(f"  {key}: {_scalar(value)}" for key, value in _ordered(common) if key != "checkpoints"),
        ]
    if "checkpoints" in common:
        lines.append(f"checkpoints: {_scalar(common['checkpoints'])}")
    if styles_file is not None:
        lines.append(f"styles_file: {_scalar(str(styles_file))}")
    lines.append("prompts:")
    taken: set[str] = set()
    for entry, settings in usable:
        own = {key: value for key, value in settings.items() if key not in common}
        lines += _entry(entry, {"id": _make_id(entry.name, taken), **own})
    for entry, reason in refused:
        lines += _comments([f"left out: {entry.name}: {reason}", *entry.notes], "  ")
    lines += _comments([f"left out: {reason}" for reason in left_out], "  ")
    return "\n".join(lines) + "\n"


def _with_paths(entry: SheetEntry) -> dict[str, Any]:
    """The entry's settings with the paths of files in place of their SHA-256; a picture that it begins with gives the size."""
    made = dict(entry.settings)
    if image := made.pop("image", None):
        made = {key: value for key, value in made.items() if key not in ("width", "height")}
        made["from"] = _shown(entry.files[image])
    if _pictures(made):
        if THEN in made:
            made[THEN] = [{name: _named(given, entry.files)} for stage in made[THEN] for name, given in stage.items()]
        made = _named(made, entry.files)
    return made


def _named(settings: Mapping[str, Any], files: Mapping[str, Path]) -> dict[str, Any]:
    """The settings of a picture or a stage with the paths of its mask and its control pictures."""
    made = {**settings, "mask": _shown(files[settings["mask"]])} if "mask" in settings else dict(settings)
    if made.get(CONTROL):
        made[CONTROL] = [
            {**control, "image": _shown(files[control["image"]])} if control.get("image") else control
            for control in made[CONTROL]
        ]
    return made


def _pictures(settings: Mapping[str, Any]) -> list[str]:
    """The SHA-256 of the masks and control pictures that settings and their stages name."""
    then = settings.get(THEN)
    stages = [stage for stage in then if isinstance(stage, Mapping)] if isinstance(then, list) else []
    layers = [settings, *(given for stage in stages for given in stage.values() if isinstance(given, Mapping))]
    masks = [layer["mask"] for layer in layers if "mask" in layer]
    controls = [control for layer in layers for control in layer.get(CONTROL) or ()]
    return [*masks, *(control["image"] for control in controls if control.get("image"))]


def _shown(path: Path) -> str:
    """A path as a sheet names it, from the project's folder."""
    return Path(os.path.relpath(path)).as_posix() if path.resolve().is_relative_to(Path.cwd()) else str(path.resolve())


def _why_not(entry: SheetEntry) -> str | None:
    """Why settings can't be in a sheet, whatever is configured; None if they can."""
    settings = entry.settings
    plain = {key: value for key, value in settings.items() if key in (*SETTING_KEYS, "prompt", CONTROL)}
    seeds = plain.pop("seeds", None) or [plain.get("seed", 0)]
    then = settings.get(THEN)
    if settings.get("image") and settings["image"] not in entry.files:
        return "it begins with another picture, known by its hash only"
    if any(sha256 not in entry.files for sha256 in _pictures(settings)):
        return "it has a mask or a control picture, known by its hash only"
    preset = plain.pop("preset", None)
    try:
        given = {**plain, "seed": seeds[0], **({"stages": then} if then and isinstance(then, list) else {})}
        request = RenderRequest.from_settings(given)
        request.timelines  # noqa: B018  # raises what tags and AND raise
        request.all_loras  # noqa: B018
    except DarkroomError as error:
        return None if preset else error.why
    return None


def _common(layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all have with the same value, without what is a prompt's own."""
    first = layers[0]
    apart = ("prompt", "seed", "seeds", "id", "variables", "styles", "from")
    keys = [key for key in first if key not in apart]
    return {key: first[key] for key in keys if all(key in each and _same(each[key], first[key]) for each in layers)}


def _same(one: Any, other: Any) -> bool:
    return json.dumps(one, sort_keys=True, default=str) == json.dumps(other, sort_keys=True, default=str)


def _entry(entry: SheetEntry, settings: Mapping[str, Any]) -> list[str]:
    lines = _comments(entry.notes, "  ")
    for number, (key, value) in enumerate(_ordered(settings)):
        lead = "  - " if number == 0 else "    "
        lines.append(f"{lead}{_key(key)}: {_scalar(value)}")
    return lines


def _ordered(settings: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Keys and values in the order in which people look for them, texts as a sheet has them."""
    keys = [*(key for key in _FIRST if key in settings), *(key for key in settings if key not in _FIRST)]
    return [(key, _escaped(key, settings[key])) for key in keys]


def _escaped(key: str, value: Any) -> Any:
    """Texts that are templates in a sheet with `${` written so that it stays a text."""
    if key in TEXTS and isinstance(value, str):
        return value.replace("${", "$${")
    if key == THEN and isinstance(value, list):
        return [{name: _escaped_stage(given) for name, given in each.items()} for each in value]
    return value


def _escaped_stage(given: Any) -> Any:
    if not isinstance(given, Mapping):
        return given
    return {
        key: text.replace("${", "$${") if key in STAGE_TEXTS and isinstance(text, str) else text
        for key, text in given.items()
    }


def _comments(texts: Iterable[str], indent: str) -> list[str]:
    lines = []
    for text in texts:
        clean = "".join(sign if sign.isprintable() else "\ufffd" for sign in " ".join(str(text).split()))
        lines.append(f"{indent}# {shorten(clean, 400)}")
    return lines


def _make_id(name: str, taken: set[str]) -> str:
    slug = re.sub(r"[^a-z0-9_.-]+", "-", name.lower())
    slug = re.sub(r"\.{2,}", ".", slug).strip("-._")[:_MAX_ID].strip("-._") or "picture"
    if is_reserved(slug):
        slug = f"{slug.split('.')[0]}-1"
    made, number = slug, 1
    while made in taken:
        number += 1
        made = f"{slug}-{number}"
    taken.add(made)
    return made


def _key(key: str) -> str:
    return key if _SAFE_KEY.fullmatch(key) and key.lower() not in _KEPT_WORDS else _text(key)


def _scalar(value: Any) -> str:
    """A value in YAML's flow style; texts are always in quotes."""
    if value is None or isinstance(value, bool):
        return {None: "~", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return str(int(value)) if value == int(value) and abs(value) < 2**53 else repr(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(str(key))}: {_scalar(each)}" for key, each in value.items()) + "}"
    return "[" + ", ".join(_scalar(each) for each in value) + "]"


def _text(text: str) -> str:
    """A text in double quotes; what no editor shows, and what YAML would read as a line's end, is escaped."""
    return '"' + "".join(_sign(sign) for sign in text) + '"'


def _sign(sign: str) -> str:
    if sign in '"\\':
        return "\\" + sign
    if sign == "\n":
        return "\\n"
    if sign.isprintable():
        return sign
    code = ord(sign)
    if 0xD800 <= code < 0xE000:  # half of a pair, which no file can hold
        return "\ufffd"
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 2**16 else f"\\U{code:08x}"
