"""ControlNet's units and routes as A1111's clients send them: what each field means, and what is refused by name."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from pathlib import Path
from typing import Any, cast

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from darkroom.engine.control_pictures import at_resolution, preprocess
from darkroom.errors import DarkroomError
from darkroom.request.assets import AssetNames
from darkroom.request.control import Control
from darkroom.request.render_request import RenderRequest
from darkroom.serve.a1111_controlnet import MODULES, read_unit
from darkroom.serve.app import create_app
from darkroom.serve.service import Service
from tests.unit.serve.test_a1111_stages import text_of
from tests.unit.serve.test_adapter_requests import StandInService


class WithControlNets(StandInService):
    def asset_names(self) -> AssetNames:
        return AssetNames.of_folder(self.models.models_dir)


@pytest.fixture
def service(tmp_path: Path) -> WithControlNets:
    (tmp_path / "controlnets").mkdir()
    (tmp_path / "controlnets/edges.safetensors").write_bytes(bytes(0x100000) + b"weights")
    return WithControlNets(tmp_path)


def client_of(service: StandInService) -> TestClient:
    app: FastAPI = create_app(cast(Service, service))
    return TestClient(app, raise_server_exceptions=False)


def ask(service: StandInService, route: str, *units: Any, **fields: Any) -> Any:
    body = {"prompt": "x", "seed": 1, "alwayson_scripts": {"ControlNet": {"args": list(units)}}, **fields}
    return client_of(service).post(f"/sdapi/v1/{route}", json=body)


def made(service: StandInService) -> RenderRequest:
    return RenderRequest.from_settings(service.asked["settings"][0])


def unit_of(**fields: Any) -> dict[str, Any]:
    return {"model": "edges", "image": text_of(64, 64), **fields}


def shown(control: Control) -> dict[str, Any]:
    return control.model_dump(exclude_defaults=True, exclude={"image", "model"})


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {}),
        (
            {"module": "canny", "pixel_perfect": True},
            {"preprocessor": "canny", "low_threshold": 100, "high_threshold": 200},
        ),
        (
            {"module": "canny", "threshold_a": 64, "threshold_b": 32.9, "processor_res": 768},
            {"preprocessor": "canny", "low_threshold": 32, "high_threshold": 64, "processor_res": 768},
        ),
        (
            {"module": "canny", "threshold_a": -1, "threshold_b": 4000, "processor_res": -1},
            {"preprocessor": "canny", "low_threshold": 100, "high_threshold": 200, "processor_res": 512},
        ),
        ({"module": "blur_gaussian", "threshold_a": 64, "pixel_perfect": True}, {"preprocessor": "blur", "sigma": 64}),
        (
            {"module": "lineart_standard (from white bg & black line)", "pixel_perfect": True},
            {"preprocessor": "lineart"},
        ),
        ({"module": "invert", "processor_res": 640}, {"preprocessor": "invert"}),
        ({"weight": 0.5, "guidance_start": 0.1, "guidance_end": 0.6}, {"weight": 0.5, "start": 0.1, "end": 0.6}),
        ({"resize_mode": "Resize and Fill"}, {"resize_mode": "fill"}),
        ({"resize_mode": 0}, {"resize_mode": "stretch"}),
        ({"resize_mode": "Scale to Fit (Inner Fit)"}, {}),
        ({"control_mode": 2}, {"mode": "control"}),
        ({"control_mode": "My prompt is more important"}, {"mode": "prompt"}),
        ({"union_control_type": "Hard Edge"}, {"type": "canny"}),
        ({"union_control_type": "Unknown", "model": "edges [0123abcd]"}, {}),
    ],
)
def test_what_the_fields_of_a_unit_mean(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    control, _ = read_unit({"model": "edges", **fields}, "args.0", ["edges"])
    assert (control.model, shown(control)) == ("edges", expected)


@pytest.mark.parametrize(
    ("option", "passes"), [("Both", (1, 1)), ("Low res only", (1, 0)), ("High res only", (0, 1)), (None, (1, 1))]
)
def test_in_which_pass_a_unit_acts(service: WithControlNets, option: str | None, passes: tuple[int, int]) -> None:
    answer = ask(service, "txt2img", unit_of(hr_option=option), enable_hr=True)
    assert answer.status_code == 200, answer.text
    request = made(service)
    (hires,) = request.stages
    second = request.control if hires.control is None else hires.control  # type: ignore[attr-defined]
    assert (len(request.control), len(second)) == passes
    assert ask(service, "txt2img", unit_of(hr_option=option)).status_code == 200 and len(made(service).control) == 1


def test_a_unit_of_one_pass_leaves_the_refiner_alone(service: WithControlNets) -> None:
    fields = {"enable_hr": True, "refiner_checkpoint": next(iter(service.models.names)), "refiner_switch_at": 0.8}
    answer = ask(service, "txt2img", unit_of(hr_option="High res only"), **fields)
    assert answer.status_code == 200, answer.text
    request = made(service)
    hires, refine = request.stages
    assert (len(request.control), len(hires.control), refine.control) == (0, 1, ())  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "picture",
    [
        {"image": text_of(64, 64)},
        {"input_image": text_of(64, 64)},
        {"image": "data:image/png;base64," + text_of(64, 64)},
        {"image": {"image": text_of(64, 64), "mask": None}},
        {"image": [{"image": text_of(64, 64)}]},
    ],
)
def test_the_ways_to_send_a_picture(service: WithControlNets, picture: dict[str, Any]) -> None:
    answer = ask(service, "txt2img", {"model": "edges", **picture}, {"enabled": False, "model": "gone"}, None)
    assert answer.status_code == 200, answer.text
    (control,) = made(service).control
    assert hashlib.sha256(service.asked["pictures"][control.image]).hexdigest() == control.image


def test_img2img_takes_its_own_picture_if_a_unit_has_none(service: WithControlNets) -> None:
    answer = ask(service, "img2img", {"model": "edges"}, init_images=[text_of(64, 64)])
    assert answer.status_code == 200, answer.text
    assert [control.image for control in made(service).control] == [None]
    assert made(service).image in service.asked["pictures"]


def test_what_has_no_effect_is_named(service: WithControlNets) -> None:
    answer = ask(service, "txt2img", unit_of(save_detected_map=True, low_vram=True, is_ui=False))
    names = ("save_detected_map", "lowvram", "is_ui")
    where = "alwayson_scripts.controlnet.args.0"
    assert set(json.loads(answer.json()["info"])["ignored"]) == {
        f"{where}.{name.replace('lowvram', 'low_vram')}" for name in names
    }


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"module": "depth_midas"}, "E-UNSUPPORTED", "module"),
        ({"mask": text_of(64, 64)}, "E-UNSUPPORTED", "mask"),
        ({"image": {"image": text_of(64, 64), "mask": text_of(64, 64)}}, "E-UNSUPPORTED", "mask"),
        ({"effective_region_mask": "x"}, "E-UNSUPPORTED", "effective_region_mask"),
        ({"advanced_weighting": [1.0] * 10}, "E-UNSUPPORTED", "advanced_weighting"),
        ({"use_preview_as_input": True}, "E-UNSUPPORTED", "use_preview_as_input"),
        ({"model": "None"}, "E-REQUEST", "model"),
        ({"image": None}, "E-REQUEST", "image"),
        ({"image": 5}, "E-REQUEST", "image"),
        ({"image": "nonsense"}, "E-REQUEST", "image"),
        ({"resize_mode": 7}, "E-REQUEST", "resize_mode"),
        ({"control_mode": "Strong"}, "E-REQUEST", "control_mode"),
        ({"hr_option": "Never"}, "E-REQUEST", "hr_option"),
        ({"weight": 3}, "E-REQUEST", "weight"),
        ({"guidance_start": -1}, "E-REQUEST", "guidance_start"),
        ({"guidance": 0.5, "guidance_end": 0.6}, "E-REQUEST", "guidance"),
        ({"module": "canny", "threshold_a": "much"}, "E-REQUEST", "threshold_a"),
    ],
)
def test_what_cannot_be_is_refused_by_unit_and_field(
    service: WithControlNets, fields: dict[str, Any], code: str, field: str
) -> None:
    answer = ask(service, "txt2img", {"enabled": False}, unit_of(**fields))
    assert answer.status_code == 422, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["what"]) == (code, f"request: alwayson_scripts.controlnet.args.1.{field}")
    assert "\n" not in error["message"] and len(error["message"]) < 400
    assert not service.asked


def test_the_lists_that_clients_choose_from(service: WithControlNets) -> None:
    client = client_of(service)

    def get(path: str) -> Any:
        return client.get(f"/controlnet/{path}").json()

    short = hashlib.sha256(b"weights").hexdigest()[:8]
    assert get("model_list") == {"model_list": [f"edges [{short}]"]}
    assert isinstance(get("version")["version"], int) and get("settings")["control_net_unit_count"] >= 3
    assert get("module_list")["module_list"] == list(MODULES)
    named = get("module_list?alias_names=true")
    assert "invert (from white bg & black line)" in named["module_list"]
    low = named["module_detail"]["canny"]["sliders"][1]
    assert (low["value"], low["min"], low["max"]) == (100, 1, 255)
    types = get("control_types")["control_types"]
    assert types["All"]["module_list"] == list(MODULES) and types["Canny"]["default_option"] == "canny"
    for kind in types.values():
        assert kind["default_option"] in kind["module_list"] and kind["model_list"] == ["None", f"edges [{short}]"]


@pytest.mark.parametrize("name", ["controlnet_input_images", "controlnet_images"])
def test_a_preprocessor_makes_pictures_of_pictures(service: WithControlNets, name: str) -> None:
    body = {"controlnet_module": "canny", "controlnet_processor_res": 64, name: [text_of(128, 96)]}
    (text,) = client_of(service).post("/controlnet/detect", json=body).json()["images"]
    given = Image.new("RGB", (128, 96), (255, 0, 0))
    expected = preprocess(at_resolution(given, 64), Control(model="x", preprocessor="canny"))
    found = Image.open(io.BytesIO(base64.b64decode(text)))
    assert found.size == (85, 64) and found.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"controlnet_module": "openpose", "controlnet_images": [text_of(64, 64)]}, "E-UNSUPPORTED"),
        ({"controlnet_module": "canny"}, "E-LIMIT"),
        ({"controlnet_module": "canny", "controlnet_images": ["nonsense"]}, "E-REQUEST"),
        ({"controlnet_masks": ["x"], "controlnet_images": [text_of(64, 64)]}, "E-REQUEST"),
        (
            {"controlnet_module": "canny", "controlnet_processor_res": 2048, "controlnet_images": [text_of(2000, 64)]},
            "E-LIMIT",
        ),
    ],
)
def test_what_no_preprocessor_can_do_is_one_coded_line(service: WithControlNets, body: Any, code: str) -> None:
    answer = client_of(service).post("/controlnet/detect", json=body)
    assert answer.json()["error"]["code"] == code


def test_a_preprocessor_of_another_kind_says_which_there_are() -> None:
    with pytest.raises(DarkroomError, match="only none, canny, lineart_standard"):
        read_unit({"model": "edges", "module": "openpose"}, "args.0", [])
