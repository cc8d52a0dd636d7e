"""A1111's fields and options as settings: what is honoured, what has no effect, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from darkroom.errors import DarkroomError, RequestError, UnsupportedError
from darkroom.request.render_request import RenderRequest
from darkroom.request.samplers import SAMPLERS, SCHEDULES
from darkroom.serve import a1111_ignored
from darkroom.serve.a1111 import read_options
from darkroom.serve.a1111_ignored import MOST_GUESSED, MOST_NAMED, PICTURE_OPTIONS, shown
from darkroom.serve.a1111_schemas import NEUTRAL, Txt2Img
from darkroom.serve.a1111_settings import AUTOMATIC, FIXED, PictureSettings, present_options, read_txt2img

PRESENT = present_options("tiny.safetensors [0123456789]", "0" * 64)
FROM_WEBUIAPI = {
    "enable_hr": False,
    "hr_scale": 2,
    "hr_upscaler": "Latent",
    "hr_second_pass_steps": 0,
    "hr_prompt": "",
    "denoising_strength": 0.7,
    "firstphase_width": 0,
    "firstphase_height": 0,
    "styles": [],
    "subseed": -1,
    "subseed_strength": 0.0,
    "seed_resize_from_h": 0,
    "seed_resize_from_w": 0,
    "restore_faces": False,
    "tiling": False,
    "eta": 1.0,
    "s_churn": 0,
    "s_tmax": 0,
    "s_tmin": 0,
    "s_noise": 1,
    "override_settings": {},
    "override_settings_restore_afterwards": True,
    "sampler_name": "Euler a",
    "sampler_index": "Euler a",
    "scheduler": "automatic",
    "script_name": None,
    "script_args": [],
    "save_images": False,
    "alwayson_scripts": {},
}


def read(**fields: Any) -> PictureSettings:
    return read_txt2img(Txt2Img.model_validate({"prompt": "a circle", "seed": 5, **fields}))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {}),
        ({"prompt": None}, {"prompt": ""}),
        ({"negative_prompt": "red", "steps": 4}, {"negative_prompt": "red", "steps": 4}),
        ({"width": 512, "height": 768, "cfg_scale": 1.5}, {"width": 512, "height": 768, "cfg_scale": 1.5}),
        ({"steps": None, "width": None}, {}),
        ({"clip_skip": 2}, {"clip_skip": 2}),
        ({"override_settings": {"CLIP_stop_at_last_layers": 2, "sd_unet": None}}, {"clip_skip": 2}),
        ({"override_settings": {"sd_vae": "soft.safetensors"}}, {"vae": "soft"}),
        ({"override_settings": {"sd_vae": "Automatic"}}, {"vae": None}),
        ({"override_settings": {"sd_vae": "None"}}, {"vae": None}),
        ({"override_settings": {"emphasis": "Original"}}, {"emphasis": "a1111"}),
        ({"override_settings": {"emphasis": "No norm"}}, {"emphasis": "no_norm"}),
        ({"override_settings": {"emphasis": "comfy", "samples_format": "png"}}, {"emphasis": "comfy"}),
        ({"save_images": True, "do_not_save_grid": True, "force_task_id": "7", "comments": {"a": 1}}, {}),
        (FROM_WEBUIAPI, {"sampler": "Euler a", "schedule": "Automatic"}),
    ],
)
def test_fields_become_settings(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    wanted = read(**fields)
    assert wanted.settings == [{"prompt": "a circle", "seed": 5, **expected}]
    assert wanted.model is None


def test_numbers_and_switches_may_be_sent_as_texts() -> None:
    texts = {
        "steps": "20",
        "cfg_scale": "7.5",
        "width": "512",
        "seed": "5",
        "n_iter": "1",
        "enable_hr": "false",
        "eta": "0",
    }
    (settings,) = read(**texts, override_settings={"CLIP_stop_at_last_layers": "2"}).settings
    request = RenderRequest.from_settings(settings)
    assert (request.steps, request.cfg_scale, request.width, request.seed, request.clip_skip) == (20, 7.5, 512, 5, 2)
    with pytest.raises(UnsupportedError, match="restore_faces"):
        read(restore_faces="true")


@pytest.mark.parametrize(
    ("name", "scheduler", "expected"),
    [
        ("Euler", None, ("Euler", "Automatic")),
        ("Euler", "", ("Euler", "Automatic")),
        ("Euler", "sgm_uniform", ("Euler", "SGM Uniform")),
        ("DPM++ 2M", "Karras", ("DPM++ 2M", "Karras")),
        ("DPM++ 2M Karras", "automatic", ("DPM++ 2M", "Karras")),
        ("DPM++ 2M Karras", "exponential", ("DPM++ 2M", "Karras")),
        ("k_dpmpp_2m_ka", None, ("DPM++ 2M", "Karras")),
        ("DPM++ 2M", "automatic", ("DPM++ 2M", "Karras")),
        ("DPM++ 2M", None, ("DPM++ 2M", "Karras")),
        ("DPM++ 2M", "uniform", ("DPM++ 2M", "Uniform")),
        ("DPM++ 2M SDE", "automatic", ("DPM++ 2M SDE", "Exponential")),
    ],
)
def test_samplers_and_schedulers_mean_what_they_mean_in_a1111(
    name: str, scheduler: str | None, expected: tuple[str, str]
) -> None:
    settings = read(sampler_name=name, scheduler=scheduler).settings[0]
    assert (settings["sampler"], settings["schedule"]) == expected


def test_the_older_name_of_the_sampler_counts_where_the_newer_is_left_out() -> None:
    assert read(sampler_index="Heun").settings[0]["sampler"] == "Heun"
    assert read(sampler_name="", sampler_index="Heun").settings[0]["sampler"] == "Heun"
    assert read(sampler_name="LMS", sampler_index="Heun").settings[0]["sampler"] == "LMS"


def test_a_schedule_alone_leaves_the_sampler_to_the_server() -> None:
    settings = read(scheduler="karras").settings[0]
    assert settings["schedule"] == "Karras"
    assert "sampler" not in settings


def test_every_sampler_can_be_asked_for_as_a1111_would_with_its_automatic_schedule() -> None:
    assert AUTOMATIC.keys() <= {sampler.name for sampler in SAMPLERS}
    assert set(AUTOMATIC.values()) <= SCHEDULES.keys()
    for sampler in SAMPLERS:
        RenderRequest.from_settings(read(sampler_name=sampler.name, scheduler="automatic").settings[0])


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("<lora:outline:1:0.5>", "<lora:outline:te=1:unet=0.5>"),
        ("<lora:outline:0.8>", "<lora:outline:0.8>"),
        ("<lora:outline>", "<lora:outline>"),
        ("<lora:outline:te=0.5>", "<lora:outline:te=0.5:unet=0.5>"),
        ("<lora:outline:unet=0.5>", "<lora:outline:te=1:unet=0.5>"),
        ("<lora:outline:0.8:unet=0.5>", "<lora:outline:te=0.8:unet=0.5>"),
        ("<lora:outline:1:2:3>", "<lora:outline:1:2:3>"),
        ("(a:1.2) <b> [c]", "(a:1.2) <b> [c]"),
    ],
)
def test_the_weights_of_a_tag_are_read_in_a1111s_order(tag: str, expected: str) -> None:
    assert read(prompt=f"x {tag} y").settings[0]["prompt"] == f"x {expected} y"


@pytest.mark.parametrize(
    ("fields", "seeds"),
    [
        ({"batch_size": 2, "n_iter": 2}, [5, 6, 7, 8]),
        ({"batch_size": None, "n_iter": 3}, [5, 6, 7]),
    ],
)
def test_pictures_have_consecutive_seeds(fields: dict[str, Any], seeds: list[int]) -> None:
    assert [one["seed"] for one in read(**fields).settings] == seeds


def test_variations_keep_the_seed_and_have_consecutive_variation_seeds() -> None:
    wanted = read(n_iter=2, subseed=9, subseed_strength=0.25)
    both = {"prompt": "a circle", "seed": 5, "variation_strength": 0.25}
    assert wanted.settings == [{**both, "variation_seed": 9}, {**both, "variation_seed": 10}]
    assert wanted.subseeds == [9, 10]


def test_any_seed_is_drawn_anew() -> None:
    assert read(seed=-1).settings != read(seed=-1).settings
    first, second = (read(subseed=-1, subseed_strength=0.5).settings for _ in range(2))
    assert first != second


def test_the_model_is_an_option() -> None:
    assert (
        read(override_settings={"sd_model_checkpoint": "tiny.safetensors [0123456789]"}).model
        == PRESENT["sd_model_checkpoint"]
    )


def test_the_openapi_document_shows_ranges_and_what_is_refused() -> None:
    shown = Txt2Img.model_json_schema()["properties"]
    assert {"maximum": 1000, "minimum": 1, "type": "integer"} in shown["steps"]["anyOf"]
    assert shown["enable_hr"]["enum"] == [False, None]


@pytest.mark.parametrize("field", NEUTRAL)
def test_what_asks_for_nothing_is_accepted(field: str) -> None:
    for value in (None, *NEUTRAL[field]):
        assert read(**{field: value}).settings == read().settings


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("enable_hr", True),
        ("restore_faces", True),
        ("tiling", True),
        ("styles", ["photo"]),
        ("script_name", "X/Y/Z plot"),
        ("refiner_checkpoint", "refiner"),
        ("infotext", "a square\nSteps: 4"),
        ("disable_extra_networks", True),
        ("seed_resize_from_w", 512),
        ("firstphase_width", 512),
        ("s_churn", 0.5),
        ("s_noise", 1.01),
        ("s_min_uncond", 3),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(UnsupportedError) as caught:
        read(**{field: value})
    assert caught.value.what == f"request: {field}"
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("sampler", "eta", "is_accepted"),
    [
        ("Euler a", 1, True),
        ("Euler a", 0.5, False),
        ("Euler a", None, True),
        ("Euler a", 0, True),
        ("DDIM", 0, True),
        ("DDIM", 1, False),
        ("Euler", 0.3, True),
        ("DPM++ 2M SDE Karras", 0.5, False),
    ],
)
def test_eta_is_refused_where_it_would_make_another_picture(sampler: str, eta: float | None, is_accepted: bool) -> None:
    if is_accepted:
        assert read(sampler_name=sampler, eta=eta).settings == read(sampler_name=sampler).settings
    else:
        with pytest.raises(UnsupportedError, match=sampler.split()[0].replace("+", r"\+")):
            read(sampler_name=sampler, eta=eta)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"sampler_name": "Eular"}, "Eular"),
        ({"scheduler": "polyexponential"}, "polyexponential"),
    ],
)
def test_unknown_names_are_refused_with_what_is_known(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(RequestError) as caught:
        read(**fields)
    assert caught.value.value == named
    assert "did you mean" in caught.value.why or "known are" in caught.value.why


@pytest.mark.parametrize(
    ("fields", "ignored"),
    [
        ({"url": "http://x", "auth": "a:b"}, {"url": "unknown field", "auth": "unknown field"}),
        ({"negative_promt": "x"}, {"negative_promt": "unknown field; did you mean negative_prompt?"}),
        ({"init_images": ["x"], "mask": "y", "resize_mode": 1}, {"init_images", "mask", "resize_mode"}),
        (
            {"seed_enable_extras": True, "use_deprecated_controlnet": False},
            {"seed_enable_extras", "use_deprecated_controlnet"},
        ),
        ({"save_images": True}, {"save_images"}),
        ({"script_args": [1]}, {"script_args"}),
        ({"script_name": "None", "script_args": [1]}, {"script_args"}),
        ({"sampler_name": "Euler a", "eta": 0}, {"eta": "Euler a always adds its own noise"}),
        ({"sampler_name": "Euler", "eta": 1}, {"eta": "Euler adds no noise"}),
        ({"sampler_name": "Euler a", "eta": 1, "comments": {}, "denoising_strength": 0.7}, {}),
        ({"sampler_name": "DDIM", "scheduler": "karras"}, {"scheduler": "DDIM follows no such schedule"}),
        ({"sampler_name": "PLMS", "scheduler": "no such thing"}, {"scheduler"}),
        ({"sampler_name": "DDIM", "scheduler": "sgm_uniform"}, {}),
        (
            {"override_settings": {"img2img_fix_steps": True, "initial_noise_multiplier": 0.5}},
            {"override_settings.img2img_fix_steps", "override_settings.initial_noise_multiplier"},
        ),
        (
            {"override_settings": {"sd_model_chekpoint": "x"}},
            {"override_settings.sd_model_chekpoint": "unknown option here; did you mean sd_model_checkpoint?"},
        ),
        ({"override_settings": {"samples_save": True, "randn_source": "CPU"}}, {"override_settings.samples_save"}),
        ({"x" * 10_000: 1}, {"x" * 80 + "…"}),
    ],
)
def test_what_would_change_nothing_is_ignored_and_named(fields: dict[str, Any], ignored: Any) -> None:
    found = read(**fields).ignored
    assert (found if isinstance(ignored, dict) else found.keys()) == ignored


def test_ignored_things_change_no_setting() -> None:
    named = {"url": "x", "alwayson_scripts": {"ADetailer": {"args": [False]}}, "override_settings": {"grid_save": True}}
    assert read(**named).settings == read().settings


@pytest.mark.parametrize(
    "script",
    [
        None,
        {},
        {"args": []},
        {"args": None},
        {"args": [False]},
        {"args": [None, ""]},
        {"args": [False, {"ad_model": "face_yolov8n.pt"}]},
        {"args": [False, "Manual", 0.5]},
        {"args": [{"ad_model": "None"}]},
        {"args": [True, False, {"ad_model": "None"}]},
        {"args": [{"ad_model": "face_yolov8n.pt", "ad_tab_enable": False}]},
        {"args": [{"enabled": False, "module": "canny"}, {}]},
    ],
)
def test_scripts_that_are_switched_off_are_ignored(script: Any) -> None:
    assert read(alwayson_scripts={"Any script": script}).ignored.keys() == {"alwayson_scripts.Any script"}


@pytest.mark.parametrize(
    "script",
    [
        {"args": [True]},
        {"args": [True, True, {"ad_model": "face_yolov8n.pt"}]},
        {"args": [{"ad_model": "face_yolov8n.pt"}]},
        {"args": [{"enabled": False}, {"enabled": True, "module": "canny"}]},
        {"args": [{"module": "canny", "image": "x" * 1000}]},
        {"args": [1.5, 2]},
        {"args": "on"},
        [True],
    ],
)
def test_scripts_that_would_change_the_picture_are_refused_by_name(script: Any) -> None:
    with pytest.raises(UnsupportedError) as caught:
        read(alwayson_scripts={"ADetailer": script})
    assert caught.value.what == "request: alwayson_scripts.ADetailer"
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", PICTURE_OPTIONS)
def test_options_that_change_pictures_have_the_value_that_asks_for_nothing_or_are_refused(name: str) -> None:
    for value in PICTURE_OPTIONS[name]:
        assert read(override_settings={name: value}).settings == read().settings
    with pytest.raises(UnsupportedError, match=name):
        read(override_settings={name: "something else"})


@pytest.mark.parametrize("where", ["body", "override_settings"])
def test_a_thousand_ignored_names_are_counted_not_listed_and_few_are_guessed_at(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    guesses: list[str] = []
    monkeypatch.setattr(a1111_ignored, "near_names", lambda name, known, **_: guesses.append(name) if known else [])
    many = {f"field{number}": 1 for number in range(1000)}
    named = shown(read(**many if where == "body" else {where: many}).ignored)
    assert len(named) == MOST_NAMED + 1
    assert named["…"] == f"and {1000 - MOST_NAMED} more"
    assert len(guesses) == MOST_GUESSED


@pytest.mark.parametrize("fields", [{"steps": "many"}, {"batch_size": 0}, {"seed": -2}, {"styles": "photo"}])
def test_wrong_types_and_ranges_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        read(**fields)


def test_an_option_with_another_value_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match="samples_format 'jpg': is always 'png'"):
        read(override_settings={"samples_format": "jpg"})


@pytest.mark.parametrize("value", [[1], {"a": 1}, "x" * 10_000, 2.5, True])
@pytest.mark.parametrize(
    "name", ["sd_model_checkpoint", "sd_vae", "CLIP_stop_at_last_layers", "emphasis", "tiling", "y" * 10_000]
)
def test_options_of_any_type_are_read_or_refused_in_few_words(name: str, value: Any) -> None:
    try:
        read(override_settings={name: value})
    except DarkroomError as error:
        assert len(str(error)) < 1000


def test_only_the_model_can_stay_after_a_request() -> None:
    keep = {"override_settings_restore_afterwards": False}
    assert read(**keep, override_settings={"sd_model_checkpoint": "tiny"}).model == "tiny"
    with pytest.raises(UnsupportedError, match="override_settings_restore_afterwards"):
        read(**keep, override_settings={"sd_vae": "soft"})


def test_options_may_be_sent_back_as_they_were_read() -> None:
    assert read_options(PRESENT, PRESENT) == (PRESENT["sd_model_checkpoint"], {})
    assert read_options(dict(FIXED), PRESENT) == (None, {})


def test_options_that_change_no_picture_are_ignored_by_name() -> None:
    ignored = read_options({"face_restoration_model": "GFPGAN", "samples_save": True, "sd_vae": None}, PRESENT)[1]
    assert ignored.keys() == {"face_restoration_model", "samples_save"}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"sd_vae": "soft"}, "override_settings"),
        ({"CLIP_stop_at_last_layers": 2}, "CLIP_stop_at_last_layers"),
        ({"samples_format": "jpg"}, "samples_format"),
        ({"sd_hypernetwork": "x"}, "sd_hypernetwork"),
    ],
)
def test_options_that_would_change_something_are_refused_by_name(options: dict[str, Any], named: str) -> None:
    with pytest.raises(UnsupportedError, match=named):
        read_options({"sd_model_checkpoint": "tiny", **options}, PRESENT)
