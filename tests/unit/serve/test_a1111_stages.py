"""A1111's Hires. fix, img2img and extras as stages: what each field means, and what is refused by name."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from darkroom.config import ServeConfig
from darkroom.errors import DarkroomError, LimitError, RequestError, UnsupportedError
from darkroom.pictures.infotext import write_infotext
from darkroom.request.render_request import RenderRequest
from darkroom.request.stages import Hires, Inpaint, write_stage
from darkroom.request.stages import Img2Img as Img2ImgStage
from darkroom.serve import a1111
from darkroom.serve.a1111_image_schemas import Img2Img
from darkroom.serve.a1111_img2img import Sent, count_images, read_img2img
from darkroom.serve.a1111_schemas import Txt2Img
from darkroom.serve.a1111_settings import PictureSettings, read_txt2img
from darkroom.serve.images import InputPicture, read_image
from tests.unit.serve.test_adapter_requests import StandInService, post

LIMITS = ServeConfig()


def file_of(width: int, height: int, colour: Any = (255, 0, 0), mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (width, height), colour).save(buffer, "PNG")
    return buffer.getvalue()


def text_of(*arguments: Any, **options: Any) -> str:
    return base64.b64encode(file_of(*arguments, **options)).decode()


def sent(width: int = 128, height: int = 96, *, is_masked: bool = False, count: int = 1) -> Sent:
    def read(colour: int, meaning: Any) -> InputPicture:
        return read_image(file_of(width, height, (colour, 0, 0)), "image", LIMITS, meaning)

    pictures = tuple(read(100 + number, "picture") for number in range(count))
    return Sent(pictures, read(255, "mask") if is_masked else None)


def hires(**fields: Any) -> Hires:
    read = read_txt2img(Txt2Img.model_validate({"prompt": "x", "seed": 5, "enable_hr": True, **fields}))
    (stage,) = RenderRequest.from_settings(read.settings[0]).stages
    assert isinstance(stage, Hires)
    return stage


def changes(stage: Any) -> dict[str, Any]:
    """What differs from the stage's own defaults."""
    (settings,) = write_stage(stage).values()
    return {name: value for name, value in settings.items() if value != type(stage).model_fields[name].default}


FROM_SILLY_TAVERN = {
    "sampler_name": "DPM++ 2M",
    "scheduler": "karras",
    "hr_upscaler": "Latent",
    "hr_scale": 1.5,
    "denoising_strength": 0.4,
    "hr_second_pass_steps": 0,
    "hr_additional_modules": [],
}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {"denoising_strength": 0.75}),
        ({"denoising_strength": 0.3}, {"denoising_strength": 0.3}),
        (FROM_SILLY_TAVERN, {"scale": 1.5, "denoising_strength": 0.4}),
        (
            {"hr_scale": 1.5, "hr_upscaler": "Latent (nearest-exact)"},
            {"scale": 1.5, "upscaler": "Latent (nearest-exact)"},
        ),
        ({"hr_upscaler": "None"}, {"upscaler": "Lanczos"}),
        ({"hr_second_pass_steps": 12}, {"steps": 12}),
        ({"hr_resize_x": 1536, "hr_resize_y": 0, "hr_scale": 3}, {"width": 1536}),
        ({"hr_resize_x": 1536, "hr_resize_y": 1024}, {"width": 1536, "height": 1024}),
        ({"hr_prompt": "", "hr_negative_prompt": ""}, {}),
        ({"hr_prompt": "y <lora:a:1:0.5>"}, {"prompt": "y <lora:a:te=1:unet=0.5>"}),
        ({"hr_negative_prompt": "z"}, {"negative_prompt": "z"}),
        ({"hr_cfg": 3}, {"cfg_scale": 3.0}),
        ({"hr_sampler_name": "Use same sampler", "hr_scheduler": "Use same scheduler"}, {}),
        ({"hr_checkpoint_name": "Use same checkpoint", "hr_additional_modules": ["Use same choices"]}, {}),
        ({"hr_sampler_name": "DPM++ 2M"}, {"sampler": "DPM++ 2M", "schedule": "Karras"}),
        ({"hr_sampler_name": "Euler a", "scheduler": "karras"}, {"sampler": "Euler a", "schedule": "Karras"}),
        ({"sampler_name": "Euler", "hr_scheduler": "exponential"}, {"sampler": "Euler", "schedule": "Exponential"}),
        ({"scheduler": "karras", "hr_sampler_name": "DDIM"}, {"sampler": "DDIM", "schedule": "Automatic"}),
    ],
)
def test_a_second_pass(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    strength = {} if fields.get("denoising_strength") else {"denoising_strength": 0.75}
    assert changes(hires(**fields)) == {**strength, **expected}


def test_without_enable_hr_its_fields_have_no_effect() -> None:
    read = read_txt2img(Txt2Img(prompt="x", seed=5, hr_scale=99, hr_upscaler="x", denoising_strength=7))
    assert (read.settings, read.ignored) == ([{"prompt": "x", "seed": 5}], {})


@pytest.mark.parametrize("enable_hr", [True, False])
def test_the_first_phases_size_takes_the_place_of_the_pictures(enable_hr: bool) -> None:
    body = Txt2Img(
        prompt="x", width=1024, height=1024, firstphase_width=512, firstphase_height=640, enable_hr=enable_hr
    )
    (settings,) = read_txt2img(body).settings
    assert (settings["width"], settings["height"]) == (512, 640)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"hr_scale": 9}, "hr_scale"),
        ({"hr_scale": 0.5}, "hr_scale"),
        ({"hr_resize_x": 1001}, "hr_resize_x"),
        ({"hr_second_pass_steps": -1}, "hr_second_pass_steps"),
        ({"hr_second_pass_steps": 5000}, "hr_second_pass_steps"),
        ({"denoising_strength": 1.5}, "denoising_strength"),
        ({"hr_sampler_name": "Best"}, "hr_sampler_name"),
        ({"hr_scheduler": "Best"}, "hr_scheduler"),
        ({"hr_cfg": 101}, "hr_cfg"),
        ({"hr_additional_modules": ["clip_l"]}, "hr_additional_modules"),
        ({"firstphase_width": 512}, "firstphase_height"),
    ],
)
def test_a_second_pass_that_can_not_be_made_is_refused_by_name(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(DarkroomError) as caught:
        hires(**fields)
    assert caught.value.what == f"request: {named}"


INFOTEXT = """a lighthouse
Negative prompt: people
Steps: 20, Sampler: Euler a, Schedule type: Automatic, CFG scale: 7, Seed: 3, Size: 512x768, Denoising strength: 0.4, \
Hires prompt: "a lighthouse, sharp", Hires resize: 768x1152, Hires steps: 9, Hires upscaler: Lanczos, Version: v1.10.1"""


def test_an_infotext_with_a_second_pass_asks_for_it() -> None:
    (settings,) = read_txt2img(Txt2Img(infotext=INFOTEXT)).settings
    request = RenderRequest.from_settings(settings)
    assert (request.width, request.height) == (512, 768)
    expected = {"width": 768, "height": 1152, "steps": 9, "upscaler": "Lanczos", "denoising_strength": 0.4}
    assert changes(request.stages[0]) == {**expected, "prompt": "a lighthouse, sharp"}


@pytest.mark.parametrize(
    "base", [{"sampler": "Euler"}, {"sampler": "DPM++ 2M", "schedule": "Karras"}, {"sampler": "DPM++ 2M"}]
)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"upscaler": "Lanczos", "scale": 1.5},
        {"width": 1536, "height": 1024},
        {"height": 1024, "steps": 7},
        {"denoising_strength": 0},
        {"prompt": "x, y: z", "negative_prompt": "a\nb"},
        {"sampler": "DPM++ 2M", "schedule": "Karras"},
        {"sampler": "Euler a"},
        {"schedule": "Exponential"},
        {"cfg_scale": 3.5},
    ],
)
def test_our_infotext_of_a_second_pass_asks_for_it_again(base: dict[str, Any], settings: dict[str, Any]) -> None:
    stage = Hires.model_validate(settings)
    request = RenderRequest.from_settings({"prompt": "a", "seed": 5, **base, "stages": [stage]})
    infotext = write_infotext(request, model="tiny", model_hash="0" * 10, version="1")
    again = RenderRequest.from_settings(read_txt2img(Txt2Img(infotext=infotext)).settings[0])
    assert again.passes == request.passes
    (found,) = again.stages
    assert isinstance(found, Hires)
    assert (found.upscaler, found.denoising_strength) == (stage.upscaler, stage.denoising_strength)


def test_what_the_request_says_counts_more_than_the_infotext() -> None:
    assert "stages" not in read_txt2img(Txt2Img(infotext=INFOTEXT, enable_hr=False)).settings[0]
    (settings,) = read_txt2img(Txt2Img(infotext=INFOTEXT, denoising_strength=0.6)).settings
    assert settings["stages"][0].denoising_strength == 0.6


def test_an_infotext_of_an_img2img_is_refused_where_its_picture_is_not() -> None:
    text = "a\nSteps: 4, Sampler: Euler, CFG scale: 7, Seed: 3, Denoising strength: 0.4"
    with pytest.raises(UnsupportedError, match="was made from another picture"):
        read_txt2img(Txt2Img(infotext=text))
    read = img2img(infotext=text)
    assert RenderRequest.from_settings(read.settings[0]).stages == (Img2ImgStage(denoising_strength=0.4),)


def test_an_infotext_of_an_inpainted_picture() -> None:
    text = (
        "a\nSteps: 4, Sampler: Euler, CFG scale: 7, Seed: 3, Denoising strength: 0.4, Mask blur: 7, Inpaint area: Only masked, "
        "Masked area padding: 16, Mask mode: Inpaint not masked, Masked content: latent noise"
    )
    stage = inpaint(infotext=text)
    expected = {"denoising_strength": 0.4, "mask_blur": 7, "only_masked": True, "padding": 16}
    assert changes(stage) == {**expected, "invert": True, "masked_content": "latent noise", "mask": stage.mask}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"invert": True, "masked_content": "fill", "denoising_strength": 0.4},
        {"only_masked": True, "padding": 16, "mask_blur": 0},
        {"only_masked": True, "masked_content": "latent noise", "width": 256, "height": 256},
        {"width": 256, "height": 256},
    ],
)
def test_the_infotext_of_an_inpainted_picture_asks_for_it_again(settings: dict[str, Any]) -> None:
    given = sent(is_masked=True)
    assert given.mask is not None
    stage = Inpaint(mask=given.mask.sha256, **settings)
    start = {"prompt": "a", "seed": 5, "image": given.pictures[0].sha256, "width": 128, "height": 96}
    request = RenderRequest.from_settings({**start, "stages": [stage]})
    infotext = write_infotext(request, model="tiny", model_hash="0" * 10, version="1")
    assert RenderRequest.from_settings(img2img(given, infotext=infotext).settings[0]).stages == (stage,)


def img2img(given: Sent | None = None, **fields: Any) -> PictureSettings:
    body = Img2Img.model_validate({"prompt": "x", "seed": 5, "init_images": ["…"], **fields})
    return read_img2img(body, given or sent())


def inpaint(**fields: Any) -> Inpaint:
    (stage,) = RenderRequest.from_settings(img2img(sent(is_masked=True), **fields).settings[0]).stages
    assert isinstance(stage, Inpaint)
    return stage


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {}),
        ({"denoising_strength": None}, {}),
        ({"denoising_strength": 0.2}, {"denoising_strength": 0.2}),
        ({"width": 128, "height": 96, "resize_mode": 3}, {}),
        ({"width": 64, "height": 64}, {"width": 64, "height": 64}),
        ({"width": 64, "height": 64, "resize_mode": 1}, {"width": 64, "height": 64, "resize_mode": "crop"}),
        ({"width": 256, "resize_mode": 2}, {"width": 256, "height": 96, "resize_mode": "fill"}),
        ({"initial_noise_multiplier": 1, "latent_mask": ""}, {}),
        ({"mask_blur": 99, "inpainting_fill": 3, "inpaint_full_res_padding": 9999, "mask_round": False}, {}),
    ],
)
def test_a_picture_of_a_picture(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    given = sent()
    (settings,) = img2img(given, **fields).settings
    request = RenderRequest.from_settings(settings)
    assert (request.image, request.width, request.height) == (given.pictures[0].sha256, 128, 96)
    assert changes(request.stages[0]) == expected
    assert request.pictures == tuple(given.files)


def test_a_pictures_size_is_brought_up_to_a_multiple_of_8() -> None:
    (settings,) = img2img(sent(130, 99)).settings
    assert (settings["width"], settings["height"]) == (136, 104)
    assert settings["stages"][0].width is None


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {"only_masked": True}),
        ({"inpaint_full_res": False}, {}),
        ({"inpaint_full_res": 0}, {}),
        ({"inpaint_full_res_padding": 48}, {"only_masked": True, "padding": 48}),
        ({"mask_blur": 8}, {"only_masked": True, "mask_blur": 8}),
        ({"mask_blur": 8, "mask_blur_x": 2, "mask_blur_y": 3}, {"only_masked": True, "mask_blur": 8}),
        ({"mask_blur_x": 0, "mask_blur_y": 0}, {"only_masked": True, "mask_blur": 0}),
        ({"inpainting_mask_invert": 1}, {"only_masked": True, "invert": True}),
        ({"width": 256, "height": 256, "resize_mode": 1}, {"only_masked": True, "width": 256, "height": 256}),
        (
            {"inpaint_full_res": False, "width": 256, "height": 256, "resize_mode": 1},
            {"width": 256, "height": 256, "resize_mode": "crop"},
        ),
    ],
)
def test_a_part_of_a_picture(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    stage = inpaint(**fields)
    always = {"masked_content": "fill", "mask": stage.mask}
    padding = {} if "padding" in expected else {"padding": 0}
    assert changes(stage) == {**padding, **always, **expected}


def test_what_the_masked_part_holds_before() -> None:
    assert [inpaint(inpainting_fill=number).masked_content for number in range(4)] == [
        "fill",
        "original",
        "latent noise",
        "latent nothing",
    ]


def test_the_part_alone_leaves_the_pictures_size_as_it_is() -> None:
    assert inpaint(width=256, height=256).size_after(128, 96) == (128, 96)
    assert inpaint(width=256, height=256, inpaint_full_res=False).size_after(128, 96) == (256, 256)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"resize_mode": 3, "width": 64, "height": 64}, "resize_mode"),
        ({"width": 1001}, "width"),
        ({"denoising_strength": 1.2}, "denoising_strength"),
        ({"initial_noise_multiplier": 1.1}, "initial_noise_multiplier"),
        ({"latent_mask": "iVBORw0KGgo="}, "latent_mask"),
        ({"mask_round": False, "is_masked": True}, "mask_round"),
        ({"mask_blur_x": 2, "is_masked": True}, "mask_blur_x"),
        ({"mask_blur": 65, "is_masked": True}, "mask_blur"),
        ({"inpaint_full_res_padding": 2000, "is_masked": True}, "inpaint_full_res_padding"),
        ({"restore_faces": True}, "restore_faces"),
        ({"styles": ["photo"]}, "styles"),
        ({"script_name": "SD upscale"}, "script_name"),
    ],
)
def test_what_img2img_can_not_do_is_refused_by_name(fields: dict[str, Any], named: str) -> None:
    given = sent(is_masked=fields.pop("is_masked", False))
    with pytest.raises(DarkroomError) as caught:
        img2img(given, **fields)
    assert caught.value.what == f"request: {named}"


def test_what_img2img_ignores_is_named() -> None:
    read = img2img(image_cfg_scale=1.5, url="x", scheduler="karras", sampler_name="DDIM")
    assert read.ignored.keys() == {"image_cfg_scale", "url", "scheduler"}


IMAGE_WISHES: dict[str, Any] = {
    "img2img_fix_steps": True,
    "img2img_color_correction": True,
    "img2img_background_color": "#000000",
    "initial_noise_multiplier": 1.1,
    "inpainting_mask_weight": 0.5,
    "overlay_inpaint": False,
    "upscaler_for_img2img": "R-ESRGAN 4x+",
    "sd_vae_encode_method": "TAESD",
}


@pytest.mark.parametrize("name", IMAGE_WISHES)
def test_options_that_change_pictures_of_pictures_are_refused_there_alone(name: str) -> None:
    wish = {"override_settings": {name: IMAGE_WISHES[name]}}
    with pytest.raises(UnsupportedError, match=f"override_settings.{name}"):
        img2img(**wish)
    with pytest.raises(UnsupportedError, match=f"options.{name}"):
        a1111.read_options({name: IMAGE_WISHES[name]}, {})
    ignored = read_txt2img(Txt2Img.model_validate({"prompt": "x", **wish})).ignored
    assert ignored == {f"override_settings.{name}": "it asks for nothing here"}


def test_options_that_change_a_second_pass_are_refused_there() -> None:
    for name, value in {"img2img_extra_noise": 0.1, "hires_fix_use_firstpass_conds": True}.items():
        with pytest.raises(UnsupportedError, match=f"override_settings.{name}"):
            hires(override_settings={name: value})
    assert hires(override_settings={"img2img_extra_noise": 0, "img2img_fix_steps": True}).steps == 0


def test_several_pictures_are_the_pictures_of_a_batch() -> None:
    body = count_images(Img2Img(init_images=["a", "b"], batch_size=4, n_iter=2, seed=5, prompt="x"))
    given = sent(count=2)
    read = read_img2img(body, given)
    one, two = (picture.sha256 for picture in given.pictures)
    assert [(each["image"], each["seed"]) for each in read.settings] == [(one, 5), (two, 6), (one, 7), (two, 8)]


@pytest.mark.parametrize("images", [None, [], ["a", "b"]])
def test_no_picture_and_more_than_the_batch_has_are_refused(images: list[str] | None) -> None:
    with pytest.raises(RequestError, match="request: init_images"):
        count_images(Img2Img(init_images=images, batch_size=1))


@pytest.mark.parametrize("size", [(56, 64), (64, 8200)])
def test_a_picture_that_can_not_be_worked_on_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(LimitError, match=f"init_images '{size[0]}x{size[1]}'"):
        img2img(sent(*size))


def ask(folder: Path, path: str, body: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], StandInService]:
    service = StandInService(folder)
    answer = post(service, a1111.make_router, f"/sdapi/v1/{path}", body)
    return answer, service.asked, service


def test_pictures_and_mask_go_with_the_request(tmp_path: Path) -> None:
    body = {"init_images": [text_of(64, 72)], "mask": "data:image/png;base64," + text_of(32, 36, 255, mode="L")}
    answer, asked, _ = ask(tmp_path, "img2img", body)
    (settings,) = asked["settings"]
    request = RenderRequest.from_settings(settings)
    picture, mask = (Image.open(io.BytesIO(asked["pictures"][name])) for name in request.pictures)
    assert (picture.size, picture.mode) == ((64, 72), "RGB")
    assert (mask.size, mask.getpixel((0, 0))) == ((64, 72), 255)
    parameters = answer["parameters"]
    assert parameters["init_images"] is parameters["mask"] is None
    assert parameters["inpaint_full_res"] is True
    assert json.loads(answer["info"])["infotexts"] == ["x"]


def test_the_answer_repeats_the_pictures_if_asked(tmp_path: Path) -> None:
    body = {"init_images": [text_of(64, 64)], "include_init_images": True}
    assert ask(tmp_path, "img2img", body)[0]["parameters"]["init_images"] == body["init_images"]


def test_the_upscalers_are_listed_and_known(tmp_path: Path) -> None:
    body = {"enable_hr": True, "hr_upscaler": "sharp", "hr_checkpoint_name": "tiny.safetensors"}
    _, asked, _ = ask(tmp_path, "txt2img", body)
    assert asked["settings"][0]["stages"][0].upscaler == "sharp"


@pytest.mark.parametrize(
    ("fields", "named"),
    [({"hr_upscaler": "R-ESRGAN 4x+"}, "hr_upscaler"), ({"hr_checkpoint_name": "othr"}, "hr_checkpoint_name")],
)
def test_a_second_pass_knows_its_upscalers_and_checkpoints(tmp_path: Path, fields: dict[str, Any], named: str) -> None:
    with pytest.raises(DarkroomError) as caught:
        ask(tmp_path, "txt2img", {"enable_hr": True, **fields})
    assert caught.value.what == f"request: {named}"


def enlarge(folder: Path, **fields: Any) -> tuple[dict[str, Any], list[RenderRequest], dict[str, bytes]]:
    body = {"image": text_of(100, 80), "upscaler_1": "Lanczos", **fields}
    answer, asked, _ = ask(folder, "extra-single-image", body)
    return answer, [RenderRequest.from_settings(each) for each in asked["settings"]], asked["pictures"]


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({}, (200, 160)),
        ({"upscaling_resize": 3.5}, (350, 280)),
        ({"upscaling_resize": 0.5}, (50, 40)),
        ({"resize_mode": 1}, (512, 512)),
        ({"resize_mode": 1, "upscaling_resize_w": 300, "upscaling_resize_h": 220}, (300, 220)),
        ({"resize_mode": 1, "upscaling_crop": False}, (640, 512)),
    ],
)
def test_a_picture_is_enlarged(tmp_path: Path, fields: dict[str, Any], size: tuple[int, int]) -> None:
    answer, (request,), files = enlarge(tmp_path, **fields)
    assert request.stages[0].size_after(*Image.open(io.BytesIO(files[request.image or ""])).size) == size
    assert answer["html_info"].startswith("<p>Postprocess upscale ")
    assert base64.b64decode(answer["image"]).startswith(b"\x89PNG")


def test_a_second_upscaler_is_blended_in(tmp_path: Path) -> None:
    answer, requests, _ = enlarge(tmp_path, upscaler_2="sharp", extras_upscaler_2_visibility=0.25)
    assert [request.stages[0].model_dump()["upscaler"] for request in requests] == ["Lanczos", "sharp"]
    text = "Postprocess upscale by: 2, Postprocess upscaler: Lanczos, Postprocess upscaler 2: sharp"
    assert answer["html_info"] == f"<p>{text}</p>"
    assert Image.open(io.BytesIO(base64.b64decode(answer["image"]))).info["postprocessing"] == text
    assert len(enlarge(tmp_path, upscaler_2="sharp")[1]) == 1


def test_no_upscaler_leaves_the_picture_as_it_is(tmp_path: Path) -> None:
    answer = post(
        StandInService(tmp_path), a1111.make_router, "/sdapi/v1/extra-single-image", {"image": text_of(100, 80)}
    )
    assert Image.open(io.BytesIO(base64.b64decode(answer["image"]))).size == (100, 80)
    assert answer["html_info"] == ""


def test_several_pictures_are_enlarged(tmp_path: Path) -> None:
    images = [{"data": text_of(64, 64, (number, 0, 0)), "name": "../a.png"} for number in range(3)]
    answer, asked, _ = ask(tmp_path, "extra-batch-images", {"imageList": images, "upscaler_1": "Nearest"})
    assert len(answer["images"]) == len({each["image"] for each in asked["settings"]}) == 3


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"gfpgan_visibility": 0.5}, "gfpgan_visibility"),
        ({"codeformer_visibility": 1}, "codeformer_visibility"),
        ({"upscaler_1": "R-ESRGAN 4x+"}, "upscaler_1"),
        ({"upscaler_2": "LDSR", "extras_upscaler_2_visibility": 0.5}, "upscaler_2"),
        ({"upscaling_resize": 9}, "upscaling_resize"),
        ({"image": "http://127.0.0.1/x.png"}, "image"),
        ({"image": ""}, "image"),
    ],
)
def test_what_extras_can_not_do_is_refused_by_name(tmp_path: Path, fields: dict[str, Any], named: str) -> None:
    with pytest.raises(DarkroomError) as caught:
        enlarge(tmp_path, **fields)
    assert caught.value.what == f"request: {named}"


def test_nothing_is_interrogated(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="describes no pictures"):
        ask(tmp_path, "interrogate", {"image": text_of(64, 64)})


def test_more_pictures_than_a_request_may_have(tmp_path: Path) -> None:
    with pytest.raises(LimitError):
        ask(tmp_path, "img2img", {"init_images": [text_of(64, 64)], "n_iter": 17})
