"""`darkroom score`: scores a finished picture by the models that the configuration names, as the workflow's job does."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """The options of `darkroom score`."""
    sub.add_argument("picture", type=Path, metavar="PICTURE", help="a picture with its settings in it")
    sub.add_argument("--scores", required=True, help="name to clip and activation as in the configuration, as JSON")
    sub.add_argument("--folder", type=Path, required=True, help="the folder with NAME.safetensors of each score")
    text = "the request as JSON, of a picture whose metadata has no prompts"
    sub.add_argument("--request", help=text)
    sub.add_argument("--output", type=Path, help="also write the scores to this JSON file")


def run(arguments: argparse.Namespace) -> str:
    """Score a picture; returns a line that says how. Raises ImageError (E-IMAGE) and ScoreError (E-SCORE)."""
    import hashlib

    from darkroom.base.files import write_json
    from darkroom.pictures.formats import format_of
    from darkroom.pictures.infotext import read_request
    from darkroom.pictures.png import read_picture
    from darkroom.request.render_request import RenderRequest
    from darkroom.scores.scoring import prompt_text, read_scorers, score_picture

    path: Path = arguments.picture
    scorers = read_scorers(arguments.scores, arguments.folder)
    data, kind = read_picture(path), format_of(path)
    image, given = kind.decode(data, path), arguments.request
    request = RenderRequest.from_json(given) if given else read_request(kind.read_text(data, path), path)
    scores = score_picture(image, prompt_text(request), scorers)
    if arguments.output is not None:
        write_json(arguments.output, {"picture": hashlib.sha256(data).hexdigest(), "scores": scores})
    return f"{path}: {', '.join(f'{name} {value:g}' for name, value in scores.items())}"
