"""Settings and their layers: the configuration's `render`, a sheet's `defaults`, a prompt's own; later layers win.

A preset, or a sampler's name with a schedule in it ("DPM++ 2M Karras"), stands for several settings of its layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from darkroom.base.strict_yaml import locate
from darkroom.config import unknown_key
from darkroom.errors import ConfigError, InputError, RequestError
from darkroom.request.assets import AssetNames, settle
from darkroom.request.render_request import RenderRequest, separate_schedule
from darkroom.request.samplers import find_preset

SETTING_KEYS = [*(key for key in RenderRequest.model_fields if key not in ("prompt", "embeddings")), "seeds", "preset"]
"""What a layer may set."""


def check_settings(data: object, known: list[str], section: str, path: str) -> None:
    """Refuse anything but a mapping, and unknown keys, pointing at the line. Raises ConfigError (E-CONFIG)."""
    if not isinstance(data, Mapping):
        raise ConfigError(section or "file", path, "is not a mapping of keys to values", "see config/README.md")
    for key in data:
        if key not in known:
            name = f"{section}.{key}" if section else str(key)
            raise unknown_key(name, known, locate(path, name.split(".")))


def unfold(settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A layer with its preset and its sampler's schedule as settings of their own; a given setting wins over a preset's.

    Raises RequestError (E-REQUEST) for an unknown preset.
    """
    own = separate_schedule({key: value for key, value in settings.items() if key != "preset"})
    if settings.get("preset") is None:
        return own
    try:
        return {**find_preset(settings["preset"]), **own}
    except ValueError as error:
        raise RequestError(f"{where}: preset", settings["preset"], str(error), "give preset another value") from None


def check_defaults(settings: Mapping[str, Any], where: str) -> None:
    """Validate a layer that every picture starts from. Raises ConfigError (E-CONFIG) or RequestError (E-REQUEST)."""
    check_settings(settings, SETTING_KEYS, "render", "config")
    unfolded = unfold(settings, where)
    RenderRequest.from_settings({"prompt": "", **{k: v for k, v in unfolded.items() if k != "seeds"}}, where)


def make_requests(settings: Mapping[str, Any], assets: AssetNames, where: str) -> list[RenderRequest]:
    """One settled request for each of `seeds`, or a single one for `seed`, 0 by default.

    Raises RequestError (E-REQUEST), LoraError (E-LORA) or EmbeddingError (E-EMBEDDING).
    """
    shared = {key: value for key, value in settings.items() if key not in ("seed", "seeds")}
    seeds = settings.get("seeds")
    if seeds is None:
        seeds = [settings.get("seed", 0)]
    if not isinstance(seeds, list) or not seeds:
        raise RequestError(f"{where}: seeds", seeds, "is not a list of numbers", "write seeds: [1, 2, 3]")
    if len(set(map(str, seeds))) != len(seeds):
        raise RequestError(f"{where}: seeds", seeds, "names a seed twice", "leave each seed once")
    return [_settle(RenderRequest.from_settings({**shared, "seed": seed}, where), assets, where) for seed in seeds]


def _settle(request: RenderRequest, assets: AssetNames, where: str) -> RenderRequest:
    try:
        return settle(request, assets)
    except InputError as error:
        raise type(error)(f"{where}: {error.what}", error.value, error.why, error.hint) from None
