"""`darkroom render MODEL --image PICTURE --then STAGE`: a picture of stages by hand, in the words of a sheet's `from` and `then`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darkroom.errors import RequestError, SheetError

if TYPE_CHECKING:
    from darkroom.config_output import MetadataConfig
    from darkroom.engine import Library
    from darkroom.request.render_request import RenderRequest
    from darkroom.serve.chain_rendering import Chain

_JOB_ONLY = ("pictures", "before", "before_latent", "stages_done", "latent", "latent_at", "checkpoint")
_EXAMPLE = "--then 'hires: {scale: 2}'"


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """The options for pictures of stages, by hand and as a job of the workflow has them."""
    text = "a picture that the stages begin with; its prompt, seed and settings come from its metadata"
    sub.add_argument("--image", type=Path, metavar="PICTURE", help=text)
    text = "a stage in YAML, as a sheet's `then` has it: 'hires: {scale: 2}'; may be repeated"
    sub.add_argument("--then", action="append", default=[], metavar="STAGE", help=text)
    text = "with --request: a picture that it names by its SHA-256; may be repeated"
    sub.add_argument("--picture", dest="pictures", action="append", default=[], metavar="SHA256=PATH", help=text)
    sub.add_argument("--before", type=Path, help="with --request: the picture before the first stage that is made")
    sub.add_argument("--before-latent", type=Path, help="with --before: its latents, a safetensors file")
    sub.add_argument("--stages-done", type=int, default=0, help="with --before: how many stages it has behind it")
    text = "with --request: the name of the picture's own checkpoint, where MODEL_DIR is that of a stage"
    sub.add_argument("--checkpoint", metavar="NAME", help=text)
    sub.add_argument(
        "--latent",
        type=Path,
        help="with --request: also write the picture's latents, for a latent upscaler or a refiner",
    )
    text = "with --latent: after which parts of the last pass, such as 0.8,1; 1, without it, is its end"
    sub.add_argument("--latent-at", metavar="PARTS", help=text)


def check_arguments(arguments: argparse.Namespace) -> None:
    """Raise RequestError (E-REQUEST) for options that don't fit each other."""
    by_hand = [f"--{name}" for name in ("image", "then") if getattr(arguments, name)]
    of_job = [f"--{name.replace('_', '-')}" for name in _JOB_ONLY if getattr(arguments, name)]
    if arguments.request and by_hand:
        raise RequestError(by_hand[0], None, "is part of the request already", "leave it out")
    if not arguments.request and of_job:
        raise RequestError(of_job[0], None, "is for a job with --request", "by hand, use --image and --then")
    if arguments.image and not arguments.then:
        raise RequestError("--image", arguments.image, "needs a stage that makes something of it", f"add {_EXAMPLE}")
    if not (arguments.request or arguments.image) and arguments.prompt is None:
        raise RequestError("--prompt", None, "is missing", "say what to draw, or what picture to begin with: --image")


def read_stages(arguments: argparse.Namespace, models_dir: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The settings that come with stages and with the picture they begin with, and the files of both by their SHA-256.

    Stages may have the checkpoints that are converted in `models_dir`. Raises SheetError (E-SHEET) and ConfigError (E-CONFIG) for a wrong stage, ImageError (E-IMAGE) for a wrong picture.
    """
    if not arguments.then:
        return {}, {}
    from darkroom.base.validation import Mistakes
    from darkroom.engine.chain_models import converted, is_refiner
    from darkroom.pictures.inputs import InputPictures
    from darkroom.pictures.made_with import settings_of
    from darkroom.pictures.png import read_picture
    from darkroom.sheets.then import Known, build_stages, check_then

    inputs, mistakes = InputPictures(), Mistakes()
    names = converted(models_dir)
    known = Known(inputs, names, [name for name in names if is_refiner(models_dir / "diffusers" / name)])
    given = [stage for text in arguments.then for stage in _read_stage(text)]
    checked = check_then(given, lambda *_: "--then", known, mistakes)
    mistakes.raise_all()
    stages, files = build_stages(checked, {}, "--then", known)
    paths: dict[str, str] = {sha256: path for each in files for sha256, path in each.items()}
    settings: dict[str, Any] = {"stages": stages}
    if arguments.image is not None:
        picture = inputs.read(arguments.image)
        paths[picture.sha256] = picture.path
        size = {"width": -(-picture.width // 8) * 8, "height": -(-picture.height // 8) * 8}
        _check_size(arguments, size)
        settings |= {**settings_of(picture.texts, picture.path), **size, "image": picture.sha256}
    return settings, {sha256: read_picture(path) for sha256, path in paths.items()}


def render_legs(
    arguments: argparse.Namespace,
    request: RenderRequest,
    pictures: Mapping[str, bytes],
    library: Library,
    metadata: MetadataConfig,
) -> Chain:
    """The finished picture of a request, by one engine after another where stages have another checkpoint than MODEL_DIR.

    `metadata` says what is written into the PNG. Raises RequestError (E-REQUEST) if MODEL_DIR is none of the library's models
    then, and what the engines raise.
    """
    from darkroom.engine.chain_models import find_folder
    from darkroom.serve.chain_rendering import Chain, render_chains

    own = arguments.model_dir.resolve()
    names = {path.resolve(): path.name for path in (library.models_dir / "diffusers").glob("*")}
    if any(request.checkpoints) and own not in names:
        why = f"is none of the models in {library.models_dir}, where stages' checkpoints are looked up"
        raise RequestError("model", arguments.model_dir, why, "name it as MODELS/diffusers/NAME, or give --models-dir")
    name = names.get(own, own.name)

    def folder_of(model: str | None) -> Path:
        return arguments.model_dir if model is None else find_folder(library, model)

    chain = Chain(request.of_checkpoint(name), name, folder_of, arguments.dtype, lambda _: pictures, arguments.compile)
    ((made, _),) = render_chains([chain], library, arguments.device, metadata)
    return made


def _read_stage(text: str) -> list[Any]:
    from darkroom.base.strict_yaml import parse_yaml

    stage = parse_yaml(text, "--then")
    if stage is None:
        raise SheetError("--then", text, "names no stage", f"write {_EXAMPLE}")
    return stage if isinstance(stage, list) else [stage]


def _check_size(arguments: argparse.Namespace, size: Mapping[str, int]) -> None:
    """Raise RequestError (E-REQUEST) for a size that isn't the picture's: a stage may change it, and says so itself."""
    for edge, pixels in size.items():
        asked = getattr(arguments, edge)
        if asked not in (None, pixels):
            why = f"the stages begin with a picture of {size['width']}x{size['height']}"
            raise RequestError(f"--{edge}", asked, why, f"leave it out, or write it in a stage: img2img: {{{edge}: …}}")
