"""What the adapters to other programs' APIs share: checks of fields, seeds, and parts of the OpenAPI document."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from darkroom.base.text import shorten, unknown_name
from darkroom.base.validation import first_problem
from darkroom.errors import LimitError, RequestError, UnsupportedError
from darkroom.request.render_request import RenderRequest
from darkroom.request.samplers import PRESETS
from darkroom.request.stages import Stage

if TYPE_CHECKING:
    from darkroom.config import ServeConfig
    from darkroom.serve.images import InputPicture

S = TypeVar("S", bound=Stage)
_SHORTEST, _LONGEST = 64, 8192
_WORDS = ("description", "default", "title")


class ErrorDetails(BaseModel):
    """An error of `darkroom.errors` in the form that OpenAI's clients read."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    code: str
    """Never changes its meaning; see docs/reference/errors.md."""
    message: str
    """The whole error in one line."""
    type: Literal["invalid_request_error", "server_error"]
    param: str | None
    """The field that is wrong, if it is one."""
    what: str
    value: str | None
    """The wrong value, if there is one."""
    why: str
    hint: str
    """What to do about it."""


class ErrorAnswer(BaseModel):
    """The body of every answer with a status of 400 or more."""

    error: ErrorDetails


ERROR_ANSWERS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorAnswer, "description": "The request can't be read, or below `/v1` what 422 is elsewhere."},
    401: {"model": ErrorAnswer, "description": "The API key is missing or wrong."},
    403: {"model": ErrorAnswer, "description": "The request comes from a site that isn't allowed."},
    404: {"model": ErrorAnswer, "description": "There is no model of that name."},
    408: {"model": ErrorAnswer, "description": "The request was sent too slowly."},
    409: {"model": ErrorAnswer, "description": "The picture was interrupted."},
    413: {"model": ErrorAnswer, "description": "The request is too long."},
    422: {"model": ErrorAnswer, "description": "A field is unknown, out of range or over a limit."},
    429: {"model": ErrorAnswer, "description": "The queue is full. `Retry-After` says when to come again."},
    500: {"model": ErrorAnswer, "description": "The picture can't be made, or something is wrong with the server."},
    503: {"model": ErrorAnswer, "description": "The server can't take the request now, or no engine is there for it."},
    504: {"model": ErrorAnswer, "description": "The picture took longer than it may."},
    507: {"model": ErrorAnswer, "description": "The picture does not fit into memory."},
}
"""FastAPI's `responses` of all routes."""


def _nullable(about: dict[str, Any]) -> dict[str, Any]:
    """The JSON Schema of a setting that may be null, without a default, since that is in the server's configuration."""
    kinds = about.get("anyOf") or [{key: value for key, value in about.items() if key not in _WORDS}]
    null = {"type": "null"}
    return {"anyOf": [*(kind for kind in kinds if kind != null), null], "description": about["description"]}


PRESET = {"enum": list(PRESETS), "description": "Sampler, schedule, steps and CFG scale of a distilled model at once."}
SETTINGS = {
    name: _nullable(about)
    for name, about in {**RenderRequest.model_json_schema()["properties"], "preset": PRESET}.items()
    if name != "image"
}
"""The JSON Schema of each setting of a picture, by name; null stands for a missing one. Pictures are sent as files."""


def describe_wishes(schema: dict[str, Any], neutral: Mapping[str, tuple[Any, ...]]) -> None:
    """Have a body's JSON Schema allow the same values as `refuse_wishes`."""
    for field, values in neutral.items():
        about = schema["properties"][field].get("description")
        schema["properties"][field] = {"enum": [*values, None], "description": about or "Other values are refused."}


def refuse_unknown(fields: Iterable[str], known: Collection[str]) -> None:
    """Raise RequestError (E-REQUEST) for an unknown field, with similar names as a hint."""
    for field in fields:
        if field not in known:
            name = shorten(field)
            why = str(unknown_name("field", name, known))
            why = why if "did you mean" in why else "unknown field"
            raise RequestError("request: field", name, why, "correct its name, or leave it out; see /docs")


def refuse_wishes(fields: Mapping[str, Any], neutral: Mapping[str, tuple[Any, ...]]) -> None:
    """Raise UnsupportedError (E-UNSUPPORTED) for a field that asks for a feature Darkroom doesn't have.

    `neutral` has the values of such fields that don't use the feature; None is always one.
    """
    for field, values in neutral.items():
        wish = fields.get(field)
        if wish is not None and wish not in values:
            hint = f"leave {field} out" + (f", or send {values[0]!r}" if values else "")
            raise UnsupportedError(f"request: {field}", shorten(wish), "Darkroom doesn't do that", hint)


def make_stage(kind: type[S], settings: Mapping[str, Any], fields: Mapping[str, str] = {}) -> S:
    """A stage of the settings that aren't None; `fields` has the client's names of settings that it calls differently.

    Raises RequestError (E-REQUEST), which names the field.
    """
    try:
        return kind.model_validate({name: value for name, value in settings.items() if value is not None})
    except ValidationError as error:
        first = first_problem(error)
        name = fields.get(first.name, first.name) or kind.name
        shown = None if first.value is None or not first.name else shorten(first.value)
        raise RequestError(f"request: {name}", shown, first.reason, f"give {name} another value") from None


def begin_with(picture: InputPicture, field: str, where: str = "request") -> dict[str, Any]:
    """The settings of a chain that begins with a picture: itself, and its size brought up to a multiple of 8.

    Raises LimitError (E-LIMIT) for a picture that is too small or too long to work on.
    """
    width, height = (-(-edge // 8) * 8 for edge in picture.size)
    if min(width, height) < _SHORTEST or max(width, height) > _LONGEST:
        why = f"an edge has {_SHORTEST} to {_LONGEST:,} pixels"
        raise LimitError(f"{where}: {field}", f"{picture.width}x{picture.height}", why, "send it in another size")
    return {"image": picture.sha256, "width": width, "height": height}


def final_size(request: RenderRequest) -> tuple[int, int]:
    """Width and height in pixels after all stages."""
    width, height = request.width, request.height
    for stage in request.stages:
        width, height = stage.size_after(width, height)
    return width, height


def choose_seed(seed: int | None, pictures: int) -> int:
    """The first of consecutive seeds for that many pictures; drawn from 32 bits if it is None or negative."""
    return random.randrange(2**32 - pictures) if seed is None or seed < 0 else seed


def check_count(pictures: int, limits: ServeConfig) -> None:
    """Raise LimitError (E-LIMIT) for a request of more pictures than allowed, or of none."""
    if not 1 <= pictures <= limits.max_images:
        raise LimitError("pictures", pictures, f"a request is for 1 to {limits.max_images}", "send several requests")
