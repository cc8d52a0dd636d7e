"""`darkroom show`: what made a picture, from its own metadata: its prompt and settings, for people or as JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darkroom.errors import ImageError

if TYPE_CHECKING:
    from darkroom.pictures.infotext import Infotext


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """The options of `darkroom show`."""
    sub.add_argument("picture", type=Path, metavar="PICTURE", help="a PNG, JPEG, WebP or AVIF of Darkroom or A1111")
    sub.add_argument("--json", action="store_true", help="as JSON, with the whole request")


def run(arguments: argparse.Namespace) -> str:
    """The picture's prompt and settings. Raises ImageError (E-IMAGE) for a file that isn't a picture or has no metadata."""
    texts = _read_texts(arguments.picture)
    if "parameters" not in texts:
        hint = "use the file that was made first: programs that edit or send pictures leave it out"
        raise ImageError("picture", arguments.picture, "has no prompt and settings in its metadata", hint)
    from darkroom.pictures.infotext import DIGEST, read_infotext

    infotext = read_infotext(texts["parameters"])
    made, study = _read_json(texts.get("darkroom")), _read_json(texts.get("study"))
    if arguments.json:
        whole = {**infotext, "parameters": texts["parameters"], **made, **({"study": study} if study else {})}
        return json.dumps(whole, ensure_ascii=False, indent=2)
    return _printable(_describe(infotext, study, _chain_of(made), DIGEST in made))


def _read_texts(path: Path) -> dict[str, str]:
    """The metadata by keyword: `parameters`, and `darkroom` in a picture that Darkroom made."""
    from darkroom.pictures.formats import read_texts
    from darkroom.pictures.png import read_picture

    return read_texts(read_picture(path), path)


def _read_json(text: str | None) -> dict[str, Any]:
    """The exact request and what else a picture of Darkroom says of itself; empty for other pictures."""
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _chain_of(made: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A line for each stage with the settings that aren't its defaults, and one for a given picture; none for other pictures."""
    from darkroom.errors import DarkroomError
    from darkroom.request.render_request import RenderRequest

    try:
        request = RenderRequest.from_settings(made["request"])
    except (KeyError, TypeError, DarkroomError):
        return []
    rows = [("Begins with", f"the picture of SHA-256 {request.image}")] if request.image else []
    for number, stage in enumerate(request.stages, 1):
        settings = stage.model_dump(mode="json", exclude_defaults=True)
        text = ", ".join(f"{key} {value}" for key, value in settings.items())
        rows.append((f"Stage {number}", f"{stage.name}: {text}" if text else stage.name))
    if rows and made.get("made_from"):
        rows.append(("Made from", f"the picture of SHA-256 {made['made_from']}"))
    return rows


def _describe(infotext: Infotext, study: Mapping[str, Any], chain: Sequence[tuple[str, str]], is_left_out: bool) -> str:
    axes = study.get("axes")
    rows = [
        ("Prompt", "(left out)" if is_left_out else infotext["prompt"]),
        ("Negative prompt", infotext["negative_prompt"]),
        *((f"Axis {name}", str(label)) for name, label in (axes.items() if isinstance(axes, dict) else ())),
        *infotext["settings"].items(),
        *chain,
    ]
    width = max(len(label) for label, _ in rows)
    return "\n".join(f"{label:<{width}}  {text}" for label, text in rows if text)


def _printable(text: str) -> str:
    """Metadata comes from anybody: nothing in it may move a terminal's cursor."""
    return "".join(sign if sign.isprintable() or sign == "\n" else "\ufffd" for sign in text)
