"""OpenAI's routes that take pictures, as files in a form: `POST /v1/images/edits` and `/v1/images/variations`.

A mask is the other way round from A1111's: its transparent part is made anew. Without one the whole picture is, unless the
picture has transparent parts of its own, which are the mask then, as DALL·E 2 has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from darkroom.errors import RequestError, UnsupportedError
from darkroom.pictures.infotext import read_infotext
from darkroom.request.lora_tags import name_weights
from darkroom.request.stages import Img2Img, Inpaint, Stage
from darkroom.serve.adapters import begin_with, make_stage
from darkroom.serve.forms import Form, read_form, read_json_texts
from darkroom.serve.images import ImageReader, InputPicture
from darkroom.serve.openai_schemas import ImageEdit, ImageVariation
from darkroom.serve.openai_settings import read_settings

Body = TypeVar("Body", bound=ImageEdit)
_SHAPE = "crop"
_JSON = ("loras", "embeddings", "freeu", "stages")
_IN_PICTURE = ("denoising_strength",)
_IN_MASK = (*_IN_PICTURE, "mask_blur", "masked_content", "only_masked", "padding")


@dataclass(frozen=True, slots=True)
class Sent:
    """The picture to start from, and the mask of what is made anew (white), if there is one.

    `mask_is_of_picture` if the mask is what is transparent in the picture itself.
    """

    picture: InputPicture
    mask: InputPicture | None = None
    mask_is_of_picture: bool = False

    @property
    def files(self) -> Mapping[str, bytes]:
        """The PNGs by their SHA-256."""
        return {each.sha256: each.png for each in (self.picture, self.mask) if each is not None}


async def receive_edit(request: Request, reader: ImageReader) -> tuple[ImageEdit, Sent]:
    """The fields, the picture and the mask of a request.

    Raises RequestError (E-REQUEST), LimitError (E-LIMIT) and UnsupportedError (E-UNSUPPORTED), which name the field.
    """
    form = await read_form(request)
    body, image, mask = _read_fields(ImageEdit, form), _take_image(form), form.file("mask")
    if form.files.get("markup"):
        raise UnsupportedError("request: markup", None, "Darkroom doesn't read drawings", "send a mask")
    picture = await reader.read(image, "image")
    if mask is not None:
        return body, Sent(picture, await _read_mask(mask, picture, reader))
    if picture.is_transparent:
        return body, Sent(picture, await reader.read(image, "image", "transparency"), mask_is_of_picture=True)
    return body, Sent(picture)


async def receive_variation(request: Request, reader: ImageReader) -> tuple[ImageVariation, Sent]:
    """The fields and the picture of a request; its prompt is the picture's own if none is sent. Raises as `receive_edit`."""
    form = await read_form(request)
    body, image = _read_fields(ImageVariation, form), _take_image(form)
    for name in ("mask", "markup"):
        if form.files.get(name):
            raise RequestError("request: field", name, "unknown field", "send it to /v1/images/edits")
    picture = await reader.read(image, "image")
    return _with_own_prompt(body, picture), Sent(picture)


def read_edit(body: ImageEdit, sent: Sent) -> list[dict[str, Any]]:
    """The settings of each requested picture. Raises UnsupportedError (E-UNSUPPORTED) and RequestError (E-REQUEST)."""
    every = read_settings(body)
    first = begin_with(sent.picture, "image")
    stages = [_read_stage(body, sent, every[0].get("width"), every[0].get("height")), *every[0].get("stages", [])]
    return [{**each, **first, "stages": stages} for each in every]


def _read_stage(body: ImageEdit, sent: Sent, width: Any, height: Any) -> Stage:
    is_resized = (width or sent.picture.width, height or sent.picture.height) != sent.picture.size
    names = _IN_PICTURE if sent.mask is None else _IN_MASK
    settings = {name: getattr(body, name) for name in names}
    if is_resized:
        mode = None if body.only_masked and sent.mask else body.resize_mode or _SHAPE
        settings |= {"width": width, "height": height, "resize_mode": mode}
    if sent.mask is None:
        for name in set(_IN_MASK) - set(_IN_PICTURE):
            if getattr(body, name) is not None:
                raise RequestError(f"request: {name}", getattr(body, name), "needs a mask", "send one, or leave it out")
        return make_stage(Img2Img, settings)
    if sent.mask_is_of_picture and settings["masked_content"] is None:
        settings["masked_content"] = "fill"  # what is transparent has no colours
    return make_stage(Inpaint, {**settings, "mask": sent.mask.sha256})


async def _read_mask(mask: bytes, picture: InputPicture, reader: ImageReader) -> InputPicture:
    read = await reader.read(mask, "mask", "transparency")
    if read.size != picture.size:
        why = f"the picture has {picture.width}x{picture.height}"
        raise RequestError("request: mask", f"{read.width}x{read.height}", why, "send a mask of the picture's size")
    return read


def _take_image(form: Form) -> bytes:
    """The picture's bytes. Raises UnsupportedError (E-UNSUPPORTED) for several, RequestError (E-REQUEST) for none."""
    images = form.files.get("image", [])
    if len(images) > 1:
        why = "Darkroom starts from one picture"
        raise UnsupportedError("request: image", f"{len(images)} pictures", why, "send one")
    if not images:
        raise RequestError("request: image", None, "is missing", "send the picture's file")
    return images[0]


def _read_fields(kind: type[Body], form: Form) -> Body:
    """The form's texts. Raises RequestError (E-REQUEST) and RequestValidationError."""
    for name in form.files.keys() - {"image", "mask", "markup"}:
        raise RequestError("request: field", name[:80], "unknown file", "send image, and perhaps mask")
    try:
        return kind.model_validate(read_json_texts(form.fields, _JSON))
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from None


def _with_own_prompt(body: ImageVariation, picture: InputPicture) -> ImageVariation:
    """The request with the prompts of the picture's metadata, unless it has one."""
    if body.prompt or not picture.infotext:
        return body
    known = read_infotext(picture.infotext)
    own: dict[str, Any] = {"prompt": name_weights(known["prompt"], te_first=True)}
    extra = {"negative_prompt": known["negative_prompt"], **(body.model_extra or {})}
    return type(body).model_validate({**body.model_dump(exclude_unset=True), **extra, **own})
