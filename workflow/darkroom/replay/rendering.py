"""Renders pictures again: each model is loaded once, and each picture computes with as many threads as it was made with."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darkroom.config_output import MetadataConfig
from darkroom.engine.chain_models import CHECKPOINTS
from darkroom.pictures.embedded import limit_png
from darkroom.pictures.png import add_study
from darkroom.replay.find_files import GivenFiles
from darkroom.replay.find_models import Found
from darkroom.replay.own import Recipe
from darkroom.serve.chain_rendering import Chain, render_chains

if TYPE_CHECKING:
    from PIL.Image import Image

    from darkroom.engine import Engine, Library
    from darkroom.engine.compiling import Compile

_OWN = "(own)"
"""What an engine's library calls a picture's own checkpoint. No configured one has such a name."""


@dataclass(frozen=True, slots=True)
class Options:
    """How pictures are rendered. `dtype` and `threads` are those that each picture was made with if they are None."""

    device: str = "auto"
    dtype: str | None = None
    threads: int | None = None


@dataclass(frozen=True, slots=True)
class Replayed:
    """A picture that was rendered again: its pixels, its file as a PNG, on what it was made, and what a person should know."""

    recipe: Recipe
    image: Image
    png: bytes
    made_on: Mapping[str, Any]
    warnings: tuple[str, ...]
    notes: list[str]


def render_again(
    found: Sequence[tuple[Recipe, Found]], files: GivenFiles, options: Options, models_dir: Path
) -> Iterator[Replayed]:
    """The pictures, those of one model one after the other. Raises what `Engine.load` and `Engine.render` raise."""
    from darkroom.engine.devices import resolve_device
    from darkroom.engine.library import Library

    device = resolve_device(options.device)
    recipes: dict[Chain, tuple[Recipe, list[str]]] = {}
    for recipe, place in found:
        notes: list[str] = []
        recipes[_make_chain(recipe, place, files, device, options, notes)] = recipe, notes
    try:
        for chain, engine in render_chains(iter(recipes), Library(models_dir), device):
            yield _finish(chain, engine, *recipes.pop(chain))  # a finished picture isn't kept
    finally:
        if device == "cpu":
            _compute_with(_usual_threads())


def _dtype(recipe: Recipe, device: str, options: Options) -> str:
    """The number format: what the user says, else the picture's own on a device of its kind, else the device's usual one."""
    from darkroom.engine.devices import DTYPES

    made_on = recipe.made_by.made_on
    is_same_kind = made_on.get("device") == device.partition(":")[0]
    own = made_on.get("dtype") if is_same_kind and made_on.get("dtype") in DTYPES else None
    return str(options.dtype or own or "auto")


def _compile(recipe: Recipe, device: str) -> Compile:
    """What was compiled when the picture was made, on a device of its kind."""
    made_on = recipe.made_by.made_on
    is_same_kind = made_on.get("device") == device.partition(":")[0]
    return "regional" if is_same_kind and made_on.get("compile") == "regional" else "off"


def _set_threads(recipe: Recipe, device: str, options: Options) -> list[str]:
    """Compute with the picture's number of threads, where the machine has as many processors; returns what to say of it."""
    if device != "cpu":
        return []
    usual = _usual_threads()
    recorded = recipe.made_by.made_on.get("threads")
    wanted = options.threads or (recorded if isinstance(recorded, int) and recorded > 0 else None)
    if options.threads is None and wanted is not None and wanted > max(usual, processors()):
        _compute_with(usual)
        return [
            f"made with {wanted} threads, rendered with {usual}: there are {processors()} processors. "
            f"--threads {wanted} takes {wanted} all the same"
        ]
    _compute_with(wanted or usual)
    return [] if wanted or recipe.tool else [f"it doesn't say with how many threads it was made; rendered with {usual}"]


def _compute_with(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


@cache
def _usual_threads() -> int:
    """As many threads as torch takes by itself; to be asked before another number is set."""
    import torch

    return int(torch.get_num_threads())


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _make_chain(
    recipe: Recipe, place: Found, files: GivenFiles, device: str, options: Options, notes: list[str]
) -> Chain:
    def prepare(library: Library) -> dict[str, bytes]:
        for (kind, name), path in {**place.assets, (CHECKPOINTS, _OWN): place.model}.items():
            library.add(kind, name, path)
        notes[:] = _set_threads(recipe, device, options)
        return files.find_all(recipe)

    def folder_of(model: str | None) -> Path:
        return place.model if model is None else place.assets[CHECKPOINTS, model]

    return Chain(recipe.request, _OWN, folder_of, _dtype(recipe, device, options), prepare, _compile(recipe, device))


def _finish(chain: Chain, engine: Engine, recipe: Recipe, notes: list[str]) -> Replayed:
    assert chain.image is not None and chain.rendered is not None
    image, png = chain.image.image, chain.rendered.png
    for step in recipe.steps:
        image, png = _do_step(engine, image, png, step)
    if recipe.study is not None and recipe.study.isascii():
        png = add_study(png, recipe.study)
    if not recipe.has_prompts:
        png = limit_png(png, MetadataConfig(prompt=False), recipe.path)
    return Replayed(recipe, image, png, chain.image.facts.made_on, chain.warnings, notes)


def _do_step(engine: Engine, image: Image, png: bytes, step: Mapping[str, Any]) -> tuple[Image, bytes]:
    """What `darkroom upscale` did to the finished picture."""
    from darkroom.engine.upscalers import DEFAULT_TILE
    from darkroom.pictures.embedded import mark_enlarged
    from darkroom.pictures.png import encode_texts, text_of_png
    from darkroom.pictures.postprocess import add_step, upscale_fields

    name, size, tile = step["upscaler"], tuple(step["to"]), step.get("tile")
    made = engine.upscalers.upscale(image, name, size=size, tile=tile if isinstance(tile, int) else DEFAULT_TILE)
    texts = text_of_png(png, "picture")
    added = add_step(texts, upscale_fields(name, None, made.size), step)
    return made, encode_texts(made, added if step.get("sha256") is None else mark_enlarged(added, texts))
