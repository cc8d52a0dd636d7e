"""A1111's fields and options as settings: what is honoured, what has no effect, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from darkroom.engine import UsedAsset
from darkroom.errors import DarkroomError, RequestError, UnsupportedError
from darkroom.pictures.infotext import read_infotext, write_infotext
from darkroom.request.render_request import RenderRequest
from darkroom.request.samplers import A1111_AUTOMATIC, MODELS_OWN, SAMPLERS, SCHEDULES
from darkroom.serve import a1111_ignored
from darkroom.serve.a1111 import read_options
from darkroom.serve.a1111_ignored import MOST_GUESSED, MOST_NAMED, PICTURE_OPTIONS, shown
from darkroom.serve.a1111_schemas import NEUTRAL, Txt2Img
from darkroom.serve.a1111_settings import FIXED, PictureSettings, present_options, read_txt2img

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
    assert A1111_AUTOMATIC.keys() <= {sampler.name for sampler in SAMPLERS}
    assert set(A1111_AUTOMATIC.values()) <= SCHEDULES.keys()
    for sampler in SAMPLERS:
        RenderRequest.from_settings(read(sampler_name=sampler.name, scheduler="automatic").settings[0])


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("<lora:outline:1:0.5>", "<lora:outline:te=1:unet=0.5>"),
        ("<lora:outline:0.8>", "<lora:outline:0.8>"),
        ("<lora:outline>", "<lora:outline>"),
        ("<lora:outline:te=0.5>", "<lora:outline:0.5>"),
        ("<lora:outline:unet=0.5>", "<lora:outline:te=1:unet=0.5>"),
        ("<lora:outline:0.8:unet=0.5>", "<lora:outline:0.8:unet=0.5>"),
        ("<lyco:outline:1:0.5>", "<lora:outline:te=1:unet=0.5>"),
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
    assert shown["restore_faces"]["enum"] == [False, None]


@pytest.mark.parametrize("field", NEUTRAL)
def test_what_asks_for_nothing_is_accepted(field: str) -> None:
    for value in (None, *NEUTRAL[field]):
        assert read(**{field: value}).settings == read().settings


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("restore_faces", True),
        ("tiling", True),
        ("styles", ["photo"]),
        ("script_name", "X/Y/Z plot"),
        ("disable_extra_networks", True),
        ("seed_resize_from_w", 512),
        ("firstpass_image", "iVBORw0KGgo="),
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


def test_a_refiner_goes_on_with_the_last_pass() -> None:
    fields = {"refiner_checkpoint": "fine", "refiner_switch_at": 0.7}
    (stage,) = read(**fields).settings[0]["stages"]
    assert (stage.checkpoint, stage.switch_at, stage.goes_on) == ("fine", 0.7, True)
    names = [each.name for each in read(**fields, enable_hr=True).settings[0]["stages"]]
    assert names == ["hires", "refine"]
    for nothing in ({}, {"refiner_checkpoint": "None"}, {"refiner_checkpoint": "fine", "refiner_switch_at": 1}):
        assert read(**nothing).settings == read().settings
    text = "a fox\nSteps: 20, Sampler: Euler, Seed: 1, Refiner: fine, Refiner switch at: 0.6"
    assert read(infotext=text).settings[0]["stages"][0].switch_at == 0.6


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({}, "request: refiner_switch_at"),
        ({"refiner_switch_at": 0}, "request: refiner_switch_at"),
        ({"refiner_switch_at": 1.5}, "request: refiner_switch_at"),
        (
            {"refiner_switch_at": 0.8, "override_settings": {"refiner_switch_by_sample_steps": True}},
            "request: override_settings.refiner_switch_by_sample_steps",
        ),
        (
            {"refiner_switch_at": 0.8, "override_settings": {"hires_fix_refiner_pass": "first pass"}},
            "request: override_settings.hires_fix_refiner_pass",
        ),
    ],
)
def test_a_refiner_that_cannot_do_as_in_a1111_is_refused(fields: dict[str, Any], what: str) -> None:
    with pytest.raises((RequestError, UnsupportedError)) as caught:
        read(refiner_checkpoint="fine", **fields)
    assert caught.value.what == what


@pytest.mark.parametrize(
    ("sampler", "eta", "expected"),
    [
        ("Euler a", 1, None),
        ("Euler a", 0, 0),
        ("Euler a", None, None),
        ("DDIM", 0, None),
        ("DDIM", 1, 1),
        ("DDIM", 0.3, 0.3),
        ("Euler", 0.3, None),
        ("DPM++ 2M SDE Karras", 0, 0),
    ],
)
def test_eta_means_what_it_means_in_a1111(sampler: str, eta: float | None, expected: float | None) -> None:
    settings = read(sampler_name=sampler, eta=eta).settings[0]
    assert settings.get("eta") == expected
    assert RenderRequest.from_settings(settings).eta == expected


def test_an_eta_that_a_sampler_can_not_have_is_refused() -> None:
    with pytest.raises(RequestError, match="Euler a can only have an eta of 0 or 1"):
        RenderRequest.from_settings(read(sampler_name="Euler a", eta=0.5).settings[0])


@pytest.mark.parametrize("sampler", ["DDIM", "PLMS", "UniPC"])
@pytest.mark.parametrize("scheduler", ["normal", "Karras", "automatic", "simple", "beta", None])
def test_samplers_with_timesteps_of_their_own_take_every_scheduler(sampler: str, scheduler: str | None) -> None:
    """SillyTavern sends DDIM with "normal"; in A1111 DDIM, PLMS and UniPC don't look at it."""
    RenderRequest.from_settings(read(sampler_name=sampler, scheduler=scheduler).settings[0])


def pixels_of(request: RenderRequest) -> dict[str, Any]:
    """What decides the pixels: the texts without tags, the LoRAs, and every other setting."""
    settings = request.model_dump(exclude={"prompt", "prompt_2", "loras"})
    texts = [timeline and [text.strip() for text in timeline.texts] for timeline in request.timelines]
    return {**settings, "clip_skip": max(request.clip_skip, 1), "texts": texts, "all_loras": request.all_loras}


ROUND_TRIPS: list[dict[str, Any]] = [
    {"prompt": "a red circle <lora:outline:1:0.1>"},
    {"prompt": "a red circle", "loras": {"outline": {"unet": 1, "te": 0.1}}},
    {"prompt": "a red circle <lora:outline:te=0.123456789>", "prompt_2": "a line <lora:b:0.5:0.25>"},
    {"prompt": "a (red: 1.5) circle", "emphasis": "comfy"},
    {"emphasis": "a1111"},
    {"emphasis": "no_norm"},
    {"clip_skip": 2},
    {"negative_prompt": "dull, [grey|brown]", "negative_prompt_2": "noise: none"},
    {"steps": 7, "cfg_scale": 3.25, "width": 72, "height": 128},
    {"variation_seed": 5, "variation_strength": 0.25},
    {"sampler": "DDIM", "eta": 1},
    {"sampler": "Euler a", "eta": 0},
    {"sampler": "DDIM", "eta": 0.25, "schedule": "SGM Uniform"},
    {"cfg_rescale": 0.7, "freeu": {"b1": 1.2, "b2": 1.3, "s1": 0.8, "s2": 0.3}},
    {"vae": "soft"},
    {"prompt": 'a, "quoted": word\n[red:blue:0.5]', "embeddings": ["style"]},
    *({"sampler": sampler.name, "schedule": schedule} for sampler in SAMPLERS for schedule in sampler.schedules),
]


def infotext_of(settings: dict[str, Any]) -> tuple[RenderRequest, str]:
    request = RenderRequest.from_settings({"prompt": "a circle", "seed": 5, **settings})
    vaes = [UsedAsset("vaes", request.vae, "0" * 64, "0" * 10)] if request.vae else []
    return request, write_infotext(request, model="tiny", model_hash="0" * 10, version="1", assets=vaes)


def test_the_round_trips_try_every_setting() -> None:
    tried = {name for settings in ROUND_TRIPS for name in settings}
    assert tried | {"seed", "control", "image", "stages"} == RenderRequest.model_fields.keys()


def test_a_control_cannot_be_asked_for_without_its_picture() -> None:
    request = RenderRequest.from_settings({"prompt": "a circle", "control": [{"model": "edges", "image": "0" * 64}]})
    assets = [UsedAsset("controlnets", "edges", "0" * 64, "0" * 10)]
    infotext = write_infotext(request, model="tiny", model_hash="0" * 10, version="1", assets=assets)
    with pytest.raises(UnsupportedError, match=r"infotext: ControlNet 0 .*its picture is not in it"):
        read_txt2img(Txt2Img(infotext=infotext))


@pytest.mark.parametrize("settings", ROUND_TRIPS, ids=str)
def test_a_pictures_infotext_asks_for_the_same_picture(settings: dict[str, Any]) -> None:
    request, infotext = infotext_of(settings)
    wanted = read_txt2img(Txt2Img(infotext=infotext))
    assert wanted.model == "tiny"
    names = {"embeddings": request.embeddings}  # filled in from the prompts
    assert pixels_of(RenderRequest.from_settings(wanted.settings[0] | names)) == pixels_of(request)


@pytest.mark.parametrize(
    "settings",
    [one for one in ROUND_TRIPS if not one.keys() & {"prompt_2", "cfg_rescale", "negative_prompt_2"}],
    ids=str,
)
def test_the_fields_that_clients_make_of_an_infotext_ask_for_the_same_picture(settings: dict[str, Any]) -> None:
    request, infotext = infotext_of(settings)
    known = read_infotext(infotext)
    written = known["settings"]
    width, _, height = written["Size"].partition("x")
    options = {"Clip skip": "CLIP_stop_at_last_layers", "Emphasis": "emphasis", "VAE": "sd_vae"}
    fields = {
        "prompt": known["prompt"],
        "negative_prompt": known["negative_prompt"],
        "steps": written["Steps"],
        "sampler_name": written["Sampler"],
        "scheduler": written["Schedule type"],
        "cfg_scale": written["CFG scale"],
        "seed": written["Seed"],
        "width": width,
        "height": height,
        "subseed": written.get("Variation seed", -1),
        "subseed_strength": written.get("Variation seed strength", 0),
        "eta": written.get("Eta", written.get("Eta DDIM")),
        "override_settings": {option: written[name] for name, option in options.items() if name in written},
    }
    names = {"embeddings": request.embeddings}
    wanted = read_txt2img(Txt2Img.model_validate(fields)).settings[0]
    assert pixels_of(RenderRequest.from_settings(wanted | names)) == pixels_of(request)


def test_what_a_request_says_itself_takes_precedence_over_its_infotext() -> None:
    _, infotext = infotext_of({"steps": 7, "clip_skip": 2})
    body = Txt2Img(infotext=infotext, steps=3, seed=None, override_settings={"sd_model_checkpoint": "other"})
    wanted = read_txt2img(body)
    assert (wanted.model, wanted.settings[0]["steps"], wanted.settings[0]["seed"]) == ("other", 3, 5)
    assert wanted.settings[0]["clip_skip"] == 2


def test_an_infotext_of_a1111_has_a1111s_meanings() -> None:
    text = "a <lora:x:1:0.5>\nSteps: 4, Sampler: DPM++ 2M, Schedule type: Automatic, CFG scale: 7, Seed: 3, Size: 64x64"
    settings = read_txt2img(Txt2Img(infotext=f"{text}, Version: v1.10.1")).settings[0]
    assert (settings["schedule"], settings["prompt"]) == ("Karras", "a <lora:x:te=1:unet=0.5>")
    assert "emphasis" not in settings


@pytest.mark.parametrize(
    ("pair", "named"),
    [("Tiling: True", "Tiling"), ("Mask blur: 4", "Mask blur"), ("RNG: GPU", "RNG"), ("Steps: many", "Steps")],
)
def test_what_an_infotext_says_that_can_not_be_done_is_refused_by_name(pair: str, named: str) -> None:
    text = f"a\nSampler: Euler, CFG scale: 7, Seed: 3, {pair}"
    with pytest.raises(DarkroomError, match=f"request: infotext: {named} '{pair.split()[-1]}'"):
        read_txt2img(Txt2Img(infotext=text))


def test_the_models_own_schedule_has_a_name_that_a1111_has_not() -> None:
    _, infotext = infotext_of({"sampler": "DPM++ 2M"})
    assert read_infotext(infotext)["settings"]["Schedule type"] == MODELS_OWN
    assert read(sampler_name="DPM++ 2M", scheduler=MODELS_OWN).settings[0]["schedule"] == "Automatic"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"sampler_name": "Eular"}, "Eular"),
        ({"scheduler": "turbo_sgm"}, "turbo_sgm"),
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
        ({"eta": 1}, {"eta": "no sampler is named"}),
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
    with pytest.raises(UnsupportedError, match="tiling 'True': is always False"):
        read(override_settings={"tiling": True})


def test_the_files_format_and_quality_are_options_of_a_request() -> None:
    kinds = {"jpg": "jpeg", "JPEG": "jpeg", "webp": "webp", "avif": "avif", "png": "png", None: "png"}
    for given, name in kinds.items():
        output = read(override_settings={"samples_format": given}).output
        assert (output.kind.name, output.quality) == (name, None if name == "png" else 80)
    assert read(override_settings={"samples_format": "webp", "jpeg_quality": 55}).output.quality == 55
    assert read(override_settings={"samples_format": "png", "jpeg_quality": 55}).output.kind.name == "png"
    for wrong, named in (
        ({"samples_format": "gif"}, "samples_format 'gif'"),
        ({"jpeg_quality": 0}, "jpeg_quality '0'"),
    ):
        with pytest.raises(RequestError, match=named):
            read(override_settings={"samples_format": "webp", **wrong})


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
