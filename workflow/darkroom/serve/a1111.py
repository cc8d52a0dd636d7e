"""AUTOMATIC1111's API below `/sdapi/v1`, after its modules/api/api.py: txt2img, progress, options, png-info, and lists."""

from __future__ import annotations

import base64
import binascii
import json
import logging
import os
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request

from darkroom.base.text import shorten
from darkroom.errors import ImageError, RequestError, UnsupportedError
from darkroom.pictures.infotext import NEGATIVE, read_infotext
from darkroom.pictures.infotext_stages import written_schedule
from darkroom.pictures.lossy import infotext_of
from darkroom.pictures.png import SIGNATURE, text_of_png
from darkroom.request.samplers import A1111_AUTOMATIC, MODELS_OWN, SAMPLERS, SCHEDULES
from darkroom.serve.a1111_ignored import MOST_GUESSED, Ignored, shown
from darkroom.serve.a1111_schemas import (
    Lora,
    PngInfo,
    PngInfoBody,
    ProgressAnswer,
    ProgressState,
    Sampler,
    Scheduler,
    SdModel,
    SdVae,
    Txt2Img,
    Txt2ImgAnswer,
)
from darkroom.serve.a1111_settings import (
    PER_PICTURE,
    PictureSettings,
    check_fixed,
    count_pictures,
    present_options,
    read_txt2img,
)
from darkroom.serve.adapters import check_count
from darkroom.serve.http import wants_fresh, while_connected

if TYPE_CHECKING:
    from darkroom.serve.answers import Rendered
    from darkroom.serve.service import Progress, Service

logger = logging.getLogger(__name__)

_EMPTY_LISTS = (
    "extensions",
    "face-restorers",
    "hypernetworks",
    "latent-upscale-modes",
    "prompt-styles",
    "realesrgan-models",
    "script-info",
)
_REFRESH = ("refresh-checkpoints", "refresh-loras", "refresh-vae", "refresh-embeddings")
_UNSUPPORTED = ("img2img", "extra-single-image", "extra-batch-images", "interrogate")
_WIDTH_OF_EMBEDDINGS = 768 + 1280  # of both text encoders, as A1111 counts it


def make_router(service: Service) -> APIRouter:
    """The routes below `/sdapi/v1`."""
    router = APIRouter(prefix="/sdapi/v1", tags=["AUTOMATIC1111"])
    _add_lists(router, service)
    _add_state(router, service)
    router.add_api_route("/png-info", _get_png_info, methods=["POST"])
    for path in _UNSUPPORTED:
        router.add_api_route(f"/{path}", _refuse_images, methods=["POST"])

    @router.post("/txt2img")
    async def make_pictures(body: Txt2Img, request: Request) -> Txt2ImgAnswer:
        """Make pictures of a prompt."""
        check_count(count_pictures(body), service.config)
        read = read_txt2img(body)
        _log_ignored("/sdapi/v1/txt2img", read.ignored)
        model = service.models.get(read.model).name
        started = time.time()
        work = service.make_pictures(read.settings, model=model, is_fresh=wants_fresh(request))
        pictures = await while_connected(request, work)
        if read.model is not None and body.override_settings_restore_afterwards is False:
            service.set_default(model)
        return write_answer(body, pictures, read, started)

    return router


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


def _get_png_info(body: PngInfoBody) -> PngInfo:
    """Read the settings in a picture's metadata."""
    return read_png_info(body.image)


async def _refuse_images() -> None:
    """Not supported: there is no image input."""
    raise UnsupportedError("image input", None, "pictures are made of prompts alone", "use /sdapi/v1/txt2img")


def _add_lists(router: APIRouter, service: Service) -> None:
    _add_fixed_lists(router)

    @router.get("/sd-models")
    async def list_models() -> list[SdModel]:
        models = [service.models.get(name) for name in service.models.names]
        return [
            SdModel(
                title=model.title,
                model_name=model.name,
                hash=model.model_hash,
                sha256=model.sha256,
                filename=f"{model.name}.safetensors",
            )
            for model in models
        ]

    @router.get("/sd-vae")
    async def list_vaes() -> list[SdVae]:
        names = [f"{name}.safetensors" for name in service.asset_names().vaes]
        return [SdVae(model_name=name, filename=name) for name in names]

    @router.get("/loras")
    async def list_loras() -> list[Lora]:
        return [Lora(name=name, alias=name, path=name, metadata={}) for name in service.asset_names().loras]

    @router.get("/embeddings")
    async def list_embeddings() -> dict[str, Any]:
        unknown = {"step": None, "sd_checkpoint": None, "sd_checkpoint_name": None, "vectors": None}
        loaded = {name: {**unknown, "shape": _WIDTH_OF_EMBEDDINGS} for name in service.asset_names().embeddings}
        return {"loaded": loaded, "skipped": {}}


def _add_fixed_lists(router: APIRouter) -> None:
    router.add_api_route("/samplers", list_samplers)
    router.add_api_route("/schedulers", list_schedulers)
    router.add_api_route("/upscalers", _list_upscalers)
    router.add_api_route("/scripts", _list_scripts)
    router.add_api_route("/memory", get_memory)
    router.add_api_route("/cmd-flags", _list_flags)
    for path in _EMPTY_LISTS:
        router.add_api_route(f"/{path}", _list_nothing)
    for path in _REFRESH:
        router.add_api_route(f"/{path}", _refresh, methods=["POST"])


async def list_samplers() -> list[Sampler]:
    """All samplers; `options.scheduler` is what the schedule "automatic" means."""
    return [
        Sampler(
            name=sampler.name,
            aliases=list(sampler.aliases),
            options={"scheduler": A1111_AUTOMATIC[sampler.name].lower()} if sampler.name in A1111_AUTOMATIC else {},
        )
        for sampler in SAMPLERS
    ]


async def list_schedulers() -> list[Scheduler]:
    """All schedules, and the word for the model's own where "automatic" is another one."""
    return [Scheduler(name=label.lower().replace(" ", "_"), label=label) for label in (*SCHEDULES, MODELS_OWN)]


async def get_memory() -> dict[str, dict[str, Any]]:
    """The machine's memory in bytes. That of the engines is among the metrics."""
    page, total, free = (os.sysconf(name) for name in ("SC_PAGE_SIZE", "SC_PHYS_PAGES", "SC_AVPHYS_PAGES"))
    ram = {"free": page * free, "used": page * (total - free), "total": page * total}
    return {"ram": ram, "cuda": {"error": "see /metrics"}}


async def _list_upscalers() -> list[dict[str, Any]]:
    """Only "None": pictures are not enlarged."""
    return [{"name": "None", "model_name": None, "model_path": None, "model_url": None, "scale": 1}]


async def _list_scripts() -> dict[str, list[str]]:
    """There are none."""
    return {"txt2img": [], "img2img": []}


async def _list_flags() -> dict[str, bool]:
    """The flags of an A1111 that only has its API."""
    return {"api": True, "nowebui": True}


async def _list_nothing() -> list[Any]:
    """There are none."""
    return []


async def _refresh() -> None:
    """Has no effect: LoRAs, VAEs and embeddings are looked up in each request, models when the server starts."""


def write_answer(body: Txt2Img, pictures: list[Rendered], read: PictureSettings, started: float) -> Txt2ImgAnswer:
    """A1111's answer: the pictures, the request's known fields with the missing ones filled in, and `info`."""
    first = pictures[0].request
    used = first.model_dump(mode="json", include={"negative_prompt", "steps", "cfg_scale", "width", "height"})
    used |= {"sampler_name": first.sampler, "scheduler": written_schedule(first)}
    fields = body.model_dump(include=set(Txt2Img.model_fields))
    sent = {name: value for name, value in fields.items() if value is not None}
    images = [] if body.send_images is False else [base64.b64encode(picture.png).decode() for picture in pictures]
    info = json.dumps(_write_info(body, pictures, read, started))
    return Txt2ImgAnswer(images=images, parameters={**fields, **used, **sent}, info=info)


def _write_info(body: Txt2Img, pictures: list[Rendered], read: PictureSettings, started: float) -> dict[str, Any]:
    requests = [picture.request for picture in pictures]
    first = requests[0]
    infotexts = [picture.infotext for picture in pictures]
    written = read_infotext(infotexts[0])["settings"]
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
        "width": first.width,
        "height": first.height,
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
        "denoising_strength": None,
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
    for name, value in options.items():
        if name == "sd_model_checkpoint" or value is None or (name in present and value == present[name]):
            continue
        if name in PER_PICTURE:
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


def read_png_info(image: str) -> PngInfo:
    """The metadata of a PNG, JPEG or WebP in base64. Raises RequestError (E-REQUEST)."""
    try:
        data = base64.b64decode(image.rpartition("base64,")[2], validate=True)
        texts = text_of_png(data, "image") if data.startswith(SIGNATURE) else {"parameters": infotext_of(data)}
    except (binascii.Error, ValueError, ImageError):
        why = "is not a PNG, JPEG or WebP in base64"
        raise RequestError("request: image", None, why, "send the file's bytes in base64") from None
    info = texts.pop("parameters", "")
    known = read_infotext(info)
    parameters = {"Prompt": known["prompt"], NEGATIVE[:-2]: known["negative_prompt"], **known["settings"]}
    width, _, height = known["settings"].get("Size", "").partition("x")
    sizes = {"Size-1": width, "Size-2": height} if height else {}
    return PngInfo(info=info, items=texts, parameters=parameters | sizes if info else {})


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y%m%d%H%M%S")
