"""Pictures made of pictures, with a real engine: A1111's routes and OpenAI's, and what of a picture stays as it was."""

from __future__ import annotations

import base64
import io
from typing import Any

import httpx
import numpy as np
import pytest
import webuiapi
from PIL import Image

from darkroom.pictures.infotext import read_infotext
from tests.serve.client_calls import file_of, openai_of, post
from tests.unit.warm.bench import LIMIT_S

QUICK: dict[str, Any] = {"prompt": "a red circle", "steps": 4, "seed": 7, "sampler_name": "Euler"}
WIDE = (96, 64)


def picture() -> Image.Image:
    """A gradient, so that each pixel's place can be told."""
    across, down = np.meshgrid(np.linspace(0, 255, WIDE[0]), np.linspace(0, 255, WIDE[1]))
    return Image.fromarray(np.stack([across, down, 255 - across], -1).astype(np.uint8))


def left_half(white: int = 255, black: int = 0) -> Image.Image:
    mask = Image.new("L", WIDE, black)
    mask.paste(white, (0, 0, WIDE[0] // 2, WIDE[1]))
    return mask


def with_hole() -> Image.Image:
    image = picture().convert("RGBA")
    image.putalpha(left_half(white=0, black=255))
    return image


def changed(made: Image.Image) -> np.ndarray[Any, Any]:
    """Whether each pixel differs from the picture that was sent."""
    different: np.ndarray[Any, Any] = (np.asarray(made.convert("RGB")) != np.asarray(picture())).any(-1)
    return different


def decode(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


@pytest.fixture
def api(server: str) -> webuiapi.WebUIApi:
    return webuiapi.WebUIApi(baseurl=f"{server}/sdapi/v1", sampler="Euler")


def test_a_picture_of_a_picture_and_the_same_one_again(api: webuiapi.WebUIApi) -> None:
    size = dict(zip(("width", "height"), WIDE, strict=True))
    first, again = (api.img2img(images=[picture()], denoising_strength=0.5, **QUICK, **size) for _ in range(2))
    assert first.image.size == WIDE
    assert changed(first.image).any()
    assert first.image.tobytes() == again.image.tobytes()
    assert read_infotext(first.image.info["parameters"])["settings"]["Denoising strength"] == "0.5"


def test_a_stronger_pass_leaves_less_of_the_picture(api: webuiapi.WebUIApi) -> None:
    def distance(strength: float) -> float:
        made = api.img2img(images=[picture()], denoising_strength=strength, **QUICK, width=96, height=64).image
        return float(np.abs(np.asarray(made).astype(float) - np.asarray(picture())).mean())

    assert distance(0.1) < distance(0.9)


@pytest.mark.parametrize("inpaint_full_res", [True, False])
def test_outside_the_mask_no_byte_is_changed(api: webuiapi.WebUIApi, inpaint_full_res: bool) -> None:
    made = api.img2img(
        images=[picture()], mask_image=left_half(), mask_blur=0, inpainting_fill=1, width=96, height=64, **QUICK,
        inpaint_full_res=inpaint_full_res,
    ).image  # fmt: skip
    assert not changed(made)[:, WIDE[0] // 2 :].any()
    assert changed(made)[:, : WIDE[0] // 2].any()


def test_both_worlds_masks_make_the_same_picture(server: str, api: webuiapi.WebUIApi) -> None:
    """White for A1111, transparent for OpenAI: the same part, the same bytes of pixels."""
    common = {"seed": 7, "steps": 4, "sampler": "Euler", "masked_content": "original", "mask_blur": 4}
    with openai_of(server) as client:
        answer = client.images.edit(
            image=file_of(picture()), mask=file_of(with_hole()), prompt="a red circle", extra_body=common
        )
    made = api.img2img(
        images=[picture()], mask_image=left_half(), mask_blur=4, inpainting_fill=1, inpaint_full_res=False,
        width=96, height=64, **QUICK,
    ).image  # fmt: skip
    assert decode(answer.data[0].b64_json or "").tobytes() == made.tobytes()


def test_a_second_pass_and_its_infotext_make_the_same_picture(server: str) -> None:
    body = {**QUICK, "width": 64, "height": 64, "enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Lanczos"}
    first = post(server, "/sdapi/v1/txt2img", {**body, "denoising_strength": 0.6, "hr_second_pass_steps": 3})
    image = decode(first["images"][0])
    assert image.size == WIDE[:1] * 2
    again = post(server, "/sdapi/v1/txt2img", {"infotext": image.info["parameters"]})
    assert decode(again["images"][0]).tobytes() == image.tobytes()


def test_extras_enlarge(api: webuiapi.WebUIApi) -> None:
    made = api.extra_single_image(image=picture(), upscaler_1="Lanczos", upscaling_resize=2).image
    assert made.tobytes() == picture().resize((192, 128), Image.Resampling.LANCZOS).tobytes()
    nearest = api.extra_single_image(image=picture(), upscaler_1="Nearest", upscaling_resize=2).image
    both = api.extra_single_image(
        image=picture(), upscaler_1="Lanczos", upscaler_2="Nearest", extras_upscaler_2_visibility=0.5
    ).image
    assert both.tobytes() == Image.blend(made.convert("RGB"), nearest.convert("RGB"), 0.5).tobytes()


def test_a_configured_upscaler_enlarges_by_every_interface(server: str, api: webuiapi.WebUIApi) -> None:
    """A1111's extras, one or several, and a stage of `/render`: the same pixels, and the model's hash in the metadata."""
    one = api.extra_single_image(image=picture(), upscaler_1="crisp", upscaling_resize=4).image
    two = api.extra_batch_images(images=[picture(), with_hole()], upscaler_1="crisp", upscaling_resize=4).images
    stages = [{"upscale": {"upscaler": "crisp", "scale": 4}}]
    given = base64.b64encode(file_of(picture())).decode()
    body = {"request": {"image": "a", "prompt": "", "stages": stages}, "pictures": {"a": given}}
    answer = httpx.post(f"{server}/render", json=body, timeout=LIMIT_S)
    assert answer.status_code == 200, answer.text
    rendered = Image.open(io.BytesIO(answer.content))
    assert one.size == two[1].size == (4 * WIDE[0], 4 * WIDE[1])
    assert one.tobytes() == two[0].tobytes() == rendered.tobytes() != two[1].tobytes()
    assert '"upscaler:crisp": "' in one.info["parameters"] and '"upscaler:crisp": "' in rendered.info["parameters"]
    lanczos = picture().resize(one.size, Image.Resampling.LANCZOS)
    assert one.tobytes() != lanczos.tobytes()
    wrong = {"image": given, "upscaler_1": "crips"}
    answer = httpx.post(f"{server}/sdapi/v1/extra-single-image", json=wrong, timeout=LIMIT_S)
    assert answer.status_code == 422 and "did you mean crisp" in answer.text


def test_a_second_pass_with_a_configured_upscaler_is_that_of_its_infotext(server: str) -> None:
    """A model of 4× for a scale of 1.5: enlarged, then reduced to what was asked for."""
    body = {**QUICK, "width": 64, "height": 64, "enable_hr": True, "hr_scale": 1.5, "hr_second_pass_steps": 2}
    made = [
        decode(post(server, "/sdapi/v1/txt2img", {**body, "denoising_strength": 0.6, "hr_upscaler": name})["images"][0])
        for name in ("crisp", "Lanczos")
    ]
    assert made[0].size == (96, 96) and made[0].tobytes() != made[1].tobytes()
    assert "Hires upscaler: crisp" in made[0].info["parameters"]
    again = post(server, "/sdapi/v1/txt2img", {"infotext": made[0].info["parameters"]})
    assert decode(again["images"][0]).tobytes() == made[0].tobytes()


def test_a_variation_of_a_picture_of_this_server_has_its_prompt(server: str) -> None:
    made = post(server, "/sdapi/v1/txt2img", {**QUICK, "width": 64, "height": 64})
    png = base64.b64decode(made["images"][0])
    fields = {"seed": "8", "steps": "4"}
    answer = httpx.post(f"{server}/v1/images/variations", files={"image": ("a.png", png)}, data=fields, timeout=LIMIT_S)
    assert answer.status_code == 200, answer.text
    varied = decode(answer.json()["data"][0]["b64_json"])
    assert varied.info["parameters"].startswith("a red circle\n")


def test_a_jpeg_with_an_orientation_is_worked_on_upright(server: str) -> None:
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    picture().save(buffer, "JPEG", exif=exif)
    answer = httpx.post(
        f"{server}/v1/images/edits",
        files={"image": ("a.jpg", buffer.getvalue())},
        data={"prompt": "x", "steps": "2"},
        timeout=LIMIT_S,
    )
    assert answer.json()["size"] == "64x96"
