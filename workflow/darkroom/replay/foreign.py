"""What another tool's metadata says about a picture, in Darkroom's words: ForeignPicture, and the Draft that readers fill.

A reader hands every field of the metadata to the draft, which either becomes a setting or is listed with the reason why not.
So nothing is left out without a word, and what the settings make is a valid RenderRequest.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from darkroom.base.text import shorten
from darkroom.errors import DarkroomError, ImageError
from darkroom.replay.picture_texts import PictureTexts
from darkroom.request.lora_tags import LoraUse
from darkroom.request.render_request import RenderRequest
from darkroom.request.samplers import SCHEDULES, find_sampler, find_schedule, split_sampler

NOTHING = "changes no pixel"
"""The reason for fields that are about a picture."""
NOT_DONE = "Darkroom has no such setting"
NO_PICTURE = "was made from another picture, which its metadata doesn't hold"
_SHOWN = 200
_SUFFIXES = (".safetensors", ".ckpt", ".pth", ".pt", ".bin", ".sft", ".gguf")
AIR = re.compile(r"urn:air:[^:]*:(?P<kind>\w+):civitai:(?P<model>\d+)@(?P<version>\d+)", re.IGNORECASE)
"""A resource's name at Civitai (github.com/civitai/civitai/wiki/AIR)."""
_SIGN = re.compile("[\0\ud800-\udfff]")
_GIVEN_UP = ("schedule", "eta", "variation_strength", "stages", "sampler")
"""What is given up, in this order, where settings can't be together."""


@dataclass(frozen=True, slots=True)
class ModelReference:
    """A model that a picture names.

    `kind` is checkpoint, lora, embedding, vae or upscaler. `name` is that in the settings, without folder and suffix, None if
    only hashes are known. `hashes` are hex digits by what they are of: `sha256` of the file, whole or its beginning (`autov2`
    is such a one), `autov3` of a safetensors file without its header. `weight` is a LoRA's. `origin` says where it is from,
    such as a page or a version at Civitai.
    """

    kind: str
    name: str | None
    hashes: Mapping[str, str] = field(default_factory=dict)
    weight: float | None = None
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Unused:
    """A field of the metadata that became no setting, its shortened value, and the reason."""

    field: str
    value: str
    reason: str

    def __str__(self) -> str:
        return f"{self.field}: {self.value} ({self.reason})" if self.value else f"{self.field} ({self.reason})"


@dataclass(frozen=True, slots=True)
class ForeignPicture:
    """A picture by another tool.

    `tool` is its name, with its version if that is known. `settings` are those of a RenderRequest, `stages` among them, and
    always make a valid one; LoRAs, VAEs and upscalers in them have the tool's names. `differs` are sentences on what comes
    out otherwise in Darkroom although it is set.
    """

    tool: str
    settings: dict[str, Any]
    models: tuple[ModelReference, ...] = ()
    unused: tuple[Unused, ...] = ()
    differs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reader:
    """A tool's pictures: `detect` tells by what only that tool writes whether texts are its own, `read` fills a draft with them.

    `read` raises ImageError (E-IMAGE) for texts that are this tool's but can't be understood.
    """

    tool: str
    detect: Callable[[PictureTexts], bool]
    read: Callable[[PictureTexts], Draft]


class Draft:
    """A ForeignPicture in the making."""

    def __init__(self, tool: str) -> None:
        self.tool = tool
        self.settings: dict[str, Any] = {"prompt": ""}
        self.models: list[ModelReference] = []
        self.unused: list[Unused] = []
        self.differs: list[str] = []

    def set(self, key: str, value: Any, name: str | None = None, *, read: Callable[[Any], Any] | None = None) -> bool:
        """Make a field, called `name` in the metadata, a setting; one that can't be is listed with the reason."""
        try:
            made = value if read is None else read(value)
            reason = why_not(key, made, sampler=self.settings.get("sampler"))
        except (DarkroomError, ValueError, KeyError, TypeError, OverflowError) as error:
            reason = reason_of(error)
        if reason is not None:
            self.leave(name or key, value, reason)
            return False
        self.settings[key] = made
        return True

    def set_sampler(self, sampler: object, schedule: object = None, *, default: str = "Automatic") -> None:
        """Sampler and schedule by the tool's names; a schedule in the sampler's name wins. `default` is the schedule if there is none."""
        if sampler in (None, ""):
            return
        try:
            known, own = split_sampler(str(sampler))
        except ValueError as error:
            self.leave("sampler", sampler, f"{error}; Darkroom's default takes its place")
            if schedule not in (None, ""):
                self.leave("schedule", schedule, "belongs to the sampler")
            return
        self.settings["sampler"] = known
        self.settings["schedule"] = default
        if own is not None:
            self.settings["schedule"] = own
        elif schedule not in (None, ""):
            try:
                self.settings["schedule"] = find_schedule(str(schedule))
            except ValueError as error:
                self.leave("schedule", schedule, str(error))
        if find_sampler(known).eta and "noise" not in " ".join(self.differs):
            self.differs.append(f"{known} adds noise in each step, which {self.tool} draws in another way")

    def leave(self, name: str, value: object, reason: str) -> None:
        """List a field that isn't used."""
        self.unused.append(Unused(name, shorten(" ".join(_text(value).split()), _SHOWN), reason))

    def leave_rest(self, fields: Mapping[str, Any], reasons: Mapping[str, str] | None = None) -> None:
        """List all of these fields that hold something; reasons are by the beginnings of names."""
        for name, value in fields.items():
            if value in (None, "", [], {}):
                continue
            found = (reason for start, reason in (reasons or {}).items() if name.lower().startswith(start.lower()))
            self.leave(name, value, next(found, NOT_DONE))

    def refer(self, kind: str, name: object, hashes: Mapping[str, Any] | None = None, **more: Any) -> None:
        """Add a model; hashes are normalised, and one that is named twice is one reference with all its hashes."""
        known = {key: read for key, value in (hashes or {}).items() if (read := read_hash(value))}
        short = model_name(name)
        if air := AIR.search(str(name)):
            more.setdefault("origin", f"civitai:{air['version']}")
        if short is None and not known and not more.get("origin"):
            return
        for place, model in enumerate(self.models):
            if model.kind == kind and short is not None and model.name == short:
                weight = more.get("weight", model.weight)
                merged = {**model.hashes, **known}
                self.models[place] = ModelReference(kind, short, merged, weight, more.get("origin") or model.origin)
                return
        self.models.append(ModelReference(kind, short, known, **more))

    def add_lora(self, name: object, unet: object, te: object = None, hashes: Mapping[str, Any] | None = None) -> None:
        """A LoRA that the tool applies without a tag in the prompt."""
        short = model_name(name)
        try:
            weights = number(unet), number(unet if te is None else te)
            use = LoraUse(name=short or "", unet=weights[0], te=weights[1])
        except (ValueError, TypeError) as error:
            self.leave("LoRA", f"{name}: {unet}", reason_of(error))
            return
        self.settings.setdefault("loras", []).append(use.model_dump())
        self.refer("lora", name, hashes, weight=weights[0])

    def finish(self, path: object) -> ForeignPicture:
        """The picture. Raises ImageError (E-IMAGE) with `path` if no request can be made of it whatever is left out."""
        settings = {key: _clean(value) for key, value in self.settings.items()}
        reason = _why_not(settings)
        for key in _GIVEN_UP:
            if reason is not None and key in settings:
                self.leave(key, settings.pop(key), f"can't be together with the other settings: {reason}")
                reason = _why_not(settings)
        if reason is not None:
            why = f"has settings of {self.tool} that can't be used: {reason}"
            raise ImageError("picture", path, why, "write a sheet by hand")
        unused, differs = dict.fromkeys(self.unused), dict.fromkeys(self.differs)
        return ForeignPicture(self.tool, settings, tuple(self.models), tuple(unused), tuple(differs))


def why_not(key: str, value: Any, *, sampler: object = None) -> str | None:
    """Why no picture can have this value of a setting, None if one can; `sampler` is the one that an eta is for."""
    beside = {"sampler": sampler} if key == "eta" and sampler else {}
    return _why_not({"prompt": "", "variation_seed": 0, **beside, key: value})


def _why_not(settings: Mapping[str, Any]) -> str | None:
    """Why no request can be made of settings; None if one can."""
    try:
        _check(settings)
    except (DarkroomError, ValueError) as error:
        return reason_of(error)
    return None


def _check(settings: Mapping[str, Any]) -> None:
    RenderRequest.from_settings(dict(settings), "metadata")


def reason_of(error: Exception) -> str:
    """Why a value can't be, in a few words."""
    if isinstance(error, DarkroomError):
        return error.why
    return str(error) if isinstance(error, ValueError) and "\n" not in str(error) else "can't be read"


def number(value: object) -> float:
    """A finite number, also from a text. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("is no number")
    try:
        made = float(value)
    except (ValueError, OverflowError):
        raise ValueError("is no number") from None
    if not math.isfinite(made):
        raise ValueError("is no finite number")
    return made


def whole(value: object) -> int:
    """A whole number, also from a text, and of 7.0. Raises ValueError."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d{1,30}\s*", value, re.ASCII):
        return int(value)
    made = number(value)
    if made != int(made) or abs(made) > 2**53:
        raise ValueError("is no whole number")
    return int(made)


def model_name(name: object) -> str | None:
    """The name of a model's file without folder and suffix, `civitai-VERSION` for an AIR; None for none."""
    if not isinstance(name, str) or name.strip().lower() in ("", "none", "automatic"):
        return None
    if air := AIR.search(name):
        return f"civitai-{air['version']}"
    last = re.split(r"[\\/]", name.strip())[-1]
    for suffix in _SUFFIXES:
        if last.lower().endswith(suffix):
            last = last[: -len(suffix)]
    return last or None


def read_hash(value: object) -> str | None:
    """A hash's hex digits in lower case; None for what is none."""
    text = str(value or "").strip().lower().removeprefix("0x").removeprefix("sha256:")
    return text if re.fullmatch(r"[0-9a-f]{4,64}", text) else None


def known_schedule(sampler: str, *names: str) -> str | None:
    """The first of the schedules that the sampler can follow."""
    possible = find_sampler(sampler).schedules
    return next((name for name in names if name in possible and name in SCHEDULES), None)


def _text(value: object) -> str:
    return value if isinstance(value, str) else repr(value) if isinstance(value, float) else str(value)


def _clean(value: Any) -> Any:
    """Texts without the halves of surrogate pairs, which no file can hold, and without NUL."""
    if isinstance(value, str):
        return _SIGN.sub("\ufffd", value)
    if isinstance(value, dict):
        return {key: _clean(each) for key, each in value.items()}
    return [_clean(each) for each in value] if isinstance(value, list) else value


def complete(draft: Draft, size: tuple[int, int] | None, path: object) -> ForeignPicture:
    """The draft's picture, with the file's own size where the metadata states none. Raises ImageError (E-IMAGE) as `finish`.

    `size` is None for texts that are in no picture.
    """
    if size is None:
        return draft.finish(path)
    width, height = size
    if not draft.settings.keys() & {"width", "height"}:
        if draft.set("width", width, "width of the file") and draft.set("height", height, "height of the file"):
            draft.differs.append(f"the metadata states no size, so it is that of the file, {width} x {height}")
        else:
            draft.settings.pop("width", None)
    picture = draft.finish(path)
    made = RenderRequest.from_settings(dict(picture.settings), "metadata").sizes[-1]
    if made == size:
        return picture
    said = f"the file has {width} x {height} pixels, these settings make {made[0]} x {made[1]}"
    return replace(picture, differs=(*picture.differs, said))
