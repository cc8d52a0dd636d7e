"""`darkroom render`: one picture, by an engine of its own or, for a job of the workflow, by the warm one."""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from darkroom.cli import render_job, render_stages

if TYPE_CHECKING:
    from darkroom.engine.library import Library


_SETTINGS = {
    "negative-prompt": (str, "what to steer away from"),
    "prompt-2": (str, "another prompt for the second text encoder"),
    "negative-prompt-2": (str, "another negative prompt for the second text encoder"),
    "width": (int, "in pixels, a multiple of 8"),
    "height": (int, "in pixels, a multiple of 8"),
    "steps": (int, "sampling steps"),
    "seed": (int, "decides the noise that the picture starts from"),
    "clip-skip": (int, "as in A1111: 0 and 1 take the usual layer, each further one an earlier layer"),
    "variation-seed": (int, "a second noise that is mixed into the seed's"),
    "cfg-scale": (float, "classifier-free guidance"),
    "cfg-rescale": (float, "how far guidance is scaled back to the contrast without it, 0 to 1"),
    "variation-strength": (float, "how much of the second noise, 0 to 1"),
    "sampler": (str, "by its A1111, diffusers or worker-sdxl name"),
    "schedule": (str, "A1111's schedule type"),
    "emphasis": (str, "how weights act: lpw, a1111, no_norm or comfy"),
}
"""Settings of a picture that are single values."""


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """The options of `darkroom render`."""
    sub.add_argument("model_dir", type=Path, metavar="MODEL_DIR", help="a converted model's folder")
    text = "the picture to write, in the format of its suffix: .png, .jpg, .webp or .avif"
    sub.add_argument("--output", "-o", type=Path, required=True, help=text)
    what = sub.add_mutually_exclusive_group()
    what.add_argument("--prompt", help="what to draw")
    what.add_argument("--request", help="a whole request as JSON, rendered by the warm engine")
    for name, (kind, text) in _SETTINGS.items():
        sub.add_argument(f"--{name}", type=kind, help=text)
    sub.add_argument("--preset", help="settings of a distilled model: lightning, turbo, lcm, hyper")
    sub.add_argument("--lora", dest="loras", action="append", help="NAME, NAME:0.8 or NAME:0.8:0.5; may be repeated")
    sub.add_argument("--vae", help="the name of a VAE in the models folder")
    sub.add_argument("--freeu", action="store_true", default=None, help="with the usual factors for SDXL")
    sub.add_argument(
        "--models-dir", type=Path, help="where names are looked up; by default two folders above MODEL_DIR"
    )
    files = partial(sub.add_argument, type=Path, action="append", default=[], metavar="FILE")
    files("--lora-file", dest="lora_files", help="a LoRA, known by its file's name")
    files("--embedding-file", dest="embedding_files", help="an embedding, known by its file's name")
    sub.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    text = "the number format while rendering; auto is fp16 on a GPU and fp32 on a CPU"
    sub.add_argument("--dtype", default="auto", choices=("auto", "fp16", "fp32", "bf16"), help=text)
    text = "regional: compile the transformer blocks, for many pictures at once; other last bits"
    sub.add_argument("--compile", default="off", choices=("off", "regional"), help=text)
    sub.add_argument("--verified", type=Path, help="with --request: the verified receipt the folder must still match")
    sub.add_argument("--engine", default="{}", help="with --request: the configuration's engine section as JSON")
    sub.add_argument(
        "--kept", type=Path, help="with --request: a second name for the picture, taken from there if it is there"
    )
    text = "what to write into the picture, as JSON with keys of the configuration's metadata"
    sub.add_argument("--metadata", default="{}", help=text)
    sub.add_argument("--study", help="with --request: the cell of a study as JSON, for the picture's metadata")
    render_stages.add_arguments(sub)


def run(arguments: argparse.Namespace) -> str | None:
    """Render; returns a line about the picture, or None for a job, whose log has it."""
    render_stages.check_arguments(arguments)
    return render_job.run(arguments) if arguments.request else _render_once(arguments)


def _render_once(arguments: argparse.Namespace) -> str:
    from darkroom.cli.encode import find_output_format, read_metadata

    kind, metadata = find_output_format(arguments.output), read_metadata(arguments.metadata)
    from darkroom.request.assets import settle
    from darkroom.request.render_request import RenderRequest
    from darkroom.sheets.settings import SETTING_KEYS, merge_layers

    given = {name: getattr(arguments, name) for name in ("prompt", *SETTING_KEYS) if hasattr(arguments, name)}
    library = _library(arguments)
    of_stages, pictures = render_stages.read_stages(arguments, library.models_dir)
    asked = {name: value for name, value in given.items() if value is not None}
    settings = {"prompt": "", **merge_layers({"picture": of_stages, "render": asked})}
    request = settle(RenderRequest.from_settings(settings, "render"), library.names())
    from darkroom.base.files import write_bytes
    from darkroom.engine.machine import waiting_of_threads
    from darkroom.pictures.formats import convert_png

    os.environ.update(waiting_of_threads())
    made = render_stages.render_legs(arguments, request, pictures, library, metadata)
    assert made.rendered is not None
    write_bytes(arguments.output, convert_png(made.rendered.png, kind))
    render_job.print_warnings(made.warnings, arguments.output)
    return made.rendered.summary


def _library(arguments: argparse.Namespace) -> Library:
    """The models folder, and the files that were given by their paths, each under its own name."""
    from darkroom.engine.library import Library

    library = Library(arguments.models_dir or Path(os.path.abspath(arguments.model_dir)).parent.parent)  # noqa: PTH100
    for kind, paths in (("loras", arguments.lora_files), ("embeddings", arguments.embedding_files)):
        for path in paths:
            library.add(kind, path.stem, path)
    return library
