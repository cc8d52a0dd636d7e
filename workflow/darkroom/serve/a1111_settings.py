"""A1111's fields and options as Darkroom's settings: pure functions, without HTTP.

The meanings are those of A1111 1.10's modules/processing.py, modules/sd_samplers.py, modules/sd_samplers_kdiffusion.py
and extensions-builtin/Lora/extra_networks_lora.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from darkroom.base.text import loose, shorten
from darkroom.errors import RequestError, UnsupportedError
from darkroom.pictures.infotext import read_infotext
from darkroom.request.lora_tags import name_weights
from darkroom.request.render_request import RenderRequest
from darkroom.request.samplers import A1111_AUTOMATIC, MODELS_OWN, find_sampler, find_schedule, split_sampler
from darkroom.serve.a1111_ignored import (
    MOST_GUESSED,
    Ignored,
    ignore_eta,
    ignore_fields,
    ignore_option,
    ignore_schedule,
)
from darkroom.serve.a1111_schemas import SAME, Txt2Img
from darkroom.serve.adapters import choose_seed

FIXED: dict[str, Any] = {
    "samples_format": "png",
    "enable_pnginfo": True,
    "samples_save": False,
    "grid_save": False,
    "return_grid": False,
    "live_previews_enable": False,
    "randn_source": "CPU",
    "eta_noise_seed_delta": 0,
    "eta_ancestral": 1.0,
    "eta_ddim": 0.0,
    "s_churn": 0.0,
    "s_noise": 1.0,
    "s_min_uncond": 0.0,
    "token_merging_ratio": 0.0,
    "tiling": False,
    "face_restoration": False,
    "sd_unet": "Automatic",
    "auto_vae_precision": True,
    "sdxl_crop_top": 0,
    "sdxl_crop_left": 0,
}
"""Options with a fixed value, which a client may send."""
_NO_PICTURE = ("samples_save", "grid_save", "live_previews_enable")
"""Fixed options whose other values change no picture either."""
_EMPHASIS = {"Original": "a1111", "No norm": "no_norm"}


@dataclass(frozen=True, slots=True)
class PictureSettings:
    """A request in our terms: settings and variation seed of each picture, and the model (None for the default).

    `ignored` names what the request asks for in vain, with the reasons.
    """

    settings: list[dict[str, Any]]
    subseeds: list[int]
    model: str | None
    ignored: Ignored


def count_pictures(body: Txt2Img) -> int:
    return (body.batch_size or 1) * (body.n_iter or 1)


def read_txt2img(body: Txt2Img) -> PictureSettings:
    """Translate a request.

    Raises UnsupportedError (E-UNSUPPORTED) and RequestError (E-REQUEST), which name the field or option.
    """
    body, settings = _with_infotext(body)
    ignored = ignore_fields(body, Txt2Img.model_fields)
    settings |= {name: value for name in SAME if (value := getattr(body, name)) is not None}
    sampler, schedule = body.sampler_name or body.sampler_index, body.scheduler
    if reason := _ignore_schedule(sampler, schedule):
        ignored["scheduler"], schedule = reason, None
    settings |= _read_sampler(sampler, schedule)
    if reason := ignore_eta(body.eta, settings.get("sampler")):
        ignored["eta"] = reason
    elif body.eta is not None and body.eta != find_sampler(settings["sampler"]).eta:
        settings["eta"] = body.eta
    model, overrides, others = read_overrides(body.override_settings or {})
    ignored |= {f"override_settings.{name}": why for name, why in others.items()}
    if body.override_settings_restore_afterwards is False and overrides:
        name = "override_settings_restore_afterwards"
        why = f"{', '.join(overrides)} can't be kept for everybody"
        raise UnsupportedError(f"request: {name}", False, why, f"send {name} as true")
    settings |= {**overrides, "prompt": name_weights(body.prompt or "", te_first=True)}
    count = count_pictures(body)
    seed, subseed = choose_seed(body.seed, count), choose_seed(body.subseed, count)
    subseeds = [subseed + number for number in range(count)]
    if strength := body.subseed_strength:
        each = [{"seed": seed, "variation_seed": other, "variation_strength": strength} for other in subseeds]
    else:
        each = [{"seed": seed + number} for number in range(count)]
    return PictureSettings([settings | own for own in each], subseeds, model, ignored)


def read_overrides(options: Mapping[str, Any]) -> tuple[str | None, dict[str, Any], Ignored]:
    """The model that the options name (or None), their settings, and the options that are ignored.

    Raises UnsupportedError (E-UNSUPPORTED) for an option that would change the picture.
    """
    given = {name: value for name, value in options.items() if value is not None}
    model = given.pop("sd_model_checkpoint", None)
    settings: dict[str, Any] = {}
    ignored: Ignored = {}
    for name, value in given.items():
        if name in PER_PICTURE:
            setting, read = PER_PICTURE[name]
            settings[setting] = read(value)
        elif reason := check_fixed("override_settings", name, value, guess=len(ignored) < MOST_GUESSED):
            ignored[shorten(name)] = reason
    return None if model is None else str(model), settings, ignored


def check_fixed(where: str, name: str, value: Any, *, guess: bool = True) -> str | None:
    """Why an option is ignored, with a similar name if it should `guess` one; None for an option that has its fixed value.

    Raises UnsupportedError (E-UNSUPPORTED) for another value of an option that changes pictures.
    """
    if name not in FIXED:
        return ignore_option(where, name, value, ("sd_model_checkpoint", *PER_PICTURE, *FIXED) if guess else ())
    if value == FIXED[name]:
        return None
    if name in _NO_PICTURE:
        return f"is always {FIXED[name]!r} here"
    raise UnsupportedError(
        f"request: {where}.{name}", shorten(value), f"is always {FIXED[name]!r} here", "leave it out"
    )


def _read_vae(value: Any) -> str | None:
    name = str(value).removesuffix(".safetensors")
    return None if name in ("Automatic", "None") else name


PER_PICTURE: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "sd_vae": ("vae", _read_vae),
    "CLIP_stop_at_last_layers": ("clip_skip", lambda value: value),
    "emphasis": ("emphasis", lambda value: _EMPHASIS.get(str(value), value)),
}
"""Options that are settings of a picture: the setting's name, and a function that reads the value."""


def present_options(title: str, sha256: str | None) -> dict[str, Any]:
    """All options with their values; `title` and `sha256` are the default model's."""
    emphasis = RenderRequest.model_fields["emphasis"].default
    own = {"sd_vae": "Automatic", "CLIP_stop_at_last_layers": 1, "emphasis": emphasis}
    return {"sd_model_checkpoint": title, "sd_checkpoint_hash": sha256 or "", **own, **FIXED}


def _read_sampler(name: str | None, scheduler: str | None) -> dict[str, str]:
    """Sampler and schedule. As in A1111, a schedule in the sampler's name takes precedence over `scheduler`."""
    try:
        schedule = find_schedule(scheduler or "Automatic")
    except ValueError as error:
        raise RequestError("request: scheduler", scheduler, str(error), "name one of /sdapi/v1/schedulers") from None
    if not name:
        return {"schedule": schedule} if scheduler else {}
    try:
        sampler, own_schedule = split_sampler(name)
    except ValueError as error:
        raise RequestError("request: sampler_name", name, str(error), "name one of /sdapi/v1/samplers") from None
    if own_schedule is None and loose(scheduler or "") == loose(MODELS_OWN):
        return {"sampler": sampler, "schedule": "Automatic"}
    schedule = own_schedule or schedule
    if schedule == "Automatic":
        schedule = A1111_AUTOMATIC.get(sampler, schedule)
    return {"sampler": sampler, "schedule": schedule}


def _ignore_schedule(name: str | None, scheduler: str | None) -> str | None:
    """Why `scheduler` is ignored, if it is; a sampler's wrong name is left to `_read_sampler`."""
    try:
        return ignore_schedule(split_sampler(name)[0], scheduler) if name else None
    except ValueError:
        return None


def _with_infotext(body: Txt2Img) -> tuple[Txt2Img, dict[str, Any]]:
    """The request with what its `infotext` says in the fields that it leaves out, and settings that A1111 has no field for.

    Raises RequestError (E-REQUEST) for a value that can't be read, UnsupportedError (E-UNSUPPORTED) for a name that
    Darkroom doesn't know.
    """
    if not body.infotext:
        return body, {}
    fields, settings = read_infotext_fields(body.infotext)
    given = {name for name in body.model_fields_set if getattr(body, name) is not None}
    options = {**fields.pop("override_settings"), **(body.override_settings or {})}
    left_out = {name: value for name, value in fields.items() if name not in given}
    return body.model_copy(update={**left_out, "override_settings": options}), settings


_FIELDS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "Steps": ("steps", int),
    "Sampler": ("sampler_name", str),
    "Schedule type": ("scheduler", str),
    "CFG scale": ("cfg_scale", float),
    "Seed": ("seed", int),
    "Clip skip": ("clip_skip", int),
    "Variation seed": ("subseed", int),
    "Variation seed strength": ("subseed_strength", float),
    "Eta": ("eta", float),
    "Eta DDIM": ("eta", float),
}
_OPTIONS = {"Model": "sd_model_checkpoint", "VAE": "sd_vae", "Emphasis": "emphasis"}
_ONLY_OURS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "CFG rescale": ("cfg_rescale", float),
    "FreeU": ("freeu", lambda text: {key: float(value) for key, value in map(str.split, text.split(","))}),
    "Prompt 2": ("prompt_2", lambda text: name_weights(text, te_first=True)),
    "Negative prompt 2": ("negative_prompt_2", str),
}
_ABOUT = ("Model hash", "VAE hash", "Lora hashes", "TI hashes", "Hashes", "TI", "Version", "User")
_DEFAULTS = {"emphasis": "lpw", "cfg_rescale": 0.0, "freeu": False, "clip_skip": 0}
"""What Darkroom's infotexts leave out, whatever the server's defaults are."""


def read_infotext_fields(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of Txt2Img that an infotext sets, and settings that A1111 has no field for. Raises as `_with_infotext`."""
    known = read_infotext(text)
    written = dict(known["settings"])
    fields: dict[str, Any] = {"prompt": known["prompt"], "negative_prompt": known["negative_prompt"]}
    fields["override_settings"] = {option: written.pop(name) for name, option in _OPTIONS.items() if name in written}
    settings: dict[str, Any] = dict(_DEFAULTS) if written.get("Version", "").startswith("darkroom ") else {}
    width, cross, height = written.pop("Size", "").partition("x")
    if cross:
        fields |= {"width": _read_value("Size", width, int), "height": _read_value("Size", height, int)}
    for name, value in written.items():
        if name in _FIELDS:
            field, read = _FIELDS[name]
            fields[field] = _read_value(name, value, read)
        elif name in _ONLY_OURS:
            setting, read = _ONLY_OURS[name]
            settings[setting] = _read_value(name, value, read)
        elif name not in _ABOUT and (name, value) != ("RNG", "CPU"):
            why = "Darkroom doesn't do that"
            raise UnsupportedError(
                f"request: infotext: {shorten(name)}", shorten(value), why, "take it out of the infotext"
            )
    return fields, settings


def _read_value(name: str, value: str, read: Callable[[str], Any]) -> Any:
    try:
        return read(value)
    except ValueError:
        raise RequestError(f"request: infotext: {name}", shorten(value), "can't be read", "correct it") from None
