"""What `POST /render` is sent: settings, and pictures under names of the client's choice, which the settings say.

In JSON the pictures are in base64 or `data:` URIs; in a form (multipart/form-data) they are files, and the settings are JSON in
its field `request`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

from darkroom.base.text import did_you_mean, shorten
from darkroom.config_output import OutputConfig
from darkroom.errors import RequestError
from darkroom.request.render_request import RenderRequest
from darkroom.serve.adapters import PRESET, begin_with
from darkroom.serve.bodies import check_json
from darkroom.serve.forms import MAX_FILES, read_form
from darkroom.serve.http import Refusal
from darkroom.serve.images import ImageReader, Meaning
from darkroom.serve.output_files import PNG_FILE, OutputFile, read_output

MAX_PREVIEWS = 10
_LONGEST_NAME = 100
_SHA256 = "^[0-9a-f]{64}$"
_FORM = "multipart/form-data"


def _describe_settings() -> dict[str, Any]:
    """RenderRequest's JSON Schema with `preset` added, and names of pictures in place of their SHA-256."""
    schema: dict[str, Any] = _without_sha256(RenderRequest.model_json_schema())
    image = schema["properties"]["image"]
    image["description"] = "The name of the picture that the stages begin with, in place of a first pass from noise."
    return {**schema, "properties": {**schema["properties"], "preset": PRESET}}


def _without_sha256(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_sha256(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {key: _without_sha256(value) for key, value in schema.items() if (key, value) != ("pattern", _SHA256)}


class RenderBody(BaseModel):
    """A picture to make: settings of a RenderRequest, with or without a `preset`; `model` by name; the file to send."""

    model_config = ConfigDict(extra="forbid")

    request: Annotated[dict[str, Any], WithJsonSchema(_describe_settings())]
    model: str | None = Field(None, max_length=200, description="A model's name; the server's default if left out.")
    output: OutputConfig | None = Field(None, description="The file's format and quality; a PNG if left out.")
    pictures: dict[Annotated[str, Field(max_length=_LONGEST_NAME)], str] | None = Field(
        None,
        max_length=MAX_FILES,
        description="Pictures in base64 or as `data:` URIs, by the names that `image`, `mask` and the `image` of controls in the settings say.",
    )

    previews: int = Field(
        0,
        ge=0,
        le=MAX_PREVIEWS,
        description="At most so many events `preview`, which a stream tells between its steps.",
    )


@dataclass(slots=True)
class Order:
    """The settings of a picture, the model's name, how many previews, the PNGs that the settings name by their SHA-256, and the file to send."""

    settings: dict[str, Any]
    model: str | None
    previews: int = 0
    pictures: dict[str, bytes] = field(default_factory=dict)
    output: OutputFile = PNG_FILE


def document_body() -> dict[str, Any]:
    """FastAPI's `openapi_extra` for a route that takes a RenderBody as JSON or as a form."""
    schema = RenderBody.model_json_schema()
    parts = {name: about for name, about in schema["properties"].items() if name != "pictures"}
    files = {"type": "string", "format": "binary", "description": "Pictures, by the names that the settings say."}
    form = {**schema, "properties": parts, "additionalProperties": files}
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}, _FORM: {"schema": form}}}
    }


async def receive_order(request: Request, reader: ImageReader) -> Order:
    """What a request asks for, with its pictures decoded and checked.

    Raises RequestValidationError, RequestError (E-REQUEST), and what `ImageReader.read` raises.
    """
    given: dict[str, str | bytes] = {}
    if request.headers.get("content-type", "").lower().startswith(_FORM):
        form = await read_form(request)
        given |= {name: form.file(name) or b"" for name in form.files}
        sent = {**form.fields}
        if isinstance(sent.get("request"), str):
            sent["request"] = await _read_json(sent["request"].encode(), "request: request")
        if isinstance(sent.get("output"), str):
            sent["output"] = await _read_json(sent["output"].encode(), "request: output")
    else:
        kind = request.headers.get("content-type", "").lower()
        if kind and "json" not in kind:
            hint = f"send it as application/json, or with files as {_FORM}"
            raise RequestError("request body", shorten(kind), "is neither JSON nor a form", hint)
        sent = await _read_json(await request.body(), "request body")
    try:
        body = RenderBody.model_validate(sent)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from None
    return await _resolve(body, {**given, **(body.pictures or {})}, reader)


async def _read_json(data: bytes, what: str) -> Any:
    """The value of a JSON text, with the limits of `check_json`, which the guard has applied to bodies that say what they are."""
    try:
        await check_json(data)
    except Refusal as refusal:
        error = refusal.error
        raise type(error)(what, error.value, error.why, error.hint) from None
    return json.loads(data)


def _read_output(output: OutputConfig | None) -> OutputFile:
    name, quality = (output.format, output.quality) if output else (None, None)
    return read_output(name, quality, ("output.format", "output.quality"))


async def _resolve(body: RenderBody, given: Mapping[str, str | bytes], reader: ImageReader) -> Order:
    """The order with the SHA-256 of the pictures in place of their names."""
    order, used = Order(dict(body.request), body.model, body.previews, output=_read_output(body.output)), set()

    async def find(name: object, where: str, meaning: Meaning) -> Any:
        if not isinstance(name, str) or name not in given:
            hint = did_you_mean(str(name), given, "send it under that name in `pictures`, or as a file of a form")
            raise RequestError(f"request: {where}", shorten(name), "is the name of no picture that was sent", hint)
        used.add(name)
        picture = await reader.read(given[name], f"pictures.{shorten(name, _LONGEST_NAME)}", meaning)
        order.pictures[picture.sha256] = picture.png
        return picture

    if order.settings.get("image") is not None:
        begun = begin_with(await find(order.settings["image"], "image", "picture"), "image")
        for edge in ("width", "height"):
            if order.settings.get(edge) not in (None, begun[edge]):
                why = f"the stages begin with a picture of {begun['width']}x{begun['height']}"
                raise RequestError(f"request: {edge}", shorten(order.settings[edge]), why, f"leave {edge} out")
        order.settings |= begun

    async def find_controls(settings: Mapping[str, Any]) -> None:
        controls = settings.get("control")
        for control in controls if isinstance(controls, list) else ():
            if isinstance(control, dict) and control.get("image") is not None:
                control["image"] = (await find(control["image"], "control: image", "picture")).sha256

    await find_controls(order.settings)
    stages = order.settings.get("stages")
    for stage in stages if isinstance(stages, list) else ():
        for settings in stage.values() if isinstance(stage, dict) else ():
            if isinstance(settings, dict) and "mask" in settings:
                settings["mask"] = (await find(settings["mask"], "mask", "mask")).sha256
            if isinstance(settings, dict):
                await find_controls(settings)
    for name in given.keys() - used:
        why = "is a picture that the settings don't name"
        raise RequestError(
            "request: pictures",
            shorten(name),
            why,
            "say its name as `image`, `mask` or a control's `image`, or leave it out",
        )
    return order
