"""The routes of A1111's extension sd-webui-controlnet, after its scripts/api.py: what there is, and what preprocessors make of pictures."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
from functools import partial
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from darkroom.engine.control_pictures import at_resolution, preprocess
from darkroom.request.assets import assets_in
from darkroom.request.control import MAX_CONTROLS, Control
from darkroom.serve.a1111_controlnet import MODULES, RESOLUTIONS, Module, read_preprocessor
from darkroom.serve.adapters import check_count
from darkroom.serve.image_pixels import write_png

if TYPE_CHECKING:
    from darkroom.serve.service import Service

_VERSION = 3
_HASHED_FROM, _HASHED = 0x100000, 0x10000
"""What of a model's file A1111's short hash is of (modules/sd_models.py, model_hash)."""


class DetectBody(BaseModel):
    """Pictures for a preprocessor, with the extension's names."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    controlnet_module: str = Field("none", max_length=200)
    """A name of `/controlnet/module_list`."""
    controlnet_input_images: list[str] = []
    """In base64."""
    controlnet_images: list[str] = []
    """Another name of `controlnet_input_images`, which webuiapi sends."""
    controlnet_processor_res: int = -1
    """The shorter edge of what is made; 512 if it is out of range."""
    controlnet_threshold_a: float = -1
    controlnet_threshold_b: float = -1
    controlnet_masks: list[str] = Field([], max_length=0)
    """No preprocessor here takes one."""
    low_vram: bool = False
    """Has no effect: nothing here takes a card's memory."""


class Detected(BaseModel):
    """What a preprocessor made."""

    images: list[str]
    """PNG in base64."""
    info: str = "Success"


def make_router(service: Service) -> APIRouter:
    """The routes below `/controlnet`."""
    router = APIRouter(prefix="/controlnet", tags=["AUTOMATIC1111"])

    @router.get("/version")
    async def get_version() -> dict[str, int]:
        """The version of the extension's API."""
        return {"version": _VERSION}

    @router.get("/settings")
    async def get_settings() -> dict[str, int]:
        """How many units a request may have."""
        return {"control_net_unit_count": MAX_CONTROLS}

    @router.get("/model_list")
    async def list_models() -> dict[str, list[str]]:
        """The ControlNets, each with A1111's short hash."""
        return {"model_list": await asyncio.to_thread(name_models, service)}

    @router.get("/module_list")
    async def list_modules(alias_names: bool = False) -> dict[str, Any]:
        """The preprocessors and their sliders, by name or by their longer names."""
        names = {key: module.alias if alias_names else key for key, module in MODULES.items()}
        detail = {names[key]: {"model_free": True, "sliders": _sliders(module)} for key, module in MODULES.items()}
        return {"module_list": list(names.values()), "module_detail": detail}

    @router.get("/control_types")
    async def list_types() -> dict[str, Any]:
        """The preprocessors by what they make; every ControlNet is offered with each."""
        models = ["None", *await asyncio.to_thread(name_models, service)]
        types = ["All", *sorted({module.control_type for module in MODULES.values()} - {"All"})]
        return {"control_types": {name: _describe_type(name, models) for name in types}}

    @router.post("/detect")
    async def detect(body: DetectBody) -> Detected:
        """What a preprocessor makes of pictures."""
        return Detected(images=[base64.b64encode(png).decode() for png in await detect_all(body, service)])

    return router


def name_models(service: Service) -> list[str]:
    """`name [hash]` of each ControlNet whose file is there."""
    found = []
    for name, path in sorted(assets_in(service.models.models_dir, "controlnets").items()):
        with path.open("rb") as file:
            file.seek(_HASHED_FROM)
            found.append(f"{name} [{hashlib.sha256(file.read(_HASHED)).hexdigest()[:8]}]")
    return found


def _sliders(module: Module) -> list[dict[str, Any] | None]:
    least, most, usual = RESOLUTIONS
    resolution = {"name": "Preprocessor Resolution", "value": usual, "min": least, "max": most}
    first = [resolution] if module.has_resolution else [None] if module.sliders else []
    named = [dict(zip(("name", "min", "max", "value"), slider, strict=True)) for slider in module.sliders]
    return [*first, *named]


def _describe_type(name: str, models: list[str]) -> dict[str, Any]:
    own = [key for key, module in MODULES.items() if name in ("All", module.control_type)]
    modules = list(dict.fromkeys(["none", *own]))
    default = "none" if name == "All" else next(key for key in own if key != "invert")
    return {"module_list": modules, "model_list": models, "default_option": default, "default_model": models[0]}


async def detect_all(body: DetectBody, service: Service) -> list[bytes]:
    """PNGs of what the preprocessor makes. Raises UnsupportedError (E-UNSUPPORTED), LimitError (E-LIMIT), RequestError (E-REQUEST)."""
    fields = {"module": body.controlnet_module, "processor_res": body.controlnet_processor_res}
    fields |= {"threshold_a": body.controlnet_threshold_a, "threshold_b": body.controlnet_threshold_b}
    control = Control.model_validate({"model": "x", **read_preprocessor(fields, "controlnet_module")})
    images = body.controlnet_input_images or body.controlnet_images
    check_count(len(images), service.config)
    made = []
    for text in images:
        picture = await service.images.read(text, "controlnet_input_images")
        made.append(await service.images.run(partial(_detect, picture.png, control)))
    return made


def _detect(png: bytes, control: Control) -> bytes:
    from PIL import Image

    image = Image.open(io.BytesIO(png), formats=["PNG"]).convert("RGB")
    size = control.processor_res
    return write_png(preprocess(at_resolution(image, size) if size else image, control))
