"""Programs that others wrote for OpenAI's and AUTOMATIC1111's servers get their pictures: one table of clients."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator

import openai
import pytest
from PIL import Image

from tests.serve import client_calls as calls
from tests.serve.stand import Stand, stand
from tests.unit.warm.bench import wait_until

Call = Callable[[str], calls.Pictures]
SQUARE, SMALL, WIDE = (1024, 1024), (512, 512), (128, 96)

# client, its call, and what it must get: how many pictures, their format and size
CLIENTS: list[tuple[str, Call, tuple[int, str, tuple[int, int]]]] = [
    ("openai for Python", calls.openai_python, (2, "PNG", (1024, 1536))),
    ("openai for Python, a link", calls.openai_python_link, (1, "PNG", SQUARE)),
    ("openai for Python, webp", calls.openai_python_webp, (1, "WEBP", SQUARE)),
    ("openai for Python, a stream", calls.openai_python_stream, (3, "JPEG", SMALL)),
    ("litellm", calls.litellm, (1, "PNG", (1792, 1024))),
    ("webuiapi", calls.webuiapi_defaults, (1, "PNG", SMALL)),
    ("webuiapi, ADetailer off", calls.webuiapi_with_adetailer_off, (1, "PNG", SMALL)),
    ("Open WebUI, openai", calls.open_webui_openai, (1, "PNG", SMALL)),
    ("Open WebUI, gpt-image", calls.open_webui_gpt_image, (1, "PNG", SQUARE)),
    ("Open WebUI, automatic1111", calls.open_webui_a1111, (2, "PNG", SMALL)),
    ("SillyTavern", calls.silly_tavern, (1, "PNG", SMALL)),
    ("KoboldAI Lite, automatic1111", calls.kobold_a1111, (1, "PNG", SMALL)),
    ("KoboldAI Lite, DALL-E", calls.kobold_dalle, (1, "PNG", SQUARE)),
    ("stable-diffusion-api", calls.stable_diffusion_api, (1, "PNG", SMALL)),
    ("openai for Python, an edit", calls.openai_python_edit, (2, "PNG", WIDE)),
    ("openai for Python, an edit with settings", calls.openai_python_edit_with_settings, (1, "WEBP", (256, 256))),
    ("openai for Python, an edit as a stream", calls.openai_python_edit_stream, (1, "JPEG", WIDE)),
    ("openai for Python, a variation", calls.openai_python_variation, (2, "PNG", SMALL)),
    ("Open WebUI, an edit", calls.open_webui_edit, (1, "PNG", SMALL)),
    ("webuiapi, img2img", calls.webuiapi_img2img, (2, "PNG", (256, 192))),
    ("webuiapi, inpaint", calls.webuiapi_inpaint, (1, "PNG", WIDE)),
    ("webuiapi, hires", calls.webuiapi_hires, (1, "PNG", SMALL)),
    ("webuiapi, extras", calls.webuiapi_extras, (3, "PNG", (256, 192))),
    ("webuiapi, png-info", calls.webuiapi_png_info, (1, "PNG", SMALL)),
    ("SillyTavern, hires", calls.silly_tavern_hires, (1, "PNG", (768, 768))),
    ("LangChain", calls.langchain, (1, "PNG", SQUARE)),
]
NPM_CLIENTS: list[tuple[str, Call, tuple[int, str, tuple[int, int]]]] = [
    ("openai for npm", calls.npm_openai, (4, "PNG", SMALL)),
    ("stable-diffusion-api for npm", calls.npm_stable_diffusion_api, (1, "PNG", SMALL)),
]


@pytest.fixture(scope="module")
def with_links(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """A server for clients that wait for links without asking for them."""
    with stand(tmp_path_factory.mktemp("links"), default_response_format="url") as one:
        yield one


@pytest.fixture(scope="module")
def npm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("Node.js is not installed")
    with pytest.MonkeyPatch.context() as patch:
        try:
            patch.setenv("DARKROOM_TEST_NPM", calls.npm_packages(tmp_path_factory.mktemp("npm")))
        except subprocess.SubprocessError as error:
            pytest.skip(f"npm could not install the packages: {error}")
        yield


def check(call: Call, url: str, expected: tuple[int, str, tuple[int, int]]) -> None:
    pictures = [Image.open(io.BytesIO(data)) for data in call(url)]
    for picture in pictures:
        picture.load()
    count, kind, size = expected
    assert [(picture.format, picture.size) for picture in pictures] == [(kind, size)] * count


@pytest.mark.parametrize(("name", "call", "expected"), CLIENTS, ids=[name for name, _, _ in CLIENTS])
def test_a_client_gets_its_pictures(
    fake: Stand, with_links: Stand, name: str, call: Call, expected: tuple[int, str, tuple[int, int]]
) -> None:
    check(call, (with_links if name == "LangChain" else fake).url, expected)


@pytest.mark.full
@pytest.mark.parametrize(("name", "call", "expected"), NPM_CLIENTS, ids=[name for name, _, _ in NPM_CLIENTS])
def test_a_client_of_npm_gets_its_pictures(
    fake: Stand, npm: None, name: str, call: Call, expected: tuple[int, str, tuple[int, int]]
) -> None:
    check(call, fake.url, expected)


def test_what_is_ignored_stands_in_the_log_without_its_value(fake: Stand) -> None:
    calls.silly_tavern(fake.url)
    (line, *_) = [line for line in fake.log.splitlines() if "/sdapi/v1/txt2img ignored url, auth" in line]
    assert "secret" not in line


def test_a_stream_that_fails_ends_with_an_error_and_one_that_is_refused_is_none(fake: Stand) -> None:
    with calls.openai_of(fake.url) as client:
        with pytest.raises(openai.APIError, match="does not fit") as failed:
            list(client.images.generate(prompt="oom", size="64x64", stream=True))
        assert failed.value.code == "E-OOM"
        with pytest.raises(openai.BadRequestError) as refused:
            client.images.generate(prompt="x", size="8192x8192", stream=True)
        assert refused.value.param == "size"


def test_a_stream_that_nobody_reads_to_its_end_gives_its_picture_up(fake: Stand) -> None:
    with calls.openai_of(fake.url) as client:
        stream = client.images.generate(prompt="slow", size="64x64", stream=True)
        fake.wait_for_render("slow")
        stream.close()
    wait_until(lambda: fake.metric("darkroom_pictures_under_way") == 0, "end of the picture")


def test_partial_images_of_several_pictures_are_told_apart(fake: Stand) -> None:
    body = {"prompt": "x", "n": 2, "seed": 5, "stream": True, "partial_images": 1, "size": "64x64", "steps": 4}
    text = fake.post("/v1/images/generations", body).text
    events = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]
    kinds = sorted((event["seed"], event["type"].rpartition(".")[2]) for event in events)
    assert kinds == [(5, "completed"), (5, "partial_image"), (6, "completed"), (6, "partial_image")]
    assert [event["partial_image_index"] for event in events if "partial_image_index" in event] == [0, 0]
