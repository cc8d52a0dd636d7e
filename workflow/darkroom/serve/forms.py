"""Bodies of multipart/form-data (RFC 7578), as OpenAI's clients send files: read in memory, within limits, names unused."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from darkroom.errors import LimitError, RequestError

MAX_FIELDS = 200
MAX_FILES = 20
_KEY = re.compile(r"(\w+)(?:\[(\w*)\])?")


class _InMemory(MultiPartParser):
    """Starlette's parser, without its temporary files: the body is in memory already."""

    spool_max_size = 2**31


@dataclass(slots=True)
class Form:
    """A form's texts by name, where `a[b]` is a mapping and `a[]` a list, and the bytes of its files by name."""

    fields: dict[str, Any] = field(default_factory=dict)
    files: dict[str, list[bytes]] = field(default_factory=dict)

    def file(self, name: str) -> bytes | None:
        """The only file of that name, None if there is none. Raises RequestError (E-REQUEST) for several."""
        found = self.files.get(name, [])
        if len(found) > 1:
            raise RequestError(f"request: {name}", None, f"{len(found)} files", "send one")
        return found[0] if found else None


async def read_form(request: Request) -> Form:
    """The form in a request's body. Raises RequestError (E-REQUEST) and LimitError (E-LIMIT)."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        hint = "send the picture as a file in multipart/form-data, as OpenAI's packages do"
        raise RequestError("request body", None, "is no form", hint)
    parser = _InMemory(
        request.headers, request.stream(), max_files=MAX_FILES, max_fields=MAX_FIELDS, max_part_size=2**20
    )
    try:
        items = (await parser.parse()).multi_items()
    except MultiPartException as error:
        if "aximum" in error.message:
            why = f"a form may have {MAX_FIELDS} fields of 1 MiB, and {MAX_FILES} files"
            raise LimitError("request body", None, why, "send less") from None
        raise RequestError("request body", None, f"is no form: {error.message}", "send what a library writes") from None
    form = Form()
    for name, value in items:
        if isinstance(value, UploadFile):
            form.files.setdefault(name.removesuffix("[]"), []).append(await value.read())
            await value.close()
        else:
            _add(form.fields, name, value)
    return form


def _add(fields: dict[str, Any], name: str, value: str) -> None:
    """Add a text. Raises RequestError (E-REQUEST) for a name that has two kinds of values, or half a surrogate pair."""
    found = _KEY.fullmatch(name)
    key, inner = (found[1], found[2]) if found else (name, None)
    kind: type = str if inner is None else dict if inner else list
    if key in fields and (kind is str or not isinstance(fields[key], kind)):
        raise RequestError(f"request: {key}", None, "is given twice", "send it once")
    if kind is dict:
        fields.setdefault(key, {})[inner] = value
    elif kind is list:
        fields.setdefault(key, []).append(value)
    else:
        fields[key] = value


def read_json_texts(fields: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """The fields with those of that name read as JSON, if they look like a list or a mapping.

    Raises RequestError (E-REQUEST) for a text that only looks like one.
    """
    read = dict(fields)
    for name in names:
        value = read.get(name)
        if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
            try:
                read[name] = json.loads(value)
            except (ValueError, RecursionError):
                raise RequestError(f"request: {name}", None, "is no JSON", "send a list or a mapping") from None
    return read
