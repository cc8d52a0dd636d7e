"""What the adapters ask the service for, and how their links begin."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from fastapi import APIRouter, FastAPI

from darkroom.config import ServeConfig
from darkroom.errors import UnknownModelError
from darkroom.request.render_request import RenderRequest
from darkroom.serve import a1111, openai_images
from darkroom.serve.answers import Rendered
from darkroom.serve.catalog import Model, Models
from darkroom.serve.engines import ModelFiles
from darkroom.serve.images import ImageReader
from darkroom.serve.openai_settings import find_model
from darkroom.serve.service import Service
from tests.fixtures.pictures import make_picture

Router = Callable[[Service], APIRouter]


class StandInService:
    """Remembers what it was asked for, and answers with a drawing."""

    def __init__(self, folder: Path, names: Sequence[str] = ("tiny", "other"), **config: Any) -> None:
        files = ModelFiles(folder)
        self.models = Models([Model(name, files, None, None) for name in names], folder)
        self.config = ServeConfig(**config)
        self.images = ImageReader(self.config)
        self.asked: dict[str, Any] = {}
        self._folder = folder

    async def make_pictures(self, settings: list[dict[str, Any]], **others: Any) -> list[Rendered]:
        self.asked = {"settings": settings, **others}
        made = make_picture(self._folder)
        png = (self._folder / made.path).read_bytes()
        request = RenderRequest.from_settings(made.request)
        return [Rendered(png, request, "x", {}, (), "tiny", None) for _ in settings]

    def upscaler_names(self) -> list[str]:
        return ["Lanczos", "Nearest", "sharp"]

    def keep(self, data: bytes, suffix: str) -> str:
        return f"kept.{suffix}"


def post(service: StandInService, router: Router, path: str, body: dict[str, Any], **headers: str) -> dict[str, Any]:
    return send(service, router, path, json={"prompt": "x", **body}, headers=headers)


def send(service: StandInService, router: Router, path: str, **options: Any) -> dict[str, Any]:
    async def ask() -> httpx.Response:
        app = FastAPI()
        app.include_router(router(cast(Service, service)))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return await client.post(path, **options)

    answer = asyncio.run(ask())
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(
    ("router", "path"),
    [(openai_images.make_router, "/v1/images/generations"), (a1111.make_router, "/sdapi/v1/txt2img")],
)
def test_a_client_can_ask_for_a_picture_made_anew(tmp_path: Path, router: Router, path: str) -> None:
    service = StandInService(tmp_path)
    post(service, router, path, {})
    assert service.asked["is_fresh"] is False
    post(service, router, path, {}, **{"Cache-Control": "no-cache"})
    assert service.asked["is_fresh"] is True


def test_models_are_known_by_a1111s_titles(tmp_path: Path) -> None:
    service = StandInService(tmp_path)
    for title in ("other", "other.safetensors"):
        options = {"override_settings": {"sd_model_checkpoint": title}}
        post(service, a1111.make_router, "/sdapi/v1/txt2img", options)
        assert service.asked["model"] == "other"


@pytest.mark.parametrize(
    ("public_url", "link"),
    [
        (None, "http://test/pictures/kept.png"),
        ("https://art.example/darkroom/", "https://art.example/darkroom/pictures/kept.png"),
    ],
)
def test_links_begin_with_the_address_that_clients_know(tmp_path: Path, public_url: str | None, link: str) -> None:
    service = StandInService(tmp_path, public_url=public_url)
    answer = post(service, openai_images.make_router, "/v1/images/generations", {"response_format": "url", "n": 2})
    assert [item["url"] for item in answer["data"]] == [link, link]


@pytest.mark.parametrize(
    ("asked", "default", "has_link"), [(None, "url", True), (None, "b64_json", False), ("b64_json", "url", False)]
)
def test_the_response_format_of_clients_that_name_none_is_configured(
    tmp_path: Path, asked: str | None, default: str, has_link: bool
) -> None:
    service = StandInService(tmp_path, default_response_format=default)
    (item,) = post(service, openai_images.make_router, "/v1/images/generations", {"response_format": asked})["data"]
    assert (item["url"] is not None, item["b64_json"] is None) == (has_link, has_link)


@pytest.mark.parametrize(
    ("names", "config", "name", "found"),
    [
        (["tiny"], {}, "dall-e-3", "tiny"),
        (["tiny"], {}, "gpt-image-1.5", "tiny"),
        (["tiny"], {}, "gpt-image-2.5-sunburst-2026-09-08", "tiny"),
        (["tiny"], {}, "chatgpt-image-latest", "tiny"),
        (["tiny"], {}, "dall-e-mini", None),
        (["tiny"], {"aliases": {}}, "dall-e-3", None),
        (["tiny", "dall-e-3"], {}, "dall-e-3", "dall-e-3"),
        (["tiny", "other"], {}, "dall-e-3", None),
        (["tiny", "other"], {"default_model": "tiny"}, "dall-e-3", "tiny"),
        (["tiny", "other"], {"aliases": {"dall-e-3": "other"}}, "dall-e-3", "other"),
        (["tiny", "other"], {"aliases": {"dall-e-3": "other"}}, "dall-e-2", None),
        (["tiny", "other"], {"aliases": {"fast": "other"}}, "fast", "other"),
        (["tiny"], {}, None, "tiny"),
        (["tiny", "other"], {}, "", "tiny"),
    ],
)
def test_openais_names_of_models_mean_the_one_that_can_be_meant(
    tmp_path: Path, names: list[str], config: dict[str, Any], name: str | None, found: str | None
) -> None:
    service = cast(Service, StandInService(tmp_path, names, **config))
    if found is None:
        with pytest.raises(UnknownModelError):
            find_model(service, name)
    else:
        assert find_model(service, name).name == found
