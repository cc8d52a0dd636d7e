"""A1111's extras: pictures enlarged by one upscaler or two, after its scripts/postprocessing_upscale.py.

Sizes are exact: A1111's upscalers bring them down to multiples of 8.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request

from darkroom.request.stages import Upscale
from darkroom.serve import image_pixels
from darkroom.serve.a1111_hires import NONE, check_upscaler
from darkroom.serve.a1111_image_schemas import (
    NEUTRAL_OF_EXTRAS,
    Extras,
    ExtrasBatch,
    ExtrasBatchAnswer,
    ExtrasSingle,
    ExtrasSingleAnswer,
)
from darkroom.serve.adapters import begin_with, check_count, make_stage, refuse_wishes
from darkroom.serve.http import wants_fresh, while_connected
from darkroom.serve.images import InputPicture

if TYPE_CHECKING:
    from darkroom.serve.service import Service

_FIELDS = {"scale": "upscaling_resize", "width": "upscaling_resize_w", "height": "upscaling_resize_h"}


def add_extras(router: APIRouter, service: Service) -> None:
    """Add the routes."""

    @router.post("/extra-single-image")
    async def enlarge_picture(body: ExtrasSingle, request: Request) -> ExtrasSingleAnswer:
        """Enlarge a picture."""
        made = await while_connected(request, enlarge(body, [("image", body.image)], service, wants_fresh(request)))
        return ExtrasSingleAnswer(html_info=_as_html(body), image=made[0])

    @router.post("/extra-batch-images")
    async def enlarge_pictures(body: ExtrasBatch, request: Request) -> ExtrasBatchAnswer:
        """Enlarge several pictures in the same way."""
        images = [(f"imageList.{number}.data", each.data) for number, each in enumerate(body.imageList)]
        made = await while_connected(request, enlarge(body, images, service, wants_fresh(request)))
        return ExtrasBatchAnswer(html_info=_as_html(body), images=made)


async def enlarge(body: Extras, images: Sequence[tuple[str, str]], service: Service, is_fresh: bool) -> list[str]:
    """The pictures in base64; `images` are the fields and their texts.

    Raises UnsupportedError (E-UNSUPPORTED), RequestError (E-REQUEST), and what `Service.make_pictures` raises.
    """
    refuse_wishes(body.model_dump(include=set(NEUTRAL_OF_EXTRAS)), NEUTRAL_OF_EXTRAS)
    names = upscalers_of(body)
    for name, field in zip(names, ("upscaler_1", "upscaler_2"), strict=False):
        check_upscaler(name, service.upscaler_names(), field)
    check_count(len(images) * max(1, len(names)), service.config)
    pictures = [await service.images.read(text, field) for field, text in images]
    if not names:
        return [_encode(picture.png) for picture in pictures]
    shaped = [await service.images.run(partial(_bring_to_shape, body, picture)) for picture in pictures]
    settings = [settings for picture in shaped for settings in read_extras(body, picture, names)]
    files = {picture.sha256: picture.png for picture in shaped}
    made = [each.png for each in await service.make_pictures(settings, pictures=files, is_fresh=is_fresh)]
    if len(names) == 1:
        return [_encode(png) for png in made]
    share, text = body.extras_upscaler_2_visibility or 0.0, describe(body)
    pairs = zip(made[::2], made[1::2], strict=True)
    blended = [await service.images.run(partial(image_pixels.blend, *pair, share, text)) for pair in pairs]
    return [_encode(png) for png in blended]


def upscalers_of(body: Extras) -> list[str]:
    """The upscalers that count: without a first one, there is no second; nor with a visibility of 0."""
    first, second = body.upscaler_1 or NONE, body.upscaler_2 or NONE
    if first == NONE:
        return []
    return [first, second] if second != NONE and body.extras_upscaler_2_visibility else [first]


def read_extras(body: Extras, picture: InputPicture, upscalers: Sequence[str]) -> list[dict[str, Any]]:
    """The settings of one picture with each upscaler. Raises RequestError (E-REQUEST), which names the field."""
    size = read_size(body, picture)
    stages = [make_stage(Upscale, {"upscaler": name, **size}, _FIELDS) for name in upscalers]
    return [{**begin_with(picture, "image"), "prompt": "", "seed": 0, "stages": [stage]} for stage in stages]


def read_size(body: Extras, picture: InputPicture) -> dict[str, Any]:
    """How large it gets, as settings of the stage `upscale`, which makes nothing smaller by a scale."""
    width, height = _target(body)
    if not body.resize_mode:
        scale = 2.0 if body.upscaling_resize is None else body.upscaling_resize
        if scale >= 1:
            return {"scale": scale}
    elif body.upscaling_crop is not False:
        return {"width": width, "height": height}
    else:
        scale = max(width / picture.width, height / picture.height)
    return {"width": int(picture.width * scale), "height": int(picture.height * scale)}


def describe(body: Extras) -> str:
    """What was done, in A1111's words."""
    width, height = _target(body)
    size = f"{width}x{height}"
    how = {"Postprocess upscale by": f"{body.upscaling_resize or 2.0:g}"}
    if body.resize_mode:
        how = {"Postprocess upscale to": size} | ({} if body.upscaling_crop is False else {"Postprocess crop to": size})
    words = ("Postprocess upscaler", "Postprocess upscaler 2")
    how |= dict(zip(words, upscalers_of(body), strict=False))
    return ", ".join(f"{key}: {value}" for key, value in how.items()) if upscalers_of(body) else ""


def _bring_to_shape(body: Extras, picture: InputPicture) -> InputPicture:
    """The picture, cropped where its result would be."""
    if not body.resize_mode or body.upscaling_crop is False:
        return picture
    return InputPicture.of_png(image_pixels.crop_to_shape(picture.png, *_target(body)))


def _target(body: Extras) -> tuple[int, int]:
    return body.upscaling_resize_w or 512, body.upscaling_resize_h or 512


def _as_html(body: Extras) -> str:
    text = describe(body)
    return f"<p>{html.escape(text)}</p>" if text else ""


def _encode(png: bytes) -> str:
    return base64.b64encode(png).decode()
