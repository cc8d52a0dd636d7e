"""OpenAI's own Python package against a running server."""

from __future__ import annotations

import base64
import io
import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from PIL import Image

from darkroom.pictures.infotext import read_infotext
from darkroom.pictures.png import text_of_png

SMALL = {"size": "64x64"}
QUICK = {"steps": 2, "seed": 7}


@pytest.fixture
def client(server: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0) as one:
        yield one


def infotext_of(png: bytes) -> dict[str, str]:
    return read_infotext(text_of_png(png, "answer")["parameters"])["settings"]


def pixels_of(png: bytes) -> bytes:
    return Image.open(io.BytesIO(png)).tobytes()


def test_a_picture_comes_as_png_in_base64_with_its_metadata(client: openai.OpenAI) -> None:
    answer = client.images.generate(prompt="a red circle", **SMALL, extra_body=QUICK)
    assert answer.data is not None
    (image,) = answer.data
    assert image.url is None
    png = base64.b64decode(image.b64_json or "")
    assert Image.open(io.BytesIO(png)).size == (64, 64)
    settings = infotext_of(png)
    assert (settings["Seed"], settings["Steps"], settings["Model"]) == ("7", "2", "tiny")
    assert (answer.size, answer.output_format, answer.background) == ("64x64", "png", "opaque")
    assert answer.created > 0
    extra: Any = image
    assert (extra.seed, extra.cached, extra.warnings) == (7, False, [])
    assert extra.facts["prompt_tokens"] == 3


def test_several_pictures_have_consecutive_seeds(client: openai.OpenAI) -> None:
    answer = client.images.generate(prompt="a red circle", n=3, **SMALL, extra_body=QUICK)
    images: Any = answer.data
    assert [image.seed for image in images] == [7, 8, 9]
    assert len({pixels_of(base64.b64decode(image.b64_json)) for image in images}) == 3


def test_a_picture_without_a_seed_tells_the_seed_that_makes_it_again(client: openai.OpenAI) -> None:
    first: Any = client.images.generate(prompt="a red circle", **SMALL, extra_body={"steps": 2}).data
    seed = first[0].seed
    again: Any = client.images.generate(prompt="a red circle", **SMALL, extra_body={"steps": 2, "seed": seed}).data
    assert again[0].b64_json == first[0].b64_json


def test_a_picture_behind_a_link(client: openai.OpenAI, server: str) -> None:
    answer = client.images.generate(prompt="a red circle", response_format="url", **SMALL, extra_body=QUICK)
    assert answer.data is not None
    (image,) = answer.data
    assert image.b64_json is None
    assert image.url is not None
    assert image.url.startswith(f"{server}/pictures/")
    with urllib.request.urlopen(image.url) as found:
        assert infotext_of(found.read())["Seed"] == "7"


def test_settings_of_a_picture_go_through_extra_body(client: openai.OpenAI) -> None:
    body = {**QUICK, "negative_prompt": "blue", "sampler": "DPM++ 2M Karras", "loras": {"outline": 0.5}, "vae": "soft"}
    answer = client.images.generate(prompt="a red circle", model="other", **SMALL, extra_body=body)
    assert answer.data is not None
    settings = infotext_of(base64.b64decode(answer.data[0].b64_json or ""))
    expected = {"Sampler": "DPM++ 2M", "Schedule type": "Karras", "VAE": "soft", "Model": "other"}
    assert expected.items() <= settings.items()
    assert settings["Lora hashes"].startswith("outline: ")


def test_a_preset_stands_for_several_settings(client: openai.OpenAI) -> None:
    answer = client.images.generate(prompt="a red circle", **SMALL, extra_body={"preset": "turbo"})
    assert answer.data is not None
    settings = infotext_of(base64.b64decode(answer.data[0].b64_json or ""))
    assert (settings["Sampler"], settings["Steps"], settings["CFG scale"]) == ("Euler a", "1", "1")


def test_a_stream_shows_the_picture_that_is_being_made_and_ends_with_the_same_bytes(client: openai.OpenAI) -> None:
    plain = client.images.generate(prompt="a red circle", **SMALL, extra_body={"steps": 4, "seed": 7})
    stream = client.images.generate(
        prompt="a red circle", size="64x64", stream=True, partial_images=3, extra_body={"steps": 4, "seed": 7}
    )
    pngs = [base64.b64decode(event.b64_json) for event in stream]
    assert plain.data is not None
    assert pngs[-1] == base64.b64decode(plain.data[0].b64_json or "")
    assert len({pixels_of(png) for png in pngs}) == 4


def test_webp_and_jpeg_hold_the_infotext(client: openai.OpenAI) -> None:
    for kind in ("webp", "jpeg"):
        answer: Any = client.images.generate(prompt="a häuschen", output_format=kind, **SMALL, extra_body=QUICK)
        exif = Image.open(io.BytesIO(base64.b64decode(answer.data[0].b64_json))).getexif().get_ifd(0x8769)[0x9286]
        assert exif.startswith(b"UNICODE\0")
        infotext = read_infotext(exif[8:].decode("utf-16-be"))
        assert (infotext["prompt"], infotext["settings"]["Seed"]) == ("a häuschen", "7")


def test_models_are_listed_and_found(client: openai.OpenAI) -> None:
    models = client.models.list().data
    assert [model.id for model in models] == ["tiny", "other"]
    assert client.models.retrieve("other") == models[1]
    assert (models[0].object, models[0].owned_by) == ("model", "darkroom")
    assert models[0].created > 10**9


@pytest.mark.parametrize("name", ["dall-e-3", "gpt-image-1"])
def test_openais_models_are_not_taken_for_ours(client: openai.OpenAI, name: str) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.images.generate(model=name, prompt="x", **SMALL)
    assert caught.value.code == "E-UNKNOWN"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve(name)


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        ({"extra_body": {"negative_promt": "x"}}, "E-REQUEST", "negative_prompt"),
        ({"extra_body": {"steps": 0}}, "E-REQUEST", "steps"),
        ({"extra_body": {"steps": 1000}}, "E-LIMIT", "steps"),
        ({"extra_body": {"sampler": "Eular"}}, "E-REQUEST", "Euler"),
        ({"extra_body": {"loras": ["outlien"]}}, "E-LORA", "outline"),
        ({"extra_body": {"preset": "turboo"}}, "E-REQUEST", "turbo"),
        ({"size": "63x64"}, "E-REQUEST", "size"),
        ({"size": "8192x8192"}, "E-LIMIT", "size"),
        ({"n": 10**9}, "E-LIMIT", "1 to 16"),
        ({"output_format": "gif"}, "E-REQUEST", "output_format"),
        ({"background": "transparent"}, "E-UNSUPPORTED", "background"),
        ({"partial_images": 1}, "E-REQUEST", "partial_images"),
        ({"size": "63x64", "stream": True}, "E-REQUEST", "size"),
    ],
)
def test_what_is_wrong_is_an_error_with_a_code(
    client: openai.OpenAI, arguments: dict[str, Any], code: str, named: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(prompt="a red circle", **{**SMALL, **arguments})
    assert caught.value.code == code
    assert caught.value.type == "invalid_request_error"
    sent = {**arguments, **arguments.get("extra_body", {})}
    assert caught.value.param is None or caught.value.param in sent
    assert caught.value.param is not None or code == "E-LORA"
    assert named in caught.value.message
    assert "Hint:" in caught.value.message


def test_what_is_no_picture_and_several_pictures_are_not_edited(client: openai.OpenAI) -> None:
    for image, code in ((("x.png", b"x"), "E-REQUEST"), ([("a.png", b"x"), ("b.png", b"x")], "E-UNSUPPORTED")):
        with pytest.raises(openai.BadRequestError) as caught:
            client.images.edit(image=image, prompt="x")
        assert (caught.value.code, caught.value.param) == (code, "image")


def test_the_openapi_document_shows_fields_ranges_and_errors(server: str) -> None:
    with urllib.request.urlopen(f"{server}/openapi.json") as found:
        document = json.load(found)
    body = document["components"]["schemas"]["ImageGeneration"]
    assert body["required"] == ["prompt"]
    assert body["additionalProperties"] is False
    assert {"type": "number", "minimum": 0, "maximum": 100} in body["properties"]["cfg_scale"]["anyOf"]
    answers = document["paths"]["/v1/images/generations"]["post"]["responses"]
    assert {"200", "401", "404", "422", "429", "504", "507"} <= answers.keys()
    assert answers["422"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/ErrorAnswer"}
