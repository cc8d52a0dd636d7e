"""The package webuiapi, written for AUTOMATIC1111's server, against ours."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
import webuiapi
from PIL import Image

from darkroom.pictures.infotext import read_infotext
from darkroom.request.samplers import SAMPLERS
from darkroom.request.stages.hires import LATENT_UPSCALERS
from tests.fixtures.serving import LIMIT_S, wait_for

QUICK: dict[str, Any] = {"prompt": "a red circle", "width": 64, "height": 64, "steps": 2, "seed": 7}


@pytest.fixture
def api(server: str) -> Iterator[webuiapi.WebUIApi]:
    one = webuiapi.WebUIApi(baseurl=f"{server}/sdapi/v1", sampler="Euler")
    yield one
    one.session.close()


def settings_of(image: Image.Image) -> dict[str, str]:
    return read_infotext(image.info["parameters"])["settings"]


def refusal(caught: pytest.ExceptionInfo[RuntimeError]) -> tuple[int, dict[str, Any]]:
    """The status and the error that the package raises a RuntimeError of."""
    status, body = caught.value.args
    return status, json.loads(body)["error"]


def test_a_picture_with_all_that_the_package_sends_by_itself(api: webuiapi.WebUIApi) -> None:
    result = api.txt2img(**QUICK, negative_prompt="blue")
    assert result.image.size == (64, 64)
    settings = settings_of(result.image)
    assert (settings["Steps"], settings["Seed"], settings["Sampler"]) == ("2", "7", "Euler")
    assert result.info["infotexts"] == [result.image.info["parameters"]]
    expected = {
        "prompt": "a red circle",
        "negative_prompt": "blue",
        "all_seeds": [7],
        "width": 64,
        "height": 64,
        "sampler_name": "Euler",
        "cfg_scale": 7.0,
        "steps": 2,
        "sd_model_name": "tiny",
        "clip_skip": 1,
        "styles": [],
    }
    assert expected.items() <= result.info.items()
    assert result.info["sd_model_hash"] == settings["Model hash"]
    assert (result.parameters["steps"], result.parameters["prompt"]) == (2, "a red circle")


def test_batches_have_consecutive_seeds(api: webuiapi.WebUIApi) -> None:
    result = api.txt2img(**QUICK, batch_size=2, n_iter=2)
    assert result.info["all_seeds"] == [7, 8, 9, 10]
    assert [settings_of(image)["Seed"] for image in result.images] == ["7", "8", "9", "10"]
    assert len({image.tobytes() for image in result.images}) == 4


def test_a_picture_without_a_seed_tells_the_seed_that_makes_it_again(api: webuiapi.WebUIApi) -> None:
    first = api.txt2img(**{**QUICK, "seed": -1})
    again = api.txt2img(**{**QUICK, "seed": first.info["seed"]})
    assert again.image.tobytes() == first.image.tobytes()


def test_variations_of_one_seed(api: webuiapi.WebUIApi) -> None:
    result = api.txt2img(**QUICK, subseed=3, subseed_strength=0.5, n_iter=2)
    assert (result.info["all_seeds"], result.info["all_subseeds"]) == ([7, 7], [3, 4])
    assert settings_of(result.images[1])["Variation seed"] == "4"
    assert result.images[0].tobytes() != result.images[1].tobytes()


def test_sampler_and_schedule_as_a1111_names_them(api: webuiapi.WebUIApi) -> None:
    for arguments in ({"sampler_name": "DPM++ 2M Karras"}, {"sampler_name": "DPM++ 2M", "scheduler": "karras"}):
        settings = settings_of(api.txt2img(**QUICK, **arguments).image)
        assert (settings["Sampler"], settings["Schedule type"]) == ("DPM++ 2M", "Karras")


def test_options_of_one_request(api: webuiapi.WebUIApi) -> None:
    options = {"sd_model_checkpoint": "other", "sd_vae": "soft.safetensors", "CLIP_stop_at_last_layers": 2}
    result = api.txt2img(**QUICK, override_settings=options)
    settings = settings_of(result.image)
    assert (settings["Model"], settings["VAE"], settings["Clip skip"]) == ("other", "soft", "2")
    assert (result.info["sd_model_name"], result.info["sd_vae_name"], result.info["clip_skip"]) == ("other", "soft", 2)
    assert result.info["sd_vae_hash"] == settings["VAE hash"]
    assert api.util_get_current_model().startswith("tiny.safetensors")


def test_a_loras_tag_gives_the_text_encoders_weight_first(api: webuiapi.WebUIApi) -> None:
    both = api.txt2img(**{**QUICK, "prompt": "a circle <lora:outline:1:0>"})
    named = api.txt2img(**{**QUICK, "prompt": "a circle <lora:outline:te=1:unet=0>"})
    turned = api.txt2img(**{**QUICK, "prompt": "a circle <lora:outline:0:1>"})
    assert both.image.tobytes() == named.image.tobytes() != turned.image.tobytes()


def test_without_images_only_the_facts_come(api: webuiapi.WebUIApi) -> None:
    result = api.txt2img(**QUICK, send_images=False)
    assert result.images == []
    assert result.info["all_seeds"] == [7]


def test_what_is_left_out_has_the_servers_defaults(server: str) -> None:
    body = {"prompt": "a red circle", "width": 64, "height": 64, "seed": None}
    answer = requests.post(f"{server}/sdapi/v1/txt2img", json=body, timeout=120).json()
    assert answer["parameters"]["steps"] == 25
    assert answer["parameters"]["sampler_name"] == "Euler"
    image = Image.open(io.BytesIO(base64.b64decode(answer["images"][0])))
    assert settings_of(image)["Steps"] == "25"


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        ({"enable_hr": True, "hr_checkpoint_name": "nowhere"}, "E-UNKNOWN", "hr_checkpoint_name"),
        ({"enable_hr": True, "hr_upscaler": "R-ESRGAN 4x+"}, "E-REQUEST", "hr_upscaler"),
        ({"restore_faces": True}, "E-UNSUPPORTED", "restore_faces"),
        ({"styles": ["photo"]}, "E-UNSUPPORTED", "styles"),
        ({"script_name": "Prompt matrix"}, "E-UNSUPPORTED", "script_name"),
        ({"adetailer": [webuiapi.ADetailer(ad_model="face_yolov8n.pt")]}, "E-UNSUPPORTED", "alwayson_scripts"),
        ({"sampler_name": "Euler a", "eta": 0.5}, "E-REQUEST", "eta of 0 or 1"),
        ({"prompt": "a cat AND a dog"}, "E-UNSUPPORTED", "AND"),
        ({"prompt": "a cat <hypernet:x:1>"}, "E-UNSUPPORTED", "hypernet"),
        ({"override_settings": {"samples_format": "gif"}}, "E-REQUEST", "samples_format"),
        ({"override_settings": {"sd_hypernetwork": "x"}}, "E-UNSUPPORTED", "sd_hypernetwork"),
        ({"sampler_name": "Restart"}, "E-REQUEST", "Restart"),
        ({"width": 65}, "E-REQUEST", "width"),
        ({"steps": 1000}, "E-LIMIT", "steps"),
        ({"batch_size": 10**9}, "E-LIMIT", "pictures"),
    ],
)
def test_what_cannot_be_done_is_an_error_with_a_code(
    api: webuiapi.WebUIApi, arguments: dict[str, Any], code: str, named: str
) -> None:
    with pytest.raises(RuntimeError) as caught:
        api.txt2img(**{**QUICK, **arguments, "alwayson_scripts": {}})
    status, error = refusal(caught)
    assert (status, error["code"]) == (404 if code == "E-UNKNOWN" else 422, code)
    assert named in error["message"]


def pixels_of(png: bytes) -> bytes:
    return Image.open(io.BytesIO(png)).tobytes()


@pytest.mark.parametrize(
    "settings",
    [
        {"prompt": "a red circle <lora:outline:1:0.1>"},
        {"loras": {"outline": {"unet": 1, "te": 0.1}}},
        {"sampler": "DPM++ 2M"},
        {"sampler": "DPM++ SDE"},
        {"sampler": "DPM++ 2M SDE"},
        {"sampler": "DDIM", "eta": 1},
        {"variation_seed": 5, "variation_strength": 0.25},
        {"prompt": "a (red:1.5) circle", "emphasis": "comfy"},
        {"prompt": "a [red:green:0.5] circle", "clip_skip": 2},
    ],
    ids=str,
)
def test_a_pictures_infotext_gives_the_same_picture(server: str, settings: dict[str, Any]) -> None:
    request = {**QUICK, "steps": 3, **settings}
    first = requests.post(f"{server}/render", json={"request": request}, timeout=LIMIT_S)
    assert first.status_code == 200, first.text
    infotext = Image.open(io.BytesIO(first.content)).info["parameters"]
    again = requests.post(f"{server}/sdapi/v1/txt2img", json={"infotext": infotext}, timeout=LIMIT_S)
    assert again.status_code == 200, again.text
    assert pixels_of(base64.b64decode(again.json()["images"][0])) == pixels_of(first.content)


def test_ddim_with_the_etas_that_clients_send(api: webuiapi.WebUIApi) -> None:
    pictures = [api.txt2img(**QUICK, sampler_name="DDIM", scheduler="normal", eta=eta) for eta in (1, 0)]
    assert [settings_of(picture.image).get("Eta DDIM") for picture in pictures] == ["1", None]
    assert pictures[0].image.tobytes() != pictures[1].image.tobytes()


def test_an_unknown_model_is_not_found(api: webuiapi.WebUIApi) -> None:
    with pytest.raises(RuntimeError) as caught:
        api.txt2img(**QUICK, override_settings={"sd_model_checkpoint": "sd_xl_base_1.0.safetensors"})
    status, error = refusal(caught)
    assert (status, error["code"]) == (404, "E-UNKNOWN")


def test_what_is_done_to_pictures_elsewhere_is_refused(api: webuiapi.WebUIApi) -> None:
    image = Image.new("RGB", (64, 64))
    for call in (
        lambda: api.img2img(images=[image], initial_noise_multiplier=1.1),
        lambda: api.extra_single_image(image, gfpgan_visibility=0.5),
        lambda: api.interrogate(image),
    ):
        with pytest.raises(RuntimeError) as caught:
            call()
        assert refusal(caught)[1]["code"] == "E-UNSUPPORTED"


def test_the_default_model_can_be_changed(api: webuiapi.WebUIApi) -> None:
    try:
        api.util_set_model("other")
        assert api.util_get_current_model().startswith("other.safetensors [")
        assert settings_of(api.txt2img(**QUICK).image)["Model"] == "other"
    finally:
        api.set_options({"sd_model_checkpoint": "tiny"})
    assert settings_of(api.txt2img(**QUICK).image)["Model"] == "tiny"


def test_a_model_may_stay_after_a_request(api: webuiapi.WebUIApi) -> None:
    try:
        options = {"sd_model_checkpoint": "other"}
        api.txt2img(**QUICK, override_settings=options, override_settings_restore_afterwards=False)
        assert api.util_get_current_model().startswith("other.safetensors")
    finally:
        api.set_options({"sd_model_checkpoint": "tiny"})


def test_options_can_be_sent_back_and_nothing_else_can_be_changed(api: webuiapi.WebUIApi) -> None:
    options = api.get_options()
    assert (options["samples_format"], options["CLIP_stop_at_last_layers"], options["sd_vae"]) == (
        "png",
        1,
        "Automatic",
    )
    assert api.set_options(options) is None
    assert api.set_options({"CLIP_stop_at_last_layers": 2})["error"]["code"] == "E-UNSUPPORTED"
    assert api.set_options({"sd_model_checkpoint": "nothing"})["error"]["code"] == "E-UNKNOWN"
    assert api.get_options() == options


def guide() -> Image.Image:
    """A picture with an edge."""
    image = Image.new("RGB", (96, 96), "white")
    image.paste("black", (24, 24, 72, 72))
    return image


def test_controlnets_units_lead_pictures_as_the_package_sends_them(api: webuiapi.WebUIApi) -> None:
    (model,) = api.controlnet_model_list()
    assert model.startswith("edges [")

    def unit(**fields: Any) -> webuiapi.ControlNetUnit:
        return webuiapi.ControlNetUnit(image=guide(), model=model, **fields)

    plain = api.txt2img(**QUICK)
    led = api.txt2img(**QUICK, controlnet_units=[unit(module="canny", weight=0.7, control_mode=1)])
    told = settings_of(led.image)["ControlNet 0"]
    for part in (
        "Module: canny",
        "Model: edges [",
        "Weight: 0.7",
        "Resize Mode: Resize and Fill",
        "Processor Res: 512",
    ):
        assert part in told
    for part in ("Threshold A: 64", "Threshold B: 64", "Pixel Perfect: False", "My prompt is more important"):
        assert part in told
    assert led.image.tobytes() != plain.image.tobytes() and len(led.images) == 1
    assert api.txt2img(**QUICK).image.tobytes() == plain.image.tobytes(), "the client empties its units"
    off = api.txt2img(**QUICK, controlnet_units=[unit(enabled=False)])
    assert off.image.tobytes() == plain.image.tobytes()
    changed = api.img2img(images=[guide()], **QUICK, controlnet_units=[unit(), unit(guidance_end=0.5)])
    assert {"ControlNet 0", "ControlNet 1"} <= settings_of(changed.image).keys()
    with pytest.raises(RuntimeError) as caught:
        api.txt2img(**QUICK, controlnet_units=[unit(), unit(module="depth_midas")])
    status, error = refusal(caught)
    assert (status, error["code"], error["what"]) == (
        422,
        "E-UNSUPPORTED",
        "request: alwayson_scripts.controlnet.args.1.module",
    )


def test_preprocessors_make_pictures_for_the_package(api: webuiapi.WebUIApi) -> None:
    assert isinstance(api.controlnet_version(), int) and "canny" in api.controlnet_module_list()
    made = api.controlnet_detect([guide()], module="canny", processor_res=96).image
    row = made.convert("L").crop((0, 48, 96, 49)).tobytes()
    assert made.size == (96, 96) and max(row[22:27]) == max(row[69:74]) == 255 and max(row[30:66]) == 0


def test_lists_hold_names_and_no_paths(api: webuiapi.WebUIApi) -> None:
    models = api.get_sd_models()
    assert [model["model_name"] for model in models] == ["tiny", "other"]
    assert models[0]["title"] == f"tiny.safetensors [{models[0]['hash']}]"
    assert models[0]["filename"] == "tiny.safetensors"
    assert models[0]["sha256"].startswith(models[0]["hash"])
    assert [lora["name"] for lora in api.get_loras()] == ["outline"]
    assert [vae["model_name"] for vae in api.get_sd_vae()] == ["soft.safetensors"]
    assert list(api.get_embeddings()["loaded"]) == ["glow"]
    assert api.util_get_sampler_names() == sorted(sampler.name for sampler in SAMPLERS)
    assert "sgm_uniform" in api.util_get_scheduler_names()
    assert [upscaler["name"] for upscaler in api.get_upscalers()] == ["None", "Lanczos", "Nearest", "crisp"]
    for listed in (models, api.get_loras(), api.get_sd_vae(), api.get_embeddings()):
        assert "/" not in json.dumps(listed)


def test_every_listed_schedule_can_be_sent_back(api: webuiapi.WebUIApi) -> None:
    for name in api.util_get_scheduler_names():
        assert api.txt2img(**QUICK, sampler_name="DPM++ 2M", scheduler=name).image.size == (64, 64)


def test_what_the_package_asks_for_besides(api: webuiapi.WebUIApi) -> None:
    assert all("controlnet" in scripts for scripts in api.get_scripts().values())
    assert api.get_cmd_flags()["api"] is True
    memory = api.get_memory()["ram"]
    assert 0 < memory["used"] < memory["total"]
    assert api.refresh_checkpoints() is None
    empty = (api.get_hypernetworks, api.get_face_restorers, api.get_realesrgan_models, api.get_prompt_styles)
    for ask in empty:
        assert ask() == []
    assert [mode["name"] for mode in api.get_latent_upscale_modes()] == list(LATENT_UPSCALERS)


def test_the_metadata_of_a_picture_can_be_read(api: webuiapi.WebUIApi) -> None:
    image = api.txt2img(**QUICK, negative_prompt="blue").image
    result = api.png_info(image)
    assert result.info == image.info["parameters"]
    assert result.parameters["Prompt"] == "a red circle"
    assert (result.parameters["Negative prompt"], result.parameters["Seed"], result.parameters["Size-1"]) == (
        "blue",
        "7",
        "64",
    )
    assert json.loads(result.json["items"]["darkroom"])["request"]["seed"] == 7
    assert api.png_info(Image.new("RGB", (8, 8))).info == ""


@pytest.mark.parametrize(
    ("image", "code"),
    [
        ("", "E-REQUEST"),
        ("nonsense!", "E-REQUEST"),
        ("https://example.org/a.png", "E-SSRF"),
        (base64.b64encode(b"no png").decode(), "E-REQUEST"),
    ],
)
def test_what_is_no_picture_has_no_metadata(server: str, image: str, code: str) -> None:
    answer = requests.post(f"{server}/sdapi/v1/png-info", json={"image": image}, timeout=120)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, code)


def test_progress_and_interruption(api: webuiapi.WebUIApi) -> None:
    idle = api.get_progress()
    assert (idle["progress"], idle["state"]["job_count"]) == (0, 0)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(api.txt2img, **{**QUICK, "steps": 150, "n_iter": 16})

        def find_work() -> dict[str, Any] | None:
            assert not running.done()
            progress = api.get_progress()
            return progress if progress["state"]["sampling_step"] else None

        under_way = wait_for(find_work)
        assert (under_way["state"]["job_count"], under_way["state"]["sampling_steps"]) == (16, 150)
        assert 0 < under_way["progress"] < 1
        assert under_way["eta_relative"] > 0
        assert under_way["current_image"] is None
        assert api.interrupt() == {}
        with pytest.raises(RuntimeError) as caught:
            running.result(120)
    status, error = refusal(caught)
    assert (status, error["code"]) == (409, "E-CANCELLED")
    api.util_wait_for_ready(check_interval=0.05)
    assert settings_of(api.txt2img(**QUICK).image)["Seed"] == "7"
