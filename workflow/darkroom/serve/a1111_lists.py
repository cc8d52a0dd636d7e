"""What A1111's API lists: names of models, VAEs, LoRAs, embeddings, samplers and schedules, and much that is empty here."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter

from darkroom.samplers import SAMPLERS, SCHEDULES
from darkroom.serve.a1111_schemas import Lora, Sampler, Scheduler, SdModel, SdVae
from darkroom.serve.a1111_settings import AUTOMATIC

if TYPE_CHECKING:
    from darkroom.serve.service import Service

_EMPTY = (
    "extensions",
    "face-restorers",
    "hypernetworks",
    "latent-upscale-modes",
    "prompt-styles",
    "realesrgan-models",
    "script-info",
)
_REFRESH = ("refresh-checkpoints", "refresh-loras", "refresh-vae", "refresh-embeddings")
_WIDTH_OF_EMBEDDINGS = 768 + 1280  # as A1111 counts it: of both text encoders


def add_lists(router: APIRouter, service: Service) -> None:
    """Add the lists to the routes below `/sdapi/v1`."""
    _add_fixed(router)

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


def _add_fixed(router: APIRouter) -> None:
    router.add_api_route("/samplers", list_samplers)
    router.add_api_route("/schedulers", list_schedulers)
    router.add_api_route("/upscalers", _list_upscalers)
    router.add_api_route("/scripts", _list_scripts)
    router.add_api_route("/memory", get_memory)
    router.add_api_route("/cmd-flags", _list_flags)
    for path in _EMPTY:
        router.add_api_route(f"/{path}", _list_nothing)
    for path in _REFRESH:
        router.add_api_route(f"/{path}", _refresh, methods=["POST"])


async def list_samplers() -> list[Sampler]:
    """All samplers; `options.scheduler` is what the schedule "automatic" means."""
    return [
        Sampler(
            name=sampler.name,
            aliases=list(sampler.aliases),
            options={"scheduler": AUTOMATIC[sampler.name].lower()} if sampler.name in AUTOMATIC else {},
        )
        for sampler in SAMPLERS
    ]


async def list_schedulers() -> list[Scheduler]:
    """All schedules."""
    return [Scheduler(name=label.lower().replace(" ", "_"), label=label) for label in SCHEDULES]


async def get_memory() -> dict[str, dict[str, Any]]:
    """The machine's memory in bytes. What an engine holds is among the metrics."""
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
    """As of an A1111 that has its API alone."""
    return {"api": True, "nowebui": True}


async def _list_nothing() -> list[Any]:
    """There are none."""
    return []


async def _refresh() -> None:
    """Nothing to do: LoRAs, VAEs and embeddings are found when they are named, models when the server starts."""
