"""The HTTP interface, from the server's own OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

from darkroom import errors
from darkroom.config import ServeConfig
from darkroom.errors import DarkroomError
from darkroom.serve.adapters import ERROR_ANSWERS
from darkroom.serve.app import create_app
from darkroom.serve.http import status_of
from darkroom.serve.metrics import Metrics
from darkroom.serve.service import Service
from tools.reference.markdown import code, table, type_of, value

_LIMITS = (
    "queue",
    "timeout_s",
    "cancel_timeout_s",
    "read_timeout_s",
    "max_connections",
    "max_upload_bytes",
    "max_body_bytes",
    "max_picture_body_bytes",
    "max_image_bytes",
    "max_image_pixels",
    "max_pixels",
    "max_steps",
    "max_images",
    "max_loras",
)
_BODIES = {
    "render": "/render",
    "openai": "/v1/images/generations",
    "openai-edit": "/v1/images/edits",
    "a1111": "/sdapi/v1/txt2img",
    "a1111-img2img": "/sdapi/v1/img2img",
    "a1111-extras": "/sdapi/v1/extra-single-image",
}
_SAME_AS = {"openai-edit": "openai", "a1111-img2img": "a1111"}
"""Tables that leave out the fields that another one has in the same words."""
_TAGS = {"render": ("darkroom", "page"), "openai": ("OpenAI",), "a1111": ("AUTOMATIC1111",)}
_BY_REQUEST = {
    400: {"E-REQUEST"},
    404: {"E-REQUEST"},  # no such route, or no such picture (any more)
    408: {"E-REQUEST"},
    413: {"E-LIMIT"},
    503: {"E-BUSY"},  # it is about to end, has no engine that works, or too many connections or uploads
}
"""Codes that the server answers with a status of its own, whatever the code's usual one is."""


def make_parts() -> dict[str, str]:
    """The routes and the fields of each interface, the statuses, and the limits of the configuration."""
    document = open_api()
    parts = {"statuses": _statuses(), "limits": _limits()}
    for name, tags in _TAGS.items():
        parts[f"{name}-routes"] = _routes(document, tags)
    bodies = {name: _body_of(document, path) for name, path in _BODIES.items()}
    for name, body in bodies.items():
        known = bodies[_SAME_AS[name]]["properties"] if name in _SAME_AS else {}
        own = {field: about for field, about in body["properties"].items() if known.get(field) != about}
        parts[f"{name}-fields"] = _fields({**body, "properties": own})
    return parts


def open_api() -> dict[str, Any]:
    """The OpenAPI document; it depends on no model and no engine."""
    service = SimpleNamespace(is_private=False, metrics=Metrics(), config=ServeConfig())
    return create_app(cast(Service, service)).openapi()


def _body_of(document: dict[str, Any], path: str) -> dict[str, Any]:
    """The JSON Schema of what is posted to a route."""
    content = document["paths"][path]["post"]["requestBody"]["content"]
    schema: dict[str, Any] = next(iter(content.values()))["schema"]
    name = schema.get("$ref", "").rpartition("/")[2]
    return document["components"]["schemas"][name] if name else schema


def _routes(document: dict[str, Any], tags: tuple[str, ...]) -> str:
    rows = [
        (code(f"{method.upper()} {path}"), "yes" if "security" in about else "no", _first_line(about))
        for path, methods in document["paths"].items()
        for method, about in methods.items()
        if about["tags"][0] in tags
    ]
    return table(("route", "asks for the key", "what it does"), rows)


def _first_line(about: dict[str, Any]) -> str:
    text = str(about.get("description") or about["summary"].strip().capitalize()).strip().split("\n\n")[0]
    return text if text.endswith(".") else f"{text}."


def _fields(schema: dict[str, Any]) -> str:
    rows = [
        (code(name), _type(about), _default(schema, name), str(about.get("description", "")))
        for name, about in _flat(schema)
    ]
    return table(("field", "type", "default", "effect"), rows)


def _flat(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each field; the settings inside `request` are those of a picture and have a page of their own."""
    for name, about in schema["properties"].items():
        yield name, {"type": "object", "description": _SETTINGS} if name == "request" else about


_SETTINGS = "The picture's [settings](sheets.md#the-settings-of-a-picture); `prompt` is required."


def _type(about: dict[str, Any]) -> str:
    if "anyOf" not in about:
        return type_of(about, ["maxLength"])
    kinds = [kind for kind in about["anyOf"] if kind != {"type": "null"}]
    return type_of({"anyOf": kinds}, ["maxLength"])


def _default(schema: dict[str, Any], name: str) -> str:
    if name in schema.get("required", []):
        return "required"
    default = schema["properties"][name].get("default")
    return "" if default is None else value(default)


def _statuses() -> str:
    codes: dict[int, set[str]] = {status: set(also) for status, also in _BY_REQUEST.items()}
    for kind in _kinds(DarkroomError):
        codes.setdefault(status_of(kind("")), set()).add(kind.code)
    known = {int(status): str(about["description"]) for status, about in ERROR_ANSWERS.items()}
    if missing := codes.keys() - known.keys():
        raise ValueError(f"no description of status {missing}")
    rows = [(str(status), about, " ".join(map(code, sorted(codes[status])))) for status, about in known.items()]
    return table(("status", "meaning", "codes"), rows)


def _kinds(root: type[DarkroomError]) -> Iterator[type[DarkroomError]]:
    yield root
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from _kinds(child)


def _limits() -> str:
    rows = [
        (
            code(f"serve.{name}"),
            value(ServeConfig.model_fields[name].default),
            str(ServeConfig.model_fields[name].description),
        )
        for name in _LIMITS
    ]
    return table(("key", "default", "effect"), rows)
