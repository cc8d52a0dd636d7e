"""`darkroom upscale`: a picture made larger by an upscaler, with its metadata kept."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from darkroom.cli.encode import find_output_format
from darkroom.errors import ImageError, RequestError

if TYPE_CHECKING:
    from PIL.Image import Image

    from darkroom.engine.upscalers import Upscalers


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """The options of `darkroom upscale`."""
    sub.add_argument("picture", type=Path, metavar="PICTURE", help="a PNG, JPEG, WebP or AVIF")
    text = "the picture to write, in the format of its suffix: .png, .jpg, .webp or .avif"
    sub.add_argument("--output", "-o", type=Path, required=True, help=text)
    text = "the upscaler: a name in the models folder, a .safetensors file, Lanczos or Nearest"
    sub.add_argument("--model", required=True, help=text)
    how = sub.add_mutually_exclusive_group()
    how.add_argument("--scale", type=float, help="how many times as large, more than 1 and at most 8; 2 if not given")
    how.add_argument("--size", metavar="WIDTHxHEIGHT", help="how large in pixels")
    sub.add_argument("--tile", type=int, help="the edge of a tile in pixels; 0 for the whole picture at once")
    sub.add_argument("--models-dir", type=Path, default=Path("models"), help="where names are looked up")
    sub.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    text = "the number format on a GPU, where the upscaler stands it; auto is fp16. A CPU computes in fp32"
    sub.add_argument("--dtype", default="auto", choices=("auto", "fp16", "fp32", "bf16"), help=text)


def run(arguments: argparse.Namespace) -> str:
    """Upscale; returns a line about the picture. Raises what `Upscalers.upscale` raises, ImageError (E-IMAGE)."""
    kind = find_output_format(arguments.output)
    size = _read_size(arguments.size)
    scale = None if size else 2.0 if arguments.scale is None else arguments.scale
    image, texts = _read(arguments.picture)
    upscalers, name = _open(arguments)
    from darkroom.base.files import write_bytes
    from darkroom.engine.upscalers import DEFAULT_TILE
    from darkroom.pictures.embedded import mark_enlarged
    from darkroom.pictures.formats import convert_png
    from darkroom.pictures.png import encode_texts
    from darkroom.pictures.postprocess import add_step, upscale_fields

    used = upscalers.used(name)
    if used is None and arguments.tile is not None:
        raise RequestError("tile", arguments.tile, f"means nothing to {name}, which takes no tiles", "leave it out")
    tile = DEFAULT_TILE if arguments.tile is None else arguments.tile
    made = upscalers.upscale(image, name, scale=scale, size=size, tile=tile)
    step = {
        "upscaler": name,
        "sha256": used and used.sha256,
        "tile": tile if used else None,
        "from": list(image.size),
        "to": list(made.size),
    }
    added = add_step(texts, upscale_fields(name, scale, made.size), step)
    png = encode_texts(made, added if used is None else mark_enlarged(added, texts))
    write_bytes(arguments.output, convert_png(png, kind))
    model = f"{name} [{used.short}]" if used else name
    return f"{arguments.output}: {image.width}×{image.height} to {made.width}×{made.height} by {model}"


def _read_size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = re.fullmatch(r"([1-9]\d{0,4})[x×]([1-9]\d{0,4})", text)
    if found is None:
        raise RequestError("size", text, "is no width and height in pixels", "write it as 2048x1536")
    return int(found[1]), int(found[2])


def _read(path: Path) -> tuple[Image, dict[str, str]]:
    """The RGB picture and its texts by keyword.

    Raises ImageError (E-IMAGE), also for a picture of which something would be lost: transparency, frames, more than 8 bits.
    """
    import io

    from PIL import Image, ImageOps

    from darkroom.pictures.formats import PNG, recognize
    from darkroom.pictures.png import MAX_PIXELS, read_picture

    data = read_picture(path)
    kind = recognize(data, path)
    if kind is PNG:
        kind.check(data, path)
    texts = kind.read_text(data, path)
    try:
        with Image.open(io.BytesIO(data), formats=[kind.name.upper()]) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImageError("picture", path, f"has {image.width}x{image.height} pixels", "give a smaller one")
            if lost := _what_is_lost(image):
                raise ImageError("picture", path, f"has {lost}, which an upscaler can't keep", "save it without that")
            return ImageOps.exif_transpose(image).convert("RGB"), texts
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError("picture", path, f"is damaged ({error})", "give another file") from None


def _what_is_lost(image: Image) -> str | None:
    if getattr(image, "n_frames", 1) > 1:
        return "several frames"
    if image.mode.startswith(("I", "F")):
        return "more than 8 bits a channel"
    if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema() != (255, 255):
        return "transparent pixels"
    return None


def _open(arguments: argparse.Namespace) -> tuple[Upscalers, str]:
    """The upscalers of the models folder, and the name of the one that was asked for."""
    from darkroom.engine.arithmetic import make_deterministic
    from darkroom.engine.devices import check_gpu, resolve_device, resolve_dtype
    from darkroom.engine.library import Library
    from darkroom.engine.machine import waiting_of_threads
    from darkroom.engine.placement import Placement
    from darkroom.engine.upscalers import Upscalers

    os.environ.update(waiting_of_threads())
    library, name = Library(arguments.models_dir), arguments.model
    if Path(name).suffix.lower() in (".safetensors", ".pth", ".pt", ".ckpt", ".bin"):
        name = Path(arguments.model).stem
        library.add("upscalers", name, Path(arguments.model))
    device = resolve_device(arguments.device)
    make_deterministic(device)
    check_gpu(device)
    placement = Placement(device, takes_turns=False)
    return Upscalers(library, resolve_dtype(arguments.dtype, device), placement), name
