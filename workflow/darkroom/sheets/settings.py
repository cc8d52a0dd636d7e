"""Settings and their layers: the configuration's `render`, a sheet's `defaults`, a prompt's own; later layers win.

A preset, or a sampler's name with a schedule in it ("DPM++ 2M Karras"), stands for several settings of its layer. Rival
keys say the same thing in two ways: a layer that has one of them hides all of them in the layers before.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from darkroom.base.validation import Mistakes
from darkroom.config_mistakes import unknown_key
from darkroom.errors import ConfigError, InputError, RequestError
from darkroom.request.assets import AssetNames, check_controls, settle, without_idle_controls
from darkroom.request.render_request import RenderRequest, separate_schedule
from darkroom.request.samplers import find_preset

_NO_SETTINGS = ("prompt", "control", "embeddings", "image", "stages")
SETTING_KEYS = [*(key for key in RenderRequest.model_fields if key not in _NO_SETTINGS), "seeds", "preset"]
"""What a layer may set."""
RIVALS = (("seed", "seeds"),)
_NULLABLE = tuple(key for key, field in RenderRequest.model_fields.items() if field.get_default() is None)
"""Settings that a layer may set to nothing; other empty settings count as left out."""
_SIZE = re.compile(r"(\d+) *[xX×*] *(\d+)")
_OTHER_NAMES = {
    "cfg": "cfg_scale",
    "guidance_scale": "cfg_scale",
    "negative": "negative_prompt",
    "num_inference_steps": "steps",
    "sampler_name": "sampler",
    "scheduler": "sampler, or schedule",
    "subseed": "variation_seed",
    "subseed_strength": "variation_strength",
    "n_iter": "seeds: [1, 2, 3]",
    "batch_size": "seeds: [1, 2, 3]",
}
"""Settings by their names in other tools."""

Locate = Callable[[str], str]
"""`FILE:LINE` of a layer's key."""


def check_keys(data: object, known: list[str], section: str, locate: Locate) -> None:
    """Refuse anything but a mapping, and unknown keys, pointing at the line. Raises ConfigError (E-CONFIG)."""
    if not isinstance(data, Mapping):
        why = f"is not a mapping of keys to values ({locate('')})"
        raise ConfigError(section or "file", None, why, f"write {section or 'prompts'}: and the keys below it")
    mistakes = Mistakes()
    for key, value in data.items():
        if key not in known:
            name = f"{section}.{key}" if section else str(key)
            error = unknown_key(name, known, locate(str(key)))
            error.hint = _hint_for_other_name(str(key), value, known) or error.hint
            mistakes.add(error)
    mistakes.raise_all()


def _hint_for_other_name(key: str, value: object, known: list[str]) -> str | None:
    if "steps" not in known:
        return "write it below defaults:" if key in (*SETTING_KEYS, "control", "then") else None
    plain = re.sub(r"[ -]", "_", key.lower())
    if plain == "size":
        size = _SIZE.fullmatch(str(value).strip())
        width, height = size.groups() if size else (1024, 1024)
        return f"write width: {width} and height: {height}"
    other = _OTHER_NAMES.get(plain)
    return f"write {other}" if other else None


def merge_layers(layers: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The settings of several layers as one, each under the name that errors call it by; later layers win.

    Raises RequestError (E-REQUEST) as `overlay` does.
    """
    merged: dict[str, Any] = {}
    for where, layer in layers.items():
        merged = overlay(merged, layer, where)
    return separate_schedule(merged)


def overlay(settings: Mapping[str, Any], layer: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The settings with those of a further layer, which win: the one function that layers are merged by.

    In the layer, a given setting wins over its preset's. A schedule that comes with a sampler's name goes with it. Raises
    RequestError (E-REQUEST) for an unknown preset, and for rival keys in the layer.
    """
    given = {key: value for key, value in layer.items() if value is not None or key in _NULLABLE}
    merged = {**settings}
    for own in (_find_preset(given.pop("preset", None), where), given):
        for rivals in RIVALS:
            named = [key for key in rivals if key in own]
            if len(named) > 1:
                why = "stand side by side, and only one of them can count"
                raise RequestError(f"{where}: {' and '.join(named)}", None, why, f"leave {named[0]} out")
            if named:
                merged = {key: value for key, value in merged.items() if key not in rivals}
        if "schedule" in separate_schedule(own):
            merged.pop("schedule", None)
        merged |= own
    return merged


def unfold(settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A single layer, as `merge_layers` has it."""
    return merge_layers({where: settings})


def _find_preset(preset: object, where: str) -> dict[str, Any]:
    if preset is None:
        return {}
    try:
        return find_preset(str(preset))
    except ValueError as error:
        raise RequestError(f"{where}: preset", preset, str(error), "give preset another value") from None


def check_layer(
    layer: object, section: str, where: str, locate: Locate, assets: AssetNames, mistakes: Mistakes
) -> dict[str, Any]:
    """The layer without what is wrong in it, which is added to `mistakes`: unknown keys and settings that can't be."""
    if layer is None:
        return {}
    with mistakes.collect():
        check_keys(layer, SETTING_KEYS, section, locate)
    if not isinstance(layer, Mapping):
        return {}
    usable = {key: value for key, value in layer.items() if key in SETTING_KEYS}
    try:
        make_requests(merge_layers({where: usable}), assets, where)
    except InputError as error:
        wrong = find_wrong_keys(usable, where, locate, assets, mistakes)
        if not wrong:
            mistakes.add(placed(error, locate("")))
        return {key: value for key, value in usable.items() if wrong and key not in wrong}
    return usable


def find_wrong_keys(
    layer: Mapping[str, Any], where: str, locate: Locate, assets: AssetNames, mistakes: Mistakes
) -> list[str]:
    """The keys of a layer whose values can't be, whatever stands beside them; an error for each goes to `mistakes`."""
    wrong = []
    for key, value in layer.items():
        try:
            make_requests(merge_layers({where: {key: value}}), assets, where)
        except InputError as error:
            if not isinstance(error, RequestError) or error.what != where:  # else it lacks another setting
                wrong.append(key)
                mistakes.add(placed(error, locate(key)))
    return wrong


def placed(error: InputError, place: str) -> InputError:
    """The error with `FILE:LINE` behind its reason."""
    if place in error.why:
        return error
    return type(error)(error.what, error.value, f"{error.why} ({place})", error.hint)


def make_requests(settings: Mapping[str, Any], assets: AssetNames, where: str) -> list[RenderRequest]:
    """One settled request for each of `seeds`, or a single one for `seed`, 0 by default.

    Raises RequestError (E-REQUEST), LoraError (E-LORA), EmbeddingError (E-EMBEDDING), or another InputError for a tag in
    the prompt that can't be used.
    """
    return [_settle(request, assets, where) for request in _make_requests(settings, where)]


def make_chains(settings: Mapping[str, Any], assets: AssetNames, where: str) -> list[list[RenderRequest]]:
    """As `make_requests`, with the requests of all files that lead to each picture: a first pass, then a stage more each."""
    return [links_of(request, assets, where) for request in _make_requests(settings, where)]


def links_of(request: RenderRequest, assets: AssetNames, where: str, *, first: int = 0) -> list[RenderRequest]:
    """The settled requests of a picture's files, from the one with `first` stages on; a given picture is none of them."""
    if not request.stages:
        return [_settle(request, assets, where)]
    counts = range(max(first, 0 if request.image is None else 1), len(request.stages) + 1)
    check_controls(request)
    parts = [without_idle_controls(request.model_copy(update={"stages": request.stages[:count]})) for count in counts]
    return [_settle(part, assets, where) for part in parts]


def _make_requests(settings: Mapping[str, Any], where: str) -> list[RenderRequest]:
    shared = {"prompt": "", **{key: value for key, value in settings.items() if key not in ("seed", "seeds")}}
    seeds = settings.get("seeds", [settings.get("seed", 0)])
    if isinstance(settings.get("seed"), list):
        raise RequestError(f"{where}: seed", settings["seed"], "is a list", f"write seeds: {settings['seed']}")
    if not isinstance(seeds, list) or not seeds:
        example = f"[{seeds}]" if re.fullmatch(r"[\d, ]+", str(seeds)) else "[1, 2, 3]"
        raise RequestError(f"{where}: seeds", seeds, "is not a list of numbers", f"write seeds: {example}")
    requests = [RenderRequest.from_settings({**shared, "seed": seed}, where) for seed in seeds]
    if len({request.seed for request in requests}) != len(requests):
        raise RequestError(f"{where}: seeds", seeds, "names a seed twice", "leave each seed once")
    return requests


def _settle(request: RenderRequest, assets: AssetNames, where: str) -> RenderRequest:
    try:
        return settle(request, assets)
    except InputError as error:
        raise type(error)(f"{where}: {error.what}", error.value, error.why, error.hint) from None
