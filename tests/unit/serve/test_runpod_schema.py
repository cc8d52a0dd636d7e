"""What RunPod's clients send and what becomes of it."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from darkroom.config import ServeConfig
from darkroom.errors import DarkroomError, RequestError
from darkroom.request.render_request import MAX_SEED, RenderRequest
from darkroom.serve.answers import Rendered
from darkroom.serve.images import read_image
from darkroom.serve.runpod_schema import MAX_OUTPUT_BYTES, JobInput, data_uri, make_output, read_input
from tests.unit.serve.test_a1111_stages import changes, text_of
from tests.unit.test_deploy_files import read_json

LIMITS = ServeConfig(max_images=4)
PICTURE = "data:image/png;base64," + text_of(96, 64)


def read(**fields: Any) -> RenderRequest:
    """The one picture that a job asks for."""
    wanted = read_input({"prompt": "a star", **fields}, LIMITS)
    (settings,) = wanted.settings
    return RenderRequest.from_settings(settings)


def refused(given: object) -> str:
    with pytest.raises(DarkroomError) as caught:
        read_input(given, LIMITS)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 500
    return text


def picture(png: bytes, seed: int = 1) -> Rendered:
    return Rendered(png, RenderRequest(prompt="a", seed=seed), "a", {"total_s": 1.5}, (), "tiny", "0123456789")


def test_a_prompt_alone_gets_the_defaults_of_worker_sdxl() -> None:
    request = read(seed=1)
    assert (request.width, request.height, request.steps, request.cfg_scale) == (1024, 1024, 25, 7.5)
    assert (request.sampler, request.schedule, request.negative_prompt) == ("DDIM", "Automatic", "")


def test_worker_sdxls_own_example_is_taken_as_it_is() -> None:
    job = read_json(".runpod/tests.json")["tests"][0]["input"]
    wanted = read_input(job, LIMITS)
    requests = [RenderRequest.from_settings(settings) for settings in wanted.settings]
    assert [request.seed for request in requests] == [1, 2]
    assert {(request.sampler, request.steps, request.cfg_scale) for request in requests} == {("Euler", 20, 4.0)}


@pytest.mark.parametrize(
    ("scheduler", "sampler"),
    [
        ("PNDM", "PLMS"),
        ("KLMS", "LMS"),
        ("DDIM", "DDIM"),
        ("K_EULER", "Euler"),
        ("K_EULER_ANCESTRAL", "Euler a"),
        ("DPMSolverMultistep", "DPM++ 2M"),
        ("DPMSolverSinglestep", "DPM++ 2S"),
    ],
)
def test_every_scheduler_of_worker_sdxl_is_known(scheduler: str, sampler: str) -> None:
    assert read(scheduler=scheduler).sampler == sampler


@pytest.mark.parametrize(
    ("fields", "setting", "value"),
    [
        ({"num_inference_steps": 7}, "steps", 7),
        ({"steps": 7}, "steps", 7),
        ({"steps": 7.0}, "steps", 7),
        ({"guidance_scale": 3}, "cfg_scale", 3.0),
        ({"sampler": "DPM++ 2M Karras"}, "schedule", "Karras"),
        ({"scheduler": "K_EULER", "schedule": "Karras"}, "schedule", "Karras"),
        ({"preset": "lightning"}, "cfg_scale", 1.0),
        ({"preset": "lightning"}, "sampler", "Euler"),
        ({"preset": "lightning", "guidance_scale": 1.5}, "cfg_scale", 1.5),
        ({"vae": "soft"}, "vae", "soft"),
        ({"emphasis": "a1111"}, "emphasis", "a1111"),
        ({"clip_skip": 2}, "clip_skip", 2),
        ({"variation_seed": 5, "variation_strength": 0.5}, "variation_strength", 0.5),
        ({"negative_prompt": None, "seed": 3, "image_url": None, "high_noise_frac": None}, "negative_prompt", ""),
        ({"image_url": ""}, "prompt", "a star"),
        ({"refiner_inference_steps": 50.0, "strength": 0.3, "high_noise_frac": 0.8}, "steps", 25),
    ],
)
def test_fields_under_both_their_names(fields: dict[str, Any], setting: str, value: object) -> None:
    assert getattr(read(**fields), setting) == value


def test_every_setting_of_a_picture_can_be_sent() -> None:
    settings = {
        "prompt": "a star <lora:lines:0.5>",
        "negative_prompt": "blur",
        "prompt_2": "b",
        "negative_prompt_2": "c",
        "width": 64,
        "height": 72,
        "steps": 3,
        "cfg_scale": 2.5,
        "sampler": "DPM2 a",
        "schedule": "Karras",
        "eta": 0,
        "seed": 4,
        "variation_seed": 1,
        "variation_strength": 0.1,
        "emphasis": "comfy",
        "clip_skip": 2,
        "cfg_rescale": 0.5,
        "loras": ["outline:0.8"],
        "embeddings": ["glow"],
        "vae": "soft",
        "freeu": True,
    }
    assert set(settings) | {"control", "image", "stages"} == set(RenderRequest.model_fields)
    wanted = read_input({**settings, "model": "other"}, LIMITS)
    assert wanted.model == "other"
    assert RenderRequest.from_settings(wanted.settings[0]) == RenderRequest.from_settings(settings)


@pytest.mark.parametrize(
    ("fields", "setting", "value"),
    [
        ({"steps": "20"}, "steps", 20),
        ({"num_inference_steps": " 20 "}, "steps", 20),
        ({"steps": "2e1"}, "steps", 20),
        ({"width": "512.0"}, "width", 512),
        ({"seed": str(MAX_SEED)}, "seed", MAX_SEED),
        ({"seed": "+7"}, "seed", 7),
        ({"variation_seed": "7", "variation_strength": "0.25"}, "variation_strength", 0.25),
        ({"guidance_scale": "7.5"}, "cfg_scale", 7.5),
        ({"cfg_rescale": ".5"}, "cfg_rescale", 0.5),
        ({"clip_skip": "2"}, "clip_skip", 2),
        ({"num_images": "1", "steps": 3}, "steps", 3),
        ({"refiner_inference_steps": "50", "strength": "0.3", "high_noise_frac": "0.8", "steps": 3}, "steps", 3),
        ({"freeu": "false"}, "freeu", None),
    ],
)
def test_numbers_and_switches_may_be_sent_as_texts(fields: dict[str, Any], setting: str, value: object) -> None:
    assert getattr(read(**fields), setting) == value


def test_freeu_is_switched_on_by_a_text_too() -> None:
    assert read(freeu="True").freeu == read(freeu=True).freeu


def test_several_pictures_have_seeds_in_a_row_and_without_one_each_job_has_others() -> None:
    settings = read_input({"prompt": "a", "num_images": 3, "seed": 7}, LIMITS).settings
    assert [each["seed"] for each in settings] == [7, 8, 9]
    drawn = {read().seed for _ in range(5)}
    assert len(drawn) == 5


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (None, "E-REQUEST input: is not a JSON object"),
        ("a star", "E-REQUEST input: is not a JSON object"),
        ([], "E-REQUEST input: is not a JSON object"),
        ({}, "E-REQUEST input: prompt: is missing"),
        ({"prompt": None}, "E-REQUEST input: prompt: is missing"),
        ({"prompt": 5}, "E-REQUEST input: prompt '5': is not a text"),
        ({"prompt": ["a"]}, "is not a text"),
        ({"prompt": "x" * 40_000}, "E-REQUEST input: prompt 'xxx"),
        ({"prompt": "a", "promt": "b"}, "'promt': unknown field; did you mean prompt"),
        ({"prompt": "a", "hight": 512}, "did you mean height"),
        ({"prompt": "a", "width": "512px"}, "E-REQUEST input: width '512px': is not a number"),
        ({"prompt": "a", "width": ""}, "E-REQUEST input: width '': is not a number"),
        ({"prompt": "a", "width": "0x200"}, "is not a number"),
        ({"prompt": "a", "width": "1_024"}, "is not a number"),
        ({"prompt": "a", "width": "５１２"}, "is not a number"),
        ({"prompt": "a", "width": "512.5"}, "E-REQUEST input: width '512.5': is not a whole number"),
        ({"prompt": "a", "cfg_scale": "nan"}, "is not a number"),
        ({"prompt": "a", "seed": "9" * 5000}, "is not a number"),
        ({"prompt": "a", "steps": "true"}, "is not a number"),
        ({"prompt": "a", "freeu": "maybe"}, "E-REQUEST input: freeu"),
        ({"prompt": "a", "width": True}, "E-REQUEST input: width 'true': is not a number"),
        ({"prompt": "a", "width": 512.5}, "E-REQUEST input: width '512.5': is not a whole number"),
        ({"prompt": "a", "width": float("inf")}, "is not a whole number"),
        ({"prompt": "a", "width": 10**6}, "E-REQUEST input: width '1000000'"),
        ({"prompt": "a", "width": 100}, "E-REQUEST input: width '100'"),
        ({"prompt": "a", "num_inference_steps": 0}, "E-REQUEST input: num_inference_steps '0'"),
        ({"prompt": "a", "num_inference_steps": 10**9}, "E-REQUEST input: num_inference_steps"),
        ({"prompt": "a", "guidance_scale": -1}, "E-REQUEST input: guidance_scale '-1'"),
        ({"prompt": "a", "guidance_scale": float("nan")}, "E-REQUEST input: guidance_scale"),
        ({"prompt": "a", "guidance_scale": [7]}, "E-REQUEST input: guidance_scale '[7]': is not a number"),
        ({"prompt": "a", "scheduler": "K_EULR"}, "E-REQUEST input: scheduler 'K_EULR': unknown sampler; did you mean"),
        ({"prompt": "a", "scheduler": "DDIM", "sampler": "Euler"}, "scheduler and sampler are the same setting"),
        ({"prompt": "a", "steps": 5, "num_inference_steps": 5}, "num_inference_steps and steps are the same setting"),
        ({"prompt": "a", "schedule": "Karras"}, "the sampler DDIM can't follow the schedule Karras"),
        ({"prompt": "a", "preset": "lightening"}, "E-REQUEST input: preset 'lightening'"),
        ({"prompt": "a", "num_images": 0}, "E-LIMIT pictures '0'"),
        ({"prompt": "a", "num_images": 10**12}, "E-LIMIT pictures '1000000000000'"),
        ({"prompt": "a", "num_images": 2, "seed": MAX_SEED}, "E-REQUEST input: seed"),
        ({"prompt": "a", "refiner_inference_steps": 20}, "E-UNSUPPORTED"),
        ({"prompt": "a", "strength": 0.5}, "E-UNSUPPORTED"),
        ({"prompt": "a", "high_noise_frac": 0.7}, "E-UNSUPPORTED"),
        ({"prompt": "a", "image_url": 5}, "E-REQUEST input: image_url: is not a text"),
        ({"prompt": "a", "image_url": PICTURE, "strength": 1.5}, "E-REQUEST input: strength '1.5'"),
        ({"prompt": "a", "image_url": PICTURE, "refiner_inference_steps": 0}, "E-REQUEST input: steps"),
        ({"image_url": PICTURE}, "E-REQUEST input: prompt"),
    ],
)
def test_fault_47_input_that_is_wrong_is_refused_in_one_line(given: object, told: str) -> None:
    assert told in refused(given)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/a.png",
        "http://localhost/a.png",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::ffff:10.0.0.1]/a.png",
        "http://[::1",
        "https://images.example/a.png",
        "HTTPS://images.example/a.png",
        "file:///etc/passwd",
        "/etc/passwd",
        "../a.png",
        "ftp://images.example/a.png",
        "gopher://127.0.0.1:6379/_x",
        "//127.0.0.1/a.png",
    ],
)
def test_fault_42_an_address_or_a_path_is_never_opened(url: str) -> None:
    assert refused({"prompt": "a", "image_url": url}).startswith("E-SSRF input: image_url")
    assert refused({"image_url": url, "promt": "a"}).startswith("E-SSRF input: image_url")


def test_fault_42_what_an_address_may_hold_in_secret_is_not_told() -> None:
    told = refused({"prompt": "a", "image_url": "https://user:word@images.example/private/a.png?token=hidden#part"})
    assert "https://images.example'" in told
    assert not any(secret in told for secret in ("user", "word", "private", "hidden", "part"))


def test_the_output_has_the_keys_of_worker_sdxl_and_says_what_the_pictures_are() -> None:
    output = make_output([picture(b"one", 5), picture(b"two", 6)], [data_uri(b"one"), data_uri(b"two")])
    assert output["image_url"] == output["images"][0]
    assert base64.b64decode(output["images"][1].removeprefix("data:image/png;base64,")) == b"two"
    assert (output["seed"], output["seeds"], output["cached"]) == (5, [5, 6], [False, False])
    assert (output["model"], output["model_hash"]) == ("tiny", "0123456789")
    assert json.loads(json.dumps(output)) == output


def test_fault_47_a_result_that_runpod_would_not_take_is_an_error() -> None:
    half = data_uri(bytes(MAX_OUTPUT_BYTES * 3 // 8 - 1000))  # base64 makes 4 characters of 3 bytes
    assert make_output([picture(b"")], [half])["seed"] == 1  # twice: `images` and `image_url`
    with pytest.raises(
        DarkroomError, match=r"E-LIMIT result: has 30.0 MB; RunPod takes at most 20 MB.*BUCKET_ENDPOINT"
    ):
        make_output([picture(b""), picture(b"")], [half, half])


def read_with_picture(**fields: Any) -> tuple[RenderRequest, JobInput]:
    wanted = read_input({"prompt": "a star", "image_url": PICTURE, **fields}, LIMITS)
    assert wanted.image is not None
    wanted = wanted.with_picture(read_image(wanted.image, "image_url", LIMITS))
    return RenderRequest.from_settings(wanted.settings[0]), wanted


@pytest.mark.parametrize(
    ("fields", "steps", "strength"),
    [
        ({}, 50, 0.3),
        ({"strength": 0.6}, 50, 0.6),
        ({"strength": "0.6"}, 50, 0.6),
        ({"refiner_inference_steps": 20}, 20, 0.3),
        ({"refiner_inference_steps": 20, "num_inference_steps": 30}, 20, 0.3),
        ({"num_inference_steps": 30}, 30, 0.3),
        ({"steps": 30}, 30, 0.3),
        ({"preset": "lightning-4"}, 4, 0.3),
        ({"image_url": text_of(96, 64)}, 50, 0.3),
    ],
)
def test_a_picture_gets_worker_sdxls_pass_of_the_refiner(fields: dict[str, Any], steps: int, strength: float) -> None:
    request, wanted = read_with_picture(**fields)
    assert (request.steps, request.width, request.height) == (steps, 96, 64)
    assert changes(request.stages[0]) == {"denoising_strength": strength}
    assert wanted.pictures.keys() == {request.image}


def test_what_has_no_effect_on_a_picture_is_named() -> None:
    fields = {
        "width": 512,
        "height": 512,
        "high_noise_frac": 0.5,
        "refiner_inference_steps": 9,
        "num_inference_steps": 30,
    }
    request, wanted = read_with_picture(**fields, guidance_scale=3, negative_prompt="people")
    assert wanted.ignored.keys() == {"width", "height", "high_noise_frac", "num_inference_steps"}
    assert (request.cfg_scale, request.negative_prompt) == (3, "people")
    output = make_output([picture(b"")], [""], wanted.ignored)
    assert output["ignored"]["width"] == "the picture keeps its size"
    assert "ignored" not in make_output([picture(b"")], [""])


def test_pictures_of_one_picture_have_consecutive_seeds() -> None:
    _, wanted = read_with_picture(num_images=2, seed=5)
    assert [(each["seed"], each["image"]) for each in wanted.settings] == [
        (n, wanted.settings[0]["image"]) for n in (5, 6)
    ]


def test_with_a_refiner_its_fields_mean_what_they_mean_in_worker_sdxl() -> None:
    job = {"prompt": "a", "negative_prompt": "b", "refiner_checkpoint": "fine", "scheduler": "DDIM"}
    settings = read_input(
        {**job, "refiner_inference_steps": 20, "strength": 0.4, "high_noise_frac": 0.7}, LIMITS
    ).settings[0]
    (stage,) = settings["stages"]
    assert (stage.switch_at, stage.denoising_strength, stage.steps) == (0.7, 0.4, 20)
    assert (stage.sampler, stage.cfg_scale, stage.negative_prompt) == ("Euler", 5.0, "")
    assert (settings["sampler"], settings["negative_prompt"]) == ("DDIM", "b")
    (usual,) = read_input(job, LIMITS).settings[0]["stages"]
    assert (usual.switch_at, usual.denoising_strength, usual.steps) == (0.8, 0.3, 50)


def test_with_a_refiner_a_picture_is_its_own_alone() -> None:
    job = {
        "prompt": "a",
        "negative_prompt": "b",
        "refiner_checkpoint": "fine",
        "image_url": PICTURE,
        "num_inference_steps": 9,
    }
    read = read_input(job, LIMITS)
    assert (read.stage.switch_at, read.stage.denoising_strength, read.stage.steps) == (None, 0.3, 50)
    assert read.ignored.keys() == {"negative_prompt", "num_inference_steps"}
    with pytest.raises(RequestError, match="input: strength"):
        read_input({**job, "strength": 2}, LIMITS)
    with pytest.raises(RequestError, match="input: stages"):
        read_input({**job, "stages": [{"hires": {}}]}, LIMITS)
