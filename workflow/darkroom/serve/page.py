"""The page at `/`: a form for a prompt, a picture to start from with a mask, the progress of each step, and the picture made.

Its files are in `resources/page/`, with the colours and type of all pages in `resources/gallery/tokens.css`. They need no API
key; `/options.json`, which fills the form, does. The Content-Security-Policy (W3C, level 3) only allows the page's own files
and the pictures it receives, so that no prompt can run code and nothing is loaded from another site.
"""

from __future__ import annotations

from typing import Any, get_args

from fastapi import APIRouter, HTTPException, Response

from darkroom.request.render_request import Emphasis
from darkroom.request.samplers import PRESETS, SAMPLERS, SCHEDULES
from darkroom.request.stages.hires import LATENT_UPSCALERS
from darkroom.request.stages.inpaint import MaskedContent
from darkroom.resources import RESOURCES
from darkroom.serve.service import Service

_INDEX = "index.html"
_TOKENS = RESOURCES / "gallery/tokens.css"
_MEDIA_TYPES = {".css": "text/css", ".html": "text/html", ".js": "text/javascript", ".svg": "image/svg+xml"}
_POLICY = (
    "default-src 'none'",
    "connect-src 'self'",
    "img-src 'self' blob:",
    "script-src 'self'",
    "style-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
)
_HEADERS = {
    "Content-Security-Policy": "; ".join(_POLICY),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def make_router(service: Service) -> APIRouter:
    """The page's routes."""
    router = APIRouter(tags=["page"])
    files = {path.name: path for path in (RESOURCES / "page").iterdir() if path.suffix in _MEDIA_TYPES}
    files[_TOKENS.name] = _TOKENS
    answers = {name: (path.read_bytes(), _MEDIA_TYPES[path.suffix]) for name, path in files.items()}

    @router.get("/", include_in_schema=False)
    async def get_page() -> Response:
        """The page."""
        return _answer(*answers[_INDEX])

    @router.get("/page/{name}", include_in_schema=False)
    async def get_file(name: str) -> Response:
        """One of the page's files."""
        if name not in answers:
            raise HTTPException(404, "there is no such file")
        return _answer(*answers[name])

    @router.get("/options.json")
    async def get_options() -> dict[str, Any]:
        """The models, samplers, presets and assets that there are, and the settings of a picture that names none."""
        return _collect_options(service)

    return router


def _answer(content: bytes, media_type: str) -> Response:
    return Response(content, media_type=media_type, headers=_HEADERS)


def _collect_options(service: Service) -> dict[str, Any]:
    assets = service.asset_names()
    return {
        "models": service.models.names,
        "default_model": service.models.default,
        "samplers": {sampler.name: sampler.schedules for sampler in SAMPLERS},
        "schedules": list(SCHEDULES),
        "presets": PRESETS,
        "emphasis": get_args(Emphasis),
        "loras": sorted(assets.loras),
        "vaes": sorted(assets.vaes),
        "upscalers": service.upscaler_names(),
        "latent_upscalers": LATENT_UPSCALERS,
        "masked_content": get_args(MaskedContent),
        "defaults": service.defaults.model_dump(mode="json"),
    }
