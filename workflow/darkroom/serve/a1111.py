"""AUTOMATIC1111's API below `/sdapi/v1`, after its modules/api/api.py: txt2img, img2img, progress, options, png-info."""

from __future__ import annotations

import base64
import json
import logging
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request

from darkroom.base.text import shorten
from darkroom.errors import ImageError, RequestError, UnknownModelError, UnsupportedError
from darkroom.pictures.formats import read_texts
from darkroom.pictures.infotext import NEGATIVE, read_infotext
from darkroom.pictures.infotext_stages import written_schedule
from darkroom.request.stages import DenoisingStage, Hires, Refine
from darkroom.request.stages.hires import LATENT_UPSCALERS
from darkroom.serve.a1111_controlnet import receive_units
from darkroom.serve.a1111_extras import add_extras
from darkroom.serve.a1111_hires import check_upscaler
from darkroom.serve.a1111_ignored import HIRES_OPTIONS, IMAGE_OPTIONS, MOST_GUESSED, Ignored, refuse_options, shown
from darkroom.serve.a1111_image_schemas import Img2Img
from darkroom.serve.a1111_img2img import count_images, read_img2img, receive_images
from darkroom.serve.a1111_lists import add_lists
from darkroom.serve.a1111_schemas import (
    PngInfo,
    PngInfoBody,
    Processing,
    ProgressAnswer,
    ProgressState,
    Txt2Img,
    Txt2ImgAnswer,
)
from darkroom.serve.a1111_settings import (
    FILE_OPTIONS,
    PER_PICTURE,
    PictureSettings,
    check_fixed,
    count_pictures,
    present_options,
    read_txt2img,
)
from darkroom.serve.adapters import check_count, final_size
from darkroom.serve.http import wants_fresh, while_connected
from darkroom.serve.images import decode_base64

if TYPE_CHECKING:
    from darkroom.config import ServeConfig
    from darkroom.serve.answers import Rendered
    from darkroom.serve.service import Progress, Service

logger = logging.getLogger(__name__)


def make_router(service: Service) -> APIRouter:
    """The routes below `/sdapi/v1`."""
    router = APIRouter(prefix="/sdapi/v1", tags=["AUTOMATIC1111"])
    add_lists(router, service)
    _add_state(router, service)
    add_extras(router, service)
    _add_png_info(router, service)
    router.add_api_route("/interrogate", _refuse_interrogation, methods=["POST"])

    @router.post("/txt2img")
    async def make_pictures(body: Txt2Img, request: Request) -> Txt2ImgAnswer:
        """Make pictures of a prompt."""
        check_count(count_pictures(body), service.config)
        body, units = await receive_units(body, service)
        read = read_txt2img(body)
        _check_stages(read, service)
        return await _answer(body, units.lead(read, has_hires=bool(body.enable_hr)), units.files, request, service)

    @router.post("/img2img")
    async def change_pictures(body: Img2Img, request: Request) -> Txt2ImgAnswer:
        """Make pictures of pictures: all of one anew, or what a mask says."""
        body = count_images(body)
        check_count(count_pictures(body), service.config)
        body, units = await receive_units(body, service)
        sent = await receive_images(body, service.images)
        read = read_img2img(body, sent)
        _check_stages(read, service)
        read = units.lead(read, has_hires=False)
        return await _answer(body, read, {**sent.files, **units.files}, request, service)

    return router


async def _answer(
    body: Processing, read: PictureSettings, files: Mapping[str, bytes], request: Request, service: Service
) -> Txt2ImgAnswer:
    """Make the pictures, unless the client disconnects."""
    _log_ignored(request.url.path, read.ignored)
    model = service.models.get(read.model).name
    started = time.time()
    work = service.make_pictures(read.settings, model=model, pictures=files, is_fresh=wants_fresh(request))
    pictures = await while_connected(request, work)
    if read.model is not None and body.override_settings_restore_afterwards is False:
        service.set_default(model)
    is_shown = body.send_images is not False
    sent = await read.output.encode_all(picture.png for picture in pictures if is_shown)
    return write_answer(body, pictures, read, started, sent)


def _check_stages(read: PictureSettings, service: Service) -> None:
    """Raise RequestError (E-REQUEST) for an unknown upscaler, UnknownModelError (E-UNKNOWN) for an unknown checkpoint."""
    for stage in read.settings[0].get("stages", ()):
        if isinstance(stage, Hires):
            check_upscaler(stage.upscaler, [*LATENT_UPSCALERS, *service.upscaler_names()], "hr_upscaler")
        if stage.checkpoint is not None:
            try:
                service.models.get(stage.checkpoint)
            except UnknownModelError as error:
                field = "refiner_checkpoint" if isinstance(stage, Refine) else "hr_checkpoint_name"
                raise UnknownModelError(f"request: {field}", error.value, error.why, error.hint) from None


def _log_ignored(route: str, ignored: Ignored) -> None:
    """Only names: the values are the client's, passwords among them."""
    if ignored:
        logger.info("%s ignored %s", route, ", ".join(shown(ignored)))


def _add_state(router: APIRouter, service: Service) -> None:
    @router.get("/options")
    async def get_options() -> dict[str, Any]:
        """The options and their values."""
        model = service.models.get()
        return present_options(model.title, model.sha256)

    @router.post("/options")
    async def set_options(options: dict[str, Any]) -> None:
        """Change the default model. Options that change pictures may only be set to their present values."""
        name, ignored = read_options(options, await get_options())
        _log_ignored("/sdapi/v1/options", ignored)
        if name is not None:
            service.set_default(name)

    @router.get("/progress")
    async def get_progress(skip_current_image: bool = False) -> ProgressAnswer:
        """How far the oldest request is. There is never a `current_image`."""
        return read_progress(service.progress(), time.time())

    @router.post("/interrupt")
    @router.post("/skip")
    async def interrupt() -> dict[str, Any]:
        """Give up the pictures under way; their clients get the error E-CANCELLED."""
        service.interrupt()
        return {}


def _add_png_info(router: APIRouter, service: Service) -> None:
    @router.post("/png-info")
    async def get_png_info(body: PngInfoBody) -> PngInfo:
        """Read the settings in a picture's metadata."""
        return await service.images.run(partial(read_png_info, body.image, service.config))


async def _refuse_interrogation() -> None:
    """Not supported: Darkroom describes no pictures."""
    raise UnsupportedError("interrogate", None, "Darkroom describes no pictures", "use a program that captions them")


def write_answer(
    body: Processing, pictures: list[Rendered], read: PictureSettings, started: float, files: Sequence[bytes]
) -> Txt2ImgAnswer:
    """A1111's answer: the pictures' files, the request's known fields with the missing ones filled in, and `info`."""
    first = pictures[0].request
    used = first.model_dump(mode="json", include={"negative_prompt", "steps", "cfg_scale", "width", "height"})
    used |= {"sampler_name": first.sampler, "scheduler": written_schedule(first)}
    fields = body.model_dump(include=set(type(body).model_fields))
    if isinstance(body, Img2Img):
        used["width"], used["height"] = final_size(first)
        if not body.include_init_images:
            fields |= {"init_images": None, "mask": None}
    sent = {name: value for name, value in fields.items() if value is not None}
    images = [base64.b64encode(file).decode() for file in files]
    info = json.dumps(_write_info(body, pictures, read, started))
    return Txt2ImgAnswer(images=images, parameters={**fields, **used, **sent}, info=info)


def _write_info(body: Processing, pictures: list[Rendered], read: PictureSettings, started: float) -> dict[str, Any]:
    requests = [picture.request for picture in pictures]
    first = requests[0]
    infotexts = [picture.infotext for picture in pictures]
    written = read_infotext(infotexts[0])["settings"]
    width, height = final_size(first)
    strengths = [
        stage.denoising_strength
        for stage in first.stages
        if isinstance(stage, DenoisingStage) and stage.denoising_strength
    ]
    return {
        "prompt": first.prompt,
        "all_prompts": [request.prompt for request in requests],
        "negative_prompt": first.negative_prompt,
        "all_negative_prompts": [request.negative_prompt for request in requests],
        "seed": first.seed,
        "all_seeds": [request.seed for request in requests],
        "subseed": read.subseeds[0],
        "all_subseeds": read.subseeds,
        "subseed_strength": first.variation_strength,
        "width": width,
        "height": height,
        "sampler_name": first.sampler,
        "cfg_scale": first.cfg_scale,
        "steps": first.steps,
        "batch_size": body.batch_size or 1,
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": pictures[0].model,
        "sd_model_hash": pictures[0].model_hash,
        "sd_vae_name": first.vae,
        "sd_vae_hash": written.get("VAE hash"),
        "seed_resize_from_w": -1,
        "seed_resize_from_h": -1,
        "denoising_strength": strengths[0] if strengths else None,
        "extra_generation_params": {"Schedule type": written_schedule(first)},
        "index_of_first_image": 0,
        "infotexts": infotexts,
        "styles": [],
        "job_timestamp": _stamp(started),
        "clip_skip": max(first.clip_skip, 1),
        "is_using_inpainting_conditioning": False,
        "version": written.get("Version"),
        "ignored": shown(read.ignored),
    }


def read_options(options: dict[str, Any], present: dict[str, Any]) -> tuple[str | None, Ignored]:
    """The model to make the default (or None), and the options that are ignored because they change no picture.

    Raises UnsupportedError (E-UNSUPPORTED) for another value of any other option.
    """
    ignored: Ignored = {}
    refuse_options("options", options, {**HIRES_OPTIONS, **IMAGE_OPTIONS})
    for name, value in options.items():
        if name == "sd_model_checkpoint" or value is None or (name in present and value == present[name]):
            continue
        if name in (*PER_PICTURE, *FILE_OPTIONS):
            why = "can't be set for everybody"
            raise UnsupportedError(
                f"request: {name}", shorten(value), why, "send it with a picture, in override_settings"
            )
        if reason := check_fixed("options", name, value, guess=len(ignored) < MOST_GUESSED):
            ignored[shorten(name)] = reason
    model = options.get("sd_model_checkpoint")
    return None if model is None else str(model), ignored


def read_progress(progress: Progress | None, now: float) -> ProgressAnswer:
    """A request's progress as A1111 reports it; all zero without a request, which tells clients that there is none."""
    if progress is None:
        return ProgressAnswer()
    done = (progress.picture + progress.step / progress.steps) / progress.pictures
    elapsed = now - progress.started
    state = ProgressState(
        job="txt2img",
        job_count=progress.pictures,
        job_timestamp=_stamp(progress.started),
        job_no=progress.picture,
        sampling_step=progress.step,
        sampling_steps=progress.steps,
    )
    left = elapsed / done - elapsed if done else 0.0
    ahead = f", {progress.waiting} ahead" if progress.waiting else ""
    return ProgressAnswer(progress=min(done, 1.0), eta_relative=left, state=state, textinfo=progress.stage + ahead)


def read_png_info(image: str, limits: ServeConfig) -> PngInfo:
    """The metadata of a PNG, JPEG, WebP or AVIF in base64. Raises RequestError (E-REQUEST), LimitError, SsrfError."""
    data = decode_base64(image, "request: image", limits)
    try:
        texts = read_texts(data, "image")
    except ImageError:
        why = "is not a PNG, JPEG, WebP or AVIF in base64"
        raise RequestError("request: image", None, why, "send the file's bytes in base64") from None
    info = texts.pop("parameters", "")
    known = read_infotext(info)
    parameters = {"Prompt": known["prompt"], NEGATIVE[:-2]: known["negative_prompt"], **known["settings"]}
    for name in ("Size", "Hires resize"):
        width, _, height = known["settings"].get(name, "").partition("x")
        parameters |= {f"{name}-1": width, f"{name}-2": height} if height else {}
    return PngInfo(info=info, items=texts, parameters=parameters if info else {})


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y%m%d%H%M%S")
