"""A1111's fields and options as Darkroom's settings: pure functions, without HTTP.

The meanings are those of A1111 1.10's modules/processing.py, modules/sd_samplers.py, modules/sd_samplers_kdiffusion.py
and extensions-builtin/Lora/extra_networks_lora.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from darkroom.base.text import shorten
from darkroom.errors import RequestError, UnsupportedError
from darkroom.request.lora_tags import name_weights
from darkroom.request.render_request import RenderRequest
from darkroom.request.samplers import find_sampler
from darkroom.request.stages import Refine, Stage
from darkroom.serve.a1111_hires import read_first_size, read_hires
from darkroom.serve.a1111_ignored import (
    HIRES_OPTIONS,
    MOST_GUESSED,
    REFINER_OPTIONS,
    Ignored,
    ignore_eta,
    ignore_fields,
    ignore_option,
    refuse_options,
)
from darkroom.serve.a1111_infotext import with_infotext
from darkroom.serve.a1111_samplers import ignore_schedule_of, read_sampler
from darkroom.serve.a1111_schemas import SAME, Processing, Txt2Img
from darkroom.serve.adapters import choose_seed, make_stage
from darkroom.serve.output_files import PNG_FILE, OutputFile, read_output

FILE_OPTIONS: dict[str, Any] = {"samples_format": "png", "jpeg_quality": 80}
"""Options about the files that a request's pictures are sent in, with A1111's defaults; the quality is WebP's and AVIF's too."""
FIXED: dict[str, Any] = {
    "webp_lossless": False,
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
_NO_REFINER = ("", "None", "none")
_NO_PICTURE = ("samples_save", "grid_save", "live_previews_enable")
"""Fixed options whose other values change no picture either."""
_EMPHASIS = {"Original": "a1111", "No norm": "no_norm"}


@dataclass(frozen=True, slots=True)
class PictureSettings:
    """A request in our terms: settings and variation seed of each picture, and the model (None for the default).

    `ignored` names what the request asks for in vain, with the reasons; `output` is the kind of file that the pictures are sent in.
    """

    settings: list[dict[str, Any]]
    subseeds: list[int]
    model: str | None
    ignored: Ignored
    output: OutputFile = PNG_FILE

    def with_settings(self, **settings: Any) -> PictureSettings:
        """The same with settings that all pictures have."""
        return replace(self, settings=[{**each, **settings} for each in self.settings])


def count_pictures(body: Processing) -> int:
    return (body.batch_size or 1) * (body.n_iter or 1)


def read_txt2img(body: Txt2Img) -> PictureSettings:
    """Translate a request.

    Raises UnsupportedError (E-UNSUPPORTED) and RequestError (E-REQUEST), which name the field or option.
    """
    body, own = with_infotext(body)
    read = read_processing(body, own, read_first_size(body))
    stages: list[Stage] = []
    if body.enable_hr:
        refuse_options("override_settings", body.override_settings or {}, HIRES_OPTIONS)
        stages.append(read_hires(body))
    stages += read_refiner(body)
    return read.with_settings(stages=stages) if stages else read


def read_refiner(body: Processing) -> list[Refine]:
    """The refiner's stage, which goes on with the last pass, if there is one.

    A1111 has it begin the picture where `refiner_switch_at` is missing or 0 (modules/sd_samplers_common.py, apply_refiner), which it wasn't
    trained for. Raises RequestError (E-REQUEST) then, and UnsupportedError (E-UNSUPPORTED) for options that would move the switch.
    """
    name, switch_at = body.refiner_checkpoint, body.refiner_switch_at
    if name is None or name in _NO_REFINER or switch_at == 1:
        return []
    if not switch_at:
        why = "would have the refiner begin the picture, which it can't"
        raise RequestError("request: refiner_switch_at", switch_at, why, "send a number above 0, such as 0.8")
    refuse_options("override_settings", body.override_settings or {}, REFINER_OPTIONS)
    settings = {"checkpoint": name, "switch_at": switch_at}
    return [make_stage(Refine, settings, {"checkpoint": "refiner_checkpoint", "switch_at": "refiner_switch_at"})]


def read_processing(body: Processing, own: dict[str, Any], size: dict[str, int]) -> PictureSettings:
    """What txt2img and img2img share; `own` are settings without a field, `size` those of the first picture.

    Raises as `read_txt2img`.
    """
    ignored = ignore_fields(body, type(body).model_fields)
    settings = own | {name: value for name in SAME if (value := getattr(body, name)) is not None}
    settings = {name: value for name, value in settings.items() if name not in ("width", "height")} | size
    sampler, schedule = body.sampler_name or body.sampler_index, body.scheduler
    if reason := ignore_schedule_of(sampler, schedule):
        ignored["scheduler"], schedule = reason, None
    settings |= read_sampler(sampler, schedule)
    if reason := ignore_eta(body.eta, settings.get("sampler")):
        ignored["eta"] = reason
    elif body.eta is not None and body.eta != find_sampler(settings["sampler"]).eta:
        settings["eta"] = body.eta
    options = body.override_settings or {}
    model, overrides, others = read_overrides({key: options[key] for key in options if key not in FILE_OPTIONS})
    ignored |= {f"override_settings.{name}": why for name, why in others.items()}
    if body.override_settings_restore_afterwards is False and overrides:
        name = "override_settings_restore_afterwards"
        why = f"{', '.join(overrides)} can't be kept for everybody"
        raise UnsupportedError(f"request: {name}", False, why, f"send {name} as true")
    settings |= {**overrides, "prompt": name_weights(body.prompt or "", te_first=True)}
    return replace(_spread_seeds(body, settings, model, ignored), output=read_file_options(options))


def _spread_seeds(body: Processing, settings: dict[str, Any], model: str | None, ignored: Ignored) -> PictureSettings:
    """Consecutive seeds, or with a `subseed_strength` consecutive variation seeds."""
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


def read_file_options(options: Mapping[str, Any]) -> OutputFile:
    """The kind of file that options ask for. Raises RequestError (E-REQUEST) and UnsupportedError (E-UNSUPPORTED)."""
    given = {name: options.get(name) for name in FILE_OPTIONS}
    name, quality = given["samples_format"], given["jpeg_quality"]
    if str(name or "png").lower() == "png":
        quality = None  # A1111's clients send all their options along
    elif quality is None:
        quality = FILE_OPTIONS["jpeg_quality"]
    return read_output(name, quality, ("override_settings.samples_format", "override_settings.jpeg_quality"))


def check_fixed(where: str, name: str, value: Any, *, guess: bool = True) -> str | None:
    """Why an option is ignored, with a similar name if it should `guess` one; None for an option that has its fixed value.

    Raises UnsupportedError (E-UNSUPPORTED) for another value of an option that changes pictures.
    """
    if name not in FIXED:
        return ignore_option(
            where, name, value, ("sd_model_checkpoint", *PER_PICTURE, *FILE_OPTIONS, *FIXED) if guess else ()
        )
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
    return {"sd_model_checkpoint": title, "sd_checkpoint_hash": sha256 or "", **own, **FILE_OPTIONS, **FIXED}
