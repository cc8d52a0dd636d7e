"""`darkroom encode`: a finished PNG in another format with the same metadata, signed or not, as the workflow's job does."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darkroom.errors import RequestError

if TYPE_CHECKING:
    from darkroom.config_output import MetadataConfig
    from darkroom.pictures.formats import PictureFormat


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """The options of `darkroom encode`."""
    sub.add_argument("picture", type=Path, metavar="PICTURE", help="a PNG of Darkroom")
    text = "the file to write, in the format of its suffix: .webp, .jpg, .avif or .png"
    sub.add_argument("--output", "-o", type=Path, required=True, help=text)
    sub.add_argument("--quality", type=int, help="the encoder's, 1 to 100")
    text = "what to write into it, as JSON with keys of the configuration's metadata"
    sub.add_argument("--metadata", default="{}", help=text)
    sub.add_argument("--c2pa", help="how to sign it, as JSON with keys of the configuration's c2pa")


def run(arguments: argparse.Namespace) -> str:
    """Encode; returns a line about the file. Raises ImageError (E-IMAGE), LimitError (E-LIMIT) and ConfigError (E-CONFIG)."""
    from darkroom.base.files import write_bytes
    from darkroom.base.text import format_bytes
    from darkroom.config_output import C2paConfig
    from darkroom.pictures.embedded import limit_png, source_in
    from darkroom.pictures.formats import PNG, convert_png
    from darkroom.pictures.png import read_picture

    path, kind = arguments.picture, find_output_format(arguments.output)
    metadata, quality = read_metadata(arguments.metadata), _check_quality(arguments.quality, kind)
    signer = None if arguments.c2pa is None else _read_json("--c2pa", arguments.c2pa, C2paConfig)
    if arguments.output.resolve() == path.resolve():
        raise RequestError("--output", arguments.output, "is the picture itself", "name another file")
    png = read_picture(path)
    PNG.check(png, path)
    png = limit_png(png, metadata, path)
    data = convert_png(png, kind, quality)
    if signer is not None:
        from darkroom.pictures.signing import sign_picture

        data = sign_picture(data, kind, signer, source_in(PNG.read_text(png, path)), arguments.output.name)
    write_bytes(arguments.output, data)
    how = f", quality {quality}" if quality is not None else ""
    signed = ", signed" if signer is not None else ""
    return f"{arguments.output}: {kind.name}{how}{signed}, {format_bytes(len(data))}"


def find_output_format(output: Path) -> PictureFormat:
    """The format that a file to write has by its suffix; a PNG without one.

    Raises RequestError (E-REQUEST) for an unknown suffix, UnsupportedError (E-UNSUPPORTED) for a format that Pillow lacks.
    """
    from darkroom.pictures.formats import BY_SUFFIX, PNG, check_can_write

    suffix = output.suffix.lower()
    kind = BY_SUFFIX.get(suffix) if suffix else PNG
    if kind is None:
        why = f"'{suffix}' is no format that can be written"
        raise RequestError("output", output, why, f"end its name in {', '.join(BY_SUFFIX)}")
    check_can_write(kind)
    return kind


def read_metadata(text: str) -> MetadataConfig:
    """The metadata that an option in JSON asks for. Raises RequestError (E-REQUEST)."""
    from darkroom.config_output import MetadataConfig

    read: MetadataConfig = _read_json("--metadata", text, MetadataConfig)
    return read


def _read_json(option: str, text: str, kind: Any) -> Any:
    from pydantic import ValidationError

    try:
        return kind.model_validate(json.loads(text))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "value"
        raise RequestError(option, name, first["msg"], "give the keys of docs/reference/config.md") from None
    except ValueError:
        raise RequestError(option, None, "is no JSON", "write it as '{\"prompt\": false}'") from None


def _check_quality(quality: int | None, kind: PictureFormat) -> int | None:
    if quality is None or kind.quality is None:
        if quality is not None:
            raise RequestError("--quality", quality, "means nothing to a PNG, which loses nothing", "leave it out")
        return kind.quality
    if not 1 <= quality <= 100:
        raise RequestError("--quality", quality, "is no number from 1 to 100", "give it another value")
    return quality
