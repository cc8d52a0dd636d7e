"""A1111's img2img: its fields as the stages `img2img` and `inpaint` of a picture that is sent (modules/processing.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from darkroom.errors import RequestError, UnsupportedError
from darkroom.request.stages import Img2Img as Img2ImgStage
from darkroom.request.stages import Inpaint, Stage
from darkroom.serve.a1111_ignored import IMAGE_OPTIONS, refuse_options
from darkroom.serve.a1111_image_schemas import MASKED_CONTENT, NEUTRAL_OF_IMAGES, Img2Img
from darkroom.serve.a1111_infotext import with_infotext
from darkroom.serve.a1111_settings import PictureSettings, read_processing, read_refiner
from darkroom.serve.adapters import begin_with, make_stage, refuse_wishes
from darkroom.serve.images import ImageReader, InputPicture

_MODES = ("stretch", "crop", "fill")
_INPAINT_FIELDS = {
    "padding": "inpaint_full_res_padding",
    "masked_content": "inpainting_fill",
}
_STRENGTH = 0.75


@dataclass(frozen=True, slots=True)
class Sent:
    """The pictures of a request, decoded: one for all results or one for each of a batch, and the mask."""

    pictures: tuple[InputPicture, ...]
    mask: InputPicture | None

    @property
    def files(self) -> Mapping[str, bytes]:
        """The PNGs by their SHA-256."""
        both = [*self.pictures, *([self.mask] if self.mask else [])]
        return {picture.sha256: picture.png for picture in both}


def count_images(body: Img2Img) -> Img2Img:
    """The request with a `batch_size` of one for each of several pictures, as A1111 has it.

    Raises RequestError (E-REQUEST) for no picture, and for more than `batch_size`.
    """
    count, most = len(body.init_images or []), body.batch_size or 1
    if not count:
        raise RequestError("request: init_images", None, "has no picture", "send at least one, in base64")
    if count > 1 and count > most:
        why = f"{count} pictures for a batch_size of {most}"
        raise RequestError("request: init_images", None, why, f"send batch_size as {count}, or fewer pictures")
    return body if count == 1 else body.model_copy(update={"batch_size": count})


async def receive_images(body: Img2Img, reader: ImageReader) -> Sent:
    """Decode the pictures and the mask. Raises as `ImageReader.read`."""
    images = body.init_images or []
    names = ["init_images"] if len(images) == 1 else [f"init_images.{number}" for number in range(len(images))]
    pictures = tuple([await reader.read(text, name) for text, name in zip(images, names, strict=True)])
    if not body.mask:
        return Sent(pictures, None)
    sizes = {picture.size for picture in pictures}
    if len(sizes) > 1:
        raise UnsupportedError("request: mask", None, "the pictures have different sizes", "send them one by one")
    return Sent(pictures, await reader.read(body.mask, "mask", "mask", sizes.pop()))


def read_img2img(body: Img2Img, sent: Sent) -> PictureSettings:
    """Translate a request. Raises UnsupportedError (E-UNSUPPORTED) and RequestError (E-REQUEST), which name the field."""
    refuse_wishes(body.model_dump(include=set(NEUTRAL_OF_IMAGES)), NEUTRAL_OF_IMAGES)
    body, own = with_infotext(body)
    refuse_options("override_settings", body.override_settings or {}, IMAGE_OPTIONS)
    read = read_processing(body, own, {})
    every = [
        {
            **settings,
            **begin_with(picture, "init_images"),
            "stages": [_read_stage(body, picture, sent.mask), *read_refiner(body)],
        }
        for settings, picture in zip(read.settings, _spread(sent.pictures, len(read.settings)), strict=True)
    ]
    ignored = dict(read.ignored)
    if body.image_cfg_scale is not None:
        ignored["image_cfg_scale"] = "only models for instruct-pix2pix have it"
    return replace(read, settings=every, ignored=ignored)


def _spread(pictures: Sequence[InputPicture], count: int) -> list[InputPicture]:
    """The picture that each result begins with: each batch goes through all of them."""
    return [pictures[number % len(pictures)] for number in range(count)]


def _read_stage(body: Img2Img, picture: InputPicture, mask: InputPicture | None) -> Stage:
    mode = body.resize_mode or 0
    width, height = body.width or picture.width, body.height or picture.height
    is_resized = (width, height) != picture.size
    common: dict[str, Any] = {
        "denoising_strength": _STRENGTH if body.denoising_strength is None else body.denoising_strength,
        "width": width if is_resized else None,
        "height": height if is_resized else None,
    }
    if is_resized and mode == len(_MODES) and not (mask and _is_only_masked(body)):
        why = "Darkroom doesn't resize latents here"
        raise UnsupportedError("request: resize_mode", mode, why, "send 0, 1 or 2")
    if is_resized and mode < len(_MODES) and not (mask and _is_only_masked(body)):
        common["resize_mode"] = _MODES[mode]
    if mask is None:
        return make_stage(Img2ImgStage, common)
    if body.mask_round is False:
        raise UnsupportedError("request: mask_round", False, "Darkroom's masks are black and white", "leave it out")
    inpaint = {
        **common,
        "mask": mask.sha256,
        "invert": bool(body.inpainting_mask_invert),
        "mask_blur": _read_blur(body),
        "masked_content": MASKED_CONTENT[body.inpainting_fill or 0],
        "only_masked": _is_only_masked(body),
        "padding": body.inpaint_full_res_padding or 0,
    }
    return make_stage(Inpaint, inpaint, _INPAINT_FIELDS)


def _is_only_masked(body: Img2Img) -> bool:
    return body.inpaint_full_res is None or bool(body.inpaint_full_res)


def _read_blur(body: Img2Img) -> int:
    """As in A1111, `mask_blur` counts more than the two that it stands for."""
    if body.mask_blur is not None:
        return body.mask_blur
    across, down = (4 if blur is None else blur for blur in (body.mask_blur_x, body.mask_blur_y))
    if across != down:
        why = f"Darkroom blurs both ways alike, and mask_blur_y is {down}"
        raise UnsupportedError("request: mask_blur_x", across, why, "send mask_blur")
    return across
