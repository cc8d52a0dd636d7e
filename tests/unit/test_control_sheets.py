"""Sheets with controls: pictures by their bytes, which files they are part of, axes over them, and what is refused with its line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from darkroom.base.validation import lines_of
from darkroom.config import parse_config
from darkroom.errors import DarkroomError
from darkroom.request.assets import used_assets
from darkroom.sheets.planned import PlannedPicture, PlannedSheet
from darkroom.sheets.read import load_pictures

Read = Callable[[str], PlannedSheet]
CAT = "prompts: [{id: cat, prompt: a cat}]\n"
LED = "defaults: {control: [{model: lines, image: run.png, weight: 0.5}], then: [{hires: {}}]}\n"


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Read:
    """Reads a sheet by its text."""
    monkeypatch.chdir(tmp_path)
    for name, colour in (("run", "white"), ("jump", "grey")):
        Image.new("RGB", (64, 64), colour).save(f"{name}.png")

    def read(text: str) -> PlannedSheet:
        Path("s.yaml").write_text(text)
        config: dict[str, Any] = {"checkpoints": {"base": {"source": "a"}}, "sheets": ["s.yaml"]}
        config["controlnets"] = {"lines": {"source": "c"}, "union": {"source": "d"}}
        return load_pictures(parse_config(config))["s"]

    return read


def digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def names(pictures: list[PlannedPicture]) -> list[str]:
    return [picture.name.removeprefix("s/base/") for picture in pictures]


def test_controls_are_in_all_requests_by_the_bytes_of_their_pictures(read: Read) -> None:
    first, second = read(CAT + LED)
    for picture in (first, second):
        (control,) = picture.request.control
        assert (control.model, control.image, control.weight) == ("lines", digest("run.png"), 0.5)
        assert picture.files == {digest("run.png"): "run.png"}
        assert used_assets(picture.request) == [("controlnets", "lines")]
    Path("run.png").rename("moved.png")
    assert [p.request for p in read(CAT + LED.replace("run.png", "moved.png"))] == [first.request, second.request]


def test_a_stages_own_controls_change_no_file_before_it(read: Read) -> None:
    plain = read(CAT + "defaults: {then: [{hires: {}}]}\n")
    own = read(CAT + "defaults: {then: [{hires: {control: [{model: union, type: tile}]}}]}\n")
    assert own[0].request.to_json() == plain[0].request.to_json()
    assert own[1].request != plain[1].request and own[1].request.pictures == ()
    none = read(CAT + LED.replace("hires: {}", "hires: {control: []}"))
    assert none[0].request.control and used_assets(none[1].request) == [("controlnets", "lines")]
    assert none[1].request.pictures_after(1) == ()


def test_a_given_pictures_upscale_has_no_control_of_the_stage_after_it(read: Read) -> None:
    sheet = (
        "from: run.png\ndefaults: {control: [{model: lines}], then: [upscale, img2img]}\nprompts: [{prompt: a cat}]\n"
    )
    first, second = read(sheet)
    assert not first.request.control and second.request.control


@pytest.mark.parametrize(
    ("axis", "setting", "values", "ends"),
    [
        ("control.weight: [0.4, 0.8]", "weight", [0.4, 0.8], ["weight-0.4", "weight-0.8"]),
        ("control.1.end: [0.5, ~]", "end", [0.5, 1.0], ["end-0.5", ""]),
        ("look: {soft: {control.start: 0.2}, hard: ~}", "start", [0.2, 0.0], ["look-soft", ""]),
    ],
)
def test_axes_change_single_settings(read: Read, axis: str, setting: str, values: list[float], ends: list[str]) -> None:
    pictures = read(CAT + LED.replace(", then: [{hires: {}}]", "") + f"axes: {{{axis}}}\n")
    assert [getattr(picture.request.control[0], setting) for picture in pictures] == values
    assert names(pictures) == [f"cat.{end}-0" if end else "cat-0" for end in ends]


def test_an_axis_of_control_pictures(read: Read) -> None:
    pictures = read(CAT + LED + "axes: {control.image: [run.png, jump.png]}\n")
    assert [p.request.pictures for p in pictures[::2]] == [(digest("run.png"),), (digest("jump.png"),)]
    assert [list(p.files.values()) for p in pictures[::2]] == [["run.png"], ["jump.png"]]


@pytest.mark.parametrize(
    ("control", "error"),
    [
        (
            "[{model: line, image: run.png}]",
            "E-CONTROL s.yaml: prompt 1 (cat): ControlNet 'line': there is none of that name",
        ),
        ("[{model: lines, image: no.png}]", "E-SHEET control: image 'no.png': does not exist (s.yaml:1)"),
        ("[{model: lines, image: run.png, wieght: 1}]", "E-CONFIG key 'control.wieght': unknown (s.yaml:1)"),
        ("[{image: run.png}]", "E-SHEET control 'model': is missing (s.yaml:1)"),
        ("[{model: lines, image: run.png, weight: 3}]", "E-SHEET control: weight '3': Input should be less than"),
        (
            "[{model: lines, image: run.png, start: 0.8, end: 0.2}]",
            "E-SHEET control 'image: run.png, start: 0.8, end: 0.2': start 0.8 is not before end 0.2 (s.yaml:1)",
        ),
        ("{model: lines}", "E-SHEET control '{'model': 'lines'}': is no list of controls (s.yaml:1)"),
        ("[{model: lines}]", "E-CONTROL s.yaml: prompt 1 (cat): control 'lines': has no image (control 1)"),
    ],
)
def test_what_cannot_be_is_told_with_its_place(read: Read, control: str, error: str) -> None:
    with pytest.raises(DarkroomError) as caught:
        read(f"prompts: [{{id: cat, prompt: a cat, control: {control}}}]\n")
    (line,) = lines_of([caught.value])
    assert line.startswith(error)


@pytest.mark.parametrize(
    ("axis", "error"),
    [
        ("control.weight: [0.5, 7]", "E-SHEET control: weight '7'"),
        (
            "control.2.weight: [0.5]",
            "E-SHEET s.yaml: prompt 1 (cat): axis 'control.2.weight': is about control 2, and there are 1",
        ),
        ("control.wieght: [0.5]", "E-CONFIG key 'control.wieght': unknown"),
    ],
)
def test_a_wrong_axis_is_told(read: Read, axis: str, error: str) -> None:
    with pytest.raises(DarkroomError) as caught:
        read(CAT + LED + f"axes: {{{axis}}}\n")
    assert lines_of([caught.value])[0].startswith(error)


def test_controls_that_nothing_takes_are_refused(read: Read) -> None:
    with pytest.raises(DarkroomError, match=r"E-CONTROL .*control 'lines': acts on nothing"):
        read("from: run.png\ndefaults: {control: [{model: lines}], then: [upscale]}\nprompts: [{prompt: a cat}]\n")


def test_a_given_pictures_own_controls_are_its_own(read: Read) -> None:
    led = read(CAT + LED)[0].request
    info = PngInfo()
    info.add_text("darkroom", json.dumps({"request": led.model_dump(mode="json")}))
    Image.new("RGB", (64, 64)).save("led.png", pnginfo=info)
    (picture,) = read("from: led.png\ndefaults: {then: [img2img]}\nprompts: [{prompt: a cat}]\n")
    assert picture.request.control == () and picture.request.steps == led.steps
