"""What the adapters to other programs' APIs share: fields by name, seeds, and parts of the OpenAPI document."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from darkroom.base.text import unknown_name
from darkroom.errors import RequestError, UnsupportedError
from darkroom.request.render_request import RenderRequest
from darkroom.request.samplers import PRESETS

_MOST_SHOWN = 80
_WORDS = ("description", "default", "title")


class ErrorDetails(BaseModel):
    """An error of `darkroom.errors` in the form that OpenAI's clients read."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    code: str
    """Never changes its meaning; see docs/reference/errors.md."""
    message: str
    """All of it in one line."""
    type: Literal["invalid_request_error", "server_error"]
    param: None = None
    what: str
    value: str | None
    """What was wrong, where one value was."""
    why: str
    hint: str
    """One thing to do."""


class ErrorAnswer(BaseModel):
    """What every answer with a status of 400 or more holds."""

    error: ErrorDetails


ERROR_ANSWERS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorAnswer, "description": "The request can't be read."},
    401: {"model": ErrorAnswer, "description": "A key is missing or wrong."},
    403: {"model": ErrorAnswer, "description": "The request comes from another site."},
    404: {"model": ErrorAnswer, "description": "There is no model of that name."},
    408: {"model": ErrorAnswer, "description": "The request came too slowly."},
    409: {"model": ErrorAnswer, "description": "The picture was interrupted."},
    413: {"model": ErrorAnswer, "description": "The request is too long."},
    422: {"model": ErrorAnswer, "description": "A field is unknown, out of range or over a limit."},
    429: {"model": ErrorAnswer, "description": "The queue is full. `Retry-After` says when to come again."},
    500: {"model": ErrorAnswer, "description": "The picture can't be made, or something is wrong with the server."},
    503: {"model": ErrorAnswer, "description": "No engine is there to make the picture."},
    504: {"model": ErrorAnswer, "description": "The picture took longer than it may."},
    507: {"model": ErrorAnswer, "description": "The picture does not fit into memory."},
}
"""FastAPI's `responses` of all routes."""


def _nullable(about: dict[str, Any]) -> dict[str, Any]:
    """A setting's JSON Schema, or null; without a default, since the server's configuration has its own."""
    kinds = about.get("anyOf") or [{key: value for key, value in about.items() if key not in _WORDS}]
    null = {"type": "null"}
    return {"anyOf": [*(kind for kind in kinds if kind != null), null], "description": about["description"]}


PRESET = {"enum": list(PRESETS), "description": "Sampler, schedule, steps and CFG scale of a distilled model at once."}
SETTINGS = {
    name: _nullable(about)
    for name, about in {**RenderRequest.model_json_schema()["properties"], "preset": PRESET}.items()
}
"""The JSON Schema of each setting of a picture, by name; null is as left out."""


def describe_wishes(schema: dict[str, Any], neutral: Mapping[str, tuple[Any, ...]]) -> None:
    """Have a body's JSON Schema allow for the fields of `refuse_wishes` what that allows."""
    for field, values in neutral.items():
        about = schema["properties"][field].get("description")
        schema["properties"][field] = {"enum": [*values, None], "description": about or "Other values are refused."}


def refuse_unknown(fields: Iterable[str], known: Collection[str]) -> None:
    """Raise RequestError (E-REQUEST) for a field that isn't known, with the near ones."""
    for field in fields:
        if field not in known:
            name = field[:_MOST_SHOWN]
            why = str(unknown_name("field", name, known))
            why = why if "did you mean" in why else "unknown field"
            raise RequestError("request: field", name, why, "mend its name, or leave it out; see /docs")


def refuse_wishes(fields: Mapping[str, Any], neutral: Mapping[str, tuple[Any, ...]]) -> None:
    """Raise UnsupportedError (E-UNSUPPORTED) for a field that asks for what Darkroom doesn't do.

    `neutral` gives such fields' values that ask for nothing; None never does.
    """
    for field, values in neutral.items():
        wish = fields.get(field)
        if wish is not None and wish not in values:
            hint = f"leave {field} out" + (f", or send {values[0]!r}" if values else "")
            raise UnsupportedError(f"request: {field}", shorten(wish), "Darkroom doesn't do that", hint)


def shorten(value: Any) -> str:
    """A value as an error shows it: its beginning, if it is long."""
    text = str(value)
    return text if len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN] + "…"


def choose_seed(seed: int | None, pictures: int) -> int:
    """The first of as many consecutive seeds as there are pictures; None and -1 stand for any of 32 bits."""
    return random.randrange(2**32 - pictures) if seed is None or seed < 0 else seed
