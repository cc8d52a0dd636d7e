"""OpenAI's fields as Darkroom's settings, models and files, and Darkroom's errors in OpenAI's words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from darkroom.errors import DarkroomError, LimitError, RequestError, UnknownModelError, UnsupportedError
from darkroom.serve import http
from darkroom.serve.adapters import choose_seed, refuse_wishes
from darkroom.serve.openai_schemas import NEUTRAL, ImageGeneration
from darkroom.serve.output_files import PNG_FILE, OutputFile, read_output

if TYPE_CHECKING:
    from darkroom.serve.catalog import Model
    from darkroom.serve.service import Service

_OPENAI_MODEL = re.compile(r"dall-e-\d|(chat)?gpt-image-[\w.-]{1,50}")
_NO_EFFECT = {
    "quality": (("auto", "standard"), "set steps instead"),
    "style": ((), "describe it in the prompt instead"),
    "complexity": ((), "there is nothing to plan"),
    "moderation": (("auto",), "nothing is moderated"),
    "input_fidelity": (("low",), "set denoising_strength instead"),
}
"""OpenAI's fields that change nothing here: the values that need no word, and what to say of the others."""
_FIELDS = {"pictures": "n", "size": "size", "steps": "steps", "loras": "loras", "model": "model"}
"""The fields that errors of other modules are about, by what these say."""


def status_of(error: DarkroomError) -> int:
    """The HTTP status of an error as OpenAI has it: 400 for what is wrong with a request."""
    status = http.status_of(error)
    return HTTPStatus.BAD_REQUEST if status == HTTPStatus.UNPROCESSABLE_ENTITY else status


@contextmanager
def in_openais_words(body: ImageGeneration) -> Iterator[None]:
    """Have errors name the field that the client has sent."""
    try:
        yield
    except (LimitError, RequestError, UnknownModelError) as error:
        what, value, hint = error.what, error.value, error.hint
        if what in _FIELDS:
            what = f"request: {_FIELDS[what]}"
        elif what in ("request: width", "request: height") and body.size not in (None, "auto"):
            what, value, hint = "request: size", body.size, "send size as WIDTHxHEIGHT in multiples of 8"
        raise type(error)(what, value, error.why, hint) from None


def find_model(service: Service, name: str | None) -> Model:
    """The model of that name, else the one that the name is an alias of; the default for None or an empty name.

    Raises UnknownModelError (E-UNKNOWN).
    """
    models, config = service.models, service.config
    try:
        return models.get(name or None)
    except UnknownModelError:
        aliases = config.aliases
        if aliases is not None and name in aliases:
            return models.get(aliases[name])
        has_default = len(models.names) == 1 or config.default_model is not None
        if aliases is None and has_default and name and _OPENAI_MODEL.fullmatch(name):
            return models.get()
        raise


def read_settings(body: ImageGeneration) -> list[dict[str, Any]]:
    """The settings of each requested picture.

    Raises UnsupportedError (E-UNSUPPORTED), and RequestError (E-REQUEST) for fields that contradict each other.
    """
    refuse_wishes(body.model_dump(), NEUTRAL)
    _check_output(body)
    settings = {name: value for name, value in (body.model_extra or {}).items() if value is not None}
    if body.size not in (None, "auto"):
        if "width" in settings or "height" in settings:
            raise RequestError("request: size", body.size, "width or height is given too", "leave one of them out")
        settings["width"], settings["height"] = map(int, str(body.size).split("x"))
    count = body.n or 1
    seed = choose_seed(body.seed, count)
    return [{**settings, "prompt": body.prompt, "seed": seed + number} for number in range(count)]


def _check_output(body: ImageGeneration) -> None:
    if body.output_format in (None, "png") and body.output_compression not in (None, 100):
        hint = "send output_format as webp or jpeg, or leave output_compression out"
        raise UnsupportedError("request: output_compression", body.output_compression, "a PNG loses nothing", hint)
    if body.partial_images and not body.stream:
        why = "an answer that isn't streamed has only finished pictures"
        raise RequestError("request: partial_images", body.partial_images, why, "send stream as true too")
    if body.stream and body.response_format == "url":
        why = "a stream holds the pictures themselves"
        raise UnsupportedError("request: response_format", "url", why, "send b64_json, or leave stream out")


def output_of(body: ImageGeneration) -> OutputFile:
    """The kind of file that a request asks for; OpenAI's `output_compression` is the encoder's quality, 100 if left out."""
    if body.output_format in (None, "png"):
        return PNG_FILE
    quality = 100 if body.output_compression is None else body.output_compression
    return read_output(body.output_format, quality, ("output_format", "output_compression"), least=0)


def ignored_fields(body: ImageGeneration) -> dict[str, str]:
    """OpenAI's fields that have no effect although they ask for something, with the reasons."""
    given = {name: getattr(body, name, None) for name in _NO_EFFECT}
    return {name: _NO_EFFECT[name][1] for name, value in given.items() if value not in (None, *_NO_EFFECT[name][0])}
