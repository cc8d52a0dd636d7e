"""What a request to AUTOMATIC1111's routes asks for that Darkroom doesn't do: ignored by name, or refused.

A1111 takes no notice of fields that it doesn't know, and its clients rely on that. So whatever leaves A1111's picture as it
is has no effect here, and is named in the answer and in the log; what would change the picture is UnsupportedError
(E-UNSUPPORTED). Which is which follows A1111 1.10: modules/api/models.py, modules/shared_options.py; ADetailer's
`is_ad_enabled`; ControlNet's `enabled`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from darkroom.base.text import near_names, shorten
from darkroom.errors import UnsupportedError
from darkroom.request.samplers import find_sampler, find_schedule
from darkroom.serve.a1111_schemas import NEUTRAL, Processing
from darkroom.serve.adapters import refuse_wishes

MOST_NAMED = 100
"""How many ignored things an answer names."""
MOST_GUESSED = 10
"""For how many unknown names in a request a similar one is looked for, which takes time."""
Ignored = dict[str, str]
"""Why each thing is ignored, by its name: a field's, `override_settings.OPTION` or `alwayson_scripts.SCRIPT`."""

PICTURE_OPTIONS: dict[str, tuple[Any, ...]] = {
    "comma_padding_backtrack": (20,),
    "enable_quantization": (False,),
    "enable_emphasis": (True,),
    "enable_batch_seeds": (True,),
    "upcast_attn": (False,),
    "fp8_storage": ("Disable",),
    "sd_vae_decode_method": ("Full",),
    "sd_hypernetwork": ("None", ""),
    "sd_lora": ("None", ""),
    "extra_networks_default_multiplier": (1,),
    "forge_additional_modules": ([],),
    "postprocessing_enable_in_main_ui": ([],),
    "token_merging_ratio_img2img": (0,),
    "pad_cond_uncond": (False,),
    "pad_cond_uncond_v0": (False,),
    "s_min_uncond_all": (False,),
    "skip_early_cond": (0,),
    "use_old_emphasis_implementation": (False,),
    "use_old_karras_scheduler_sigmas": (False,),
    "use_old_scheduling": (False,),
    "use_downcasted_alpha_bar": (False,),
    "no_dpmpp_sde_batch_determinism": (False,),
    "dont_fix_second_order_samplers_schedule": (False,),
    "lora_functional": (False,),
    "ddim_discretize": ("uniform",),
    "sigma_min": (0,),
    "sigma_max": (0,),
    "rho": (0,),
    "beta_dist_alpha": (0.6,),
    "beta_dist_beta": (0.6,),
    "always_discard_next_to_last_sigma": (False,),
    "sgm_noise_multiplier": (False,),
    "sd_noise_schedule": ("Default",),
    "uni_pc_variant": ("bh1", "bh2"),
    "uni_pc_skip_type": ("time_uniform",),
    "uni_pc_order": (2, 3),
    "uni_pc_lower_order_final": (True,),
}
"""A1111's options that change pictures and that Darkroom doesn't have, with the values that ask for nothing."""
HIRES_OPTIONS: dict[str, tuple[Any, ...]] = {
    "hires_fix_use_firstpass_conds": (False,),
    "use_old_hires_fix_width_height": (False,),
    "img2img_extra_noise": (0,),
    "sd_vae_encode_method": ("Full",),
    "token_merging_ratio_hr": (0,),
}
"""A1111's options that change what a second pass makes, with the values that ask for nothing."""
REFINER_OPTIONS: dict[str, tuple[Any, ...]] = {
    "hires_fix_refiner_pass": ("second pass",),
    "refiner_switch_by_sample_steps": (False,),
}
"""A1111's options that change when a refiner takes over, with the values that ask for nothing."""
IMAGE_OPTIONS: dict[str, tuple[Any, ...]] = {
    "img2img_fix_steps": (False,),
    "img2img_color_correction": (False,),
    "img2img_background_color": ("#ffffff", "#FFFFFF"),
    "img2img_extra_noise": (0,),
    "initial_noise_multiplier": (1,),
    "inpainting_mask_weight": (1,),
    "overlay_inpaint": (True,),
    "return_mask": (False,),
    "return_mask_composite": (False,),
    "sd_vae_encode_method": ("Full",),
    "upscaler_for_img2img": ("None", "", "Lanczos"),
}
"""The same of img2img."""
_TIMESTEP_SAMPLERS = ("DDIM", "PLMS", "UniPC")
"""A1111's samplers that follow no schedule, whatever is named (modules/sd_samplers_timesteps.py)."""
_SWITCHES = ("enabled", "enable", "is_enabled", "ad_tab_enable")
_NOTHING: tuple[Any, ...] = (None, False, "", "None", [], {})


def ignore_fields(body: Processing, settings: Iterable[str]) -> Ignored:
    """Unknown fields, and known ones that don't matter; `settings` are the names that a client may have misspelt.

    Raises UnsupportedError (E-UNSUPPORTED) for a field or a script that would change the picture.
    """
    refuse_wishes(body.model_dump(include=set(NEUTRAL)), NEUTRAL)
    known = list(settings)
    ignored = {
        shorten(name): _unknown("field", name, known if number < MOST_GUESSED else ())
        for number, name in enumerate(body.model_extra or {})
    }
    if body.script_args:
        ignored["script_args"] = "no script is named"
    if body.save_images:
        ignored["save_images"] = "the server writes no pictures to its disk"
    return ignored | _ignore_scripts(body.alwayson_scripts or {})


def ignore_option(where: str, name: str, value: Any, known: Sequence[str]) -> str:
    """Why an option that Darkroom doesn't have is ignored; `where` names its place for the UnsupportedError."""
    if any(name in options for options in (HIRES_OPTIONS, IMAGE_OPTIONS, REFINER_OPTIONS)):
        return "it asks for nothing here"
    if name not in PICTURE_OPTIONS:
        return _unknown("option here", name, known)
    refuse_options(where, {name: value}, PICTURE_OPTIONS)
    return "it asks for nothing"


def refuse_options(where: str, options: Mapping[str, Any], neutral: Mapping[str, tuple[Any, ...]]) -> None:
    """Raise UnsupportedError (E-UNSUPPORTED) for an option with another value than the `neutral` ones; None is one."""
    for name, value in options.items():
        if name in neutral and value is not None and value not in neutral[name]:
            why = f"Darkroom doesn't do that, only {neutral[name][0]!r}"
            raise UnsupportedError(f"request: {where}.{name}", shorten(value), why, f"leave {name} out")


def ignore_schedule(sampler: str, scheduler: str | None) -> str | None:
    """Why a schedule is ignored, as A1111 does for some samplers; None for one that is followed, or that is an error."""
    if sampler not in _TIMESTEP_SAMPLERS or not scheduler:
        return None
    try:
        is_followed = find_schedule(scheduler) in find_sampler(sampler).schedules
    except ValueError:
        is_followed = False
    return None if is_followed else f"{sampler} follows no such schedule"


def ignore_eta(eta: float | None, sampler: str | None) -> str | None:
    """Why an `eta` is ignored, None if it counts or is the sampler's own."""
    if eta is None:
        return None
    if sampler is None:
        return "no sampler is named"
    return None if find_sampler(sampler).eta is not None else f"{sampler} adds no noise"


def shown(ignored: Mapping[str, str]) -> Ignored:
    """What an answer names: at most `MOST_NAMED` things, and how many more there are."""
    named = dict(list(ignored.items())[:MOST_NAMED])
    return named if len(ignored) <= MOST_NAMED else {**named, "…": f"and {len(ignored) - MOST_NAMED} more"}


def _unknown(kind: str, name: str, known: Sequence[str]) -> str:
    near = near_names(name, known, most=1, cutoff=0.8) if known else []
    return f"unknown {kind}" + (f"; did you mean {near[0]}?" if near else "")


def _ignore_scripts(scripts: Mapping[str, Any]) -> Ignored:
    """Scripts that are switched off or have no arguments."""
    ignored = {}
    for name, script in scripts.items():
        args = script.get("args") if isinstance(script, dict) else script
        if not is_off(args):
            why = "Darkroom has no scripts"
            hint = "switch the script off, or leave it out"
            raise UnsupportedError(f"request: alwayson_scripts.{shorten(name)}", shorten(args), why, hint)
        ignored[f"alwayson_scripts.{shorten(name)}"] = "it asks for nothing"
    return ignored


def is_off(args: Any) -> bool:
    """True if a script with these arguments does nothing.

    The first one is by convention the script's switch. ADetailer and ControlNet take units, each with a switch of its own.
    """
    if not isinstance(args, list):
        return args in _NOTHING
    units = [argument for argument in args if isinstance(argument, dict)]
    are_units_off = bool(units) and all(isinstance(argument, bool | dict) for argument in args)
    return not args or args[0] is False or all(map(_is_nothing, units if are_units_off else args))


def _is_nothing(argument: Any) -> bool:
    if isinstance(argument, dict):
        is_off = any(argument.get(switch) is False for switch in _SWITCHES)
        return not argument or is_off or argument.get("ad_model") in ("None", "")
    return argument in _NOTHING
