"""What there is to choose from, in AUTOMATIC1111's lists below `/sdapi/v1`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from darkroom.request.stages.hires import LATENT_UPSCALERS
from darkroom.serve.a1111_hires import NONE
from darkroom.serve.a1111_image_schemas import LatentUpscaleMode, Upscaler
from darkroom.serve.a1111_samplers import list_samplers, list_schedulers
from darkroom.serve.a1111_schemas import Lora, SdModel, SdVae
from darkroom.serve.service import BUILT_IN

if TYPE_CHECKING:
    from fastapi import APIRouter

    from darkroom.serve.service import Service

_EMPTY_LISTS = (
    "extensions",
    "face-restorers",
    "hypernetworks",
    "prompt-styles",
    "realesrgan-models",
    "script-info",
)
_SCRIPTS = ("controlnet", "controlnet m2m")
"""As sd-webui-controlnet has them. The second makes films, and is refused as a `script_name`; but only where it is listed does webuiapi
empty its units for the next picture, which would have those of the last one otherwise."""
_REFRESH = ("refresh-checkpoints", "refresh-loras", "refresh-vae", "refresh-embeddings")
_WIDTH_OF_EMBEDDINGS = 768 + 1280  # of both text encoders, as A1111 counts it


def add_lists(router: APIRouter, service: Service) -> None:
    """Add the routes."""
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

    @router.get("/upscalers")
    async def list_upscalers() -> list[Upscaler]:
        """The upscalers of pictures: none, those that need no model, and the configured ones."""
        names = service.upscaler_names()
        models = [Upscaler(name=name, model_name=name if name not in BUILT_IN else None) for name in names]
        return [Upscaler(name=NONE, scale=1), *models]

    @router.get("/embeddings")
    async def list_embeddings() -> dict[str, Any]:
        unknown = {"step": None, "sd_checkpoint": None, "sd_checkpoint_name": None, "vectors": None}
        loaded = {name: {**unknown, "shape": _WIDTH_OF_EMBEDDINGS} for name in service.asset_names().embeddings}
        return {"loaded": loaded, "skipped": {}}


def _add_fixed_lists(router: APIRouter) -> None:
    router.add_api_route("/samplers", list_samplers)
    router.add_api_route("/schedulers", list_schedulers)
    router.add_api_route("/latent-upscale-modes", _list_latent_modes)
    router.add_api_route("/scripts", _list_scripts)
    router.add_api_route("/memory", get_memory)
    router.add_api_route("/cmd-flags", _list_flags)
    for path in _EMPTY_LISTS:
        router.add_api_route(f"/{path}", _list_nothing)
    for path in _REFRESH:
        router.add_api_route(f"/{path}", _refresh, methods=["POST"])


async def get_memory() -> dict[str, dict[str, Any]]:
    """The machine's memory in bytes. That of the engines is among the metrics."""
    page, total, free = (os.sysconf(name) for name in ("SC_PAGE_SIZE", "SC_PHYS_PAGES", "SC_AVPHYS_PAGES"))
    ram = {"free": page * free, "used": page * (total - free), "total": page * total}
    return {"ram": ram, "cuda": {"error": "see /metrics"}}


async def _list_latent_modes() -> list[LatentUpscaleMode]:
    """The upscalers of Hires. fix that enlarge the latents."""
    return [LatentUpscaleMode(name=name) for name in LATENT_UPSCALERS]


async def _list_scripts() -> dict[str, list[str]]:
    """ControlNet's, by the names that clients tell the extension by."""
    return {"txt2img": list(_SCRIPTS), "img2img": list(_SCRIPTS)}


async def _list_flags() -> dict[str, bool]:
    """The flags of an A1111 that only has its API."""
    return {"api": True, "nowebui": True}


async def _list_nothing() -> list[Any]:
    """There are none."""
    return []


async def _refresh() -> None:
    """Has no effect: LoRAs, VAEs and embeddings are looked up in each request, models when the server starts."""
