"""`POST /render` with pictures and stages: how they are sent, what is made of them, and what is refused."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from typing import Any

import httpx
import pytest
from PIL import Image

from darkroom.pictures.png import text_of_png
from tests.serve.stand import QUICK, Stand
from tests.serve.test_native import events_of

Settings = dict[str, Any]


def png(grey: int = 50, size: tuple[int, int] = (64, 72), mode: str = "RGB", form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, grey if mode == "L" else (grey,) * 3).save(buffer, form)
    return buffer.getvalue()


def in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def ask(one: Stand, settings: Settings, pictures: Any = None, **options: Any) -> httpx.Response:
    body = {"request": {"prompt": "x", "steps": 2, **settings}, **({"pictures": pictures} if pictures else {})}
    return one.post("/render", body, **options)


def send_form(one: Stand, fields: dict[str, str], files: list[tuple[str, bytes]], **options: Any) -> httpx.Response:
    named = [(name, (f"{name}.png", data, "image/png")) for name, data in files]
    return one.ask("POST", "/render", data=fields, files=named, **options)


def grey(answer: httpx.Response) -> int:
    assert answer.status_code == 200, answer.text
    pixel = Image.open(io.BytesIO(answer.content)).getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return int(pixel[0])


def made_of(answer: httpx.Response) -> dict[str, Any]:
    request: dict[str, Any] = json.loads(text_of_png(answer.content, "answer")["darkroom"])["request"]
    return request


IMG2IMG: list[Settings] = [{"img2img": {}}]


@pytest.mark.parametrize("head", ["", "data:image/png;base64,"])
def test_a_picture_is_sent_under_a_name_and_its_size_is_known(fake: Stand, head: str) -> None:
    answer = ask(fake, {"image": "start", "stages": IMG2IMG}, {"start": head + in_base64(png())})
    assert grey(answer) == 60
    made = made_of(answer)
    assert (made["width"], made["height"]) == (64, 72)
    assert len(made["image"]) == 64
    facts = json.loads(answer.headers["darkroom-facts"])
    assert (facts["stages"], facts["width"], facts["height"]) == (["img2img"], 64, 72)


def test_the_same_as_a_form_gives_the_same(fake: Stand) -> None:
    settings = {"prompt": "x", "steps": 2, "image": "start", "stages": [{"inpaint": {"mask": "mask"}}]}
    sent = send_form(fake, {"request": json.dumps(settings)}, [("start", png()), ("mask", png(255, mode="L"))])
    pictures = {"start": in_base64(png()), "mask": in_base64(png(255, mode="L"))}
    assert sent.content == ask(fake, settings, pictures).content
    assert grey(sent) == 60
    assert fake.noted("files")[-2:] == fake.noted("files")[-4:-2]


def test_names_may_be_said_twice_and_the_picture_may_be_its_own_mask(fake: Stand) -> None:
    stages = [{"inpaint": {"mask": "a"}}, {"inpaint": {"mask": "b"}}, {"inpaint": {"mask": "b"}}]
    answer = ask(fake, {"image": "a", "stages": stages}, {"a": in_base64(png()), "b": in_base64(png(255, mode="L"))})
    assert grey(answer) == 80
    masks = [stage["inpaint"]["mask"] for stage in made_of(answer)["stages"]]
    assert masks[1] == masks[2] != masks[0] != made_of(answer)["image"]


def test_a_prompts_picture_may_have_stages_too(fake: Stand) -> None:
    answer = ask(fake, {**QUICK, "seed": 9, "stages": [{"hires": {"upscaler": "Lanczos"}}, {"upscale": {}}]})
    assert grey(answer) == 29
    assert Image.open(io.BytesIO(answer.content)).size == (256, 256)


def test_progress_counts_the_steps_of_all_stages(fake: Stand) -> None:
    settings = {"prompt": "x", **QUICK, "stages": [{"hires": {"steps": 3}}, {"img2img": {"denoising_strength": 0.5}}]}
    answer = fake.post("/render", {"request": settings}, headers={"accept": "text/event-stream"})
    *progress, (name, last) = events_of(answer)
    assert name == "picture"
    assert [list(stage) for stage in last["request"]["stages"]] == [["hires"], ["img2img"]]
    assert {data["steps"] for _, data in progress} == {2 + 3 + 2}
    assert max(data["step"] for _, data in progress) == 7


@pytest.mark.parametrize(
    ("settings", "pictures", "code", "words"),
    [
        ({"image": "start", "stages": IMG2IMG}, {}, "E-REQUEST", "request: image 'start': is the name of no picture"),
        ({"image": "strat", "stages": IMG2IMG}, {"start": "PNG"}, "E-REQUEST", "did you mean 'start'?"),
        ({"image": 7, "stages": IMG2IMG}, {"start": "PNG"}, "E-REQUEST", "request: image '7'"),
        ({"image": "start"}, {"start": "PNG"}, "E-REQUEST", "an image needs stages"),
        (
            {"image": "start", "stages": [{"inpaint": {"mask": "m"}}]},
            {"start": "PNG"},
            "E-REQUEST",
            "request: mask 'm'",
        ),
        ({"image": "start", "stages": IMG2IMG, "width": 128}, {"start": "PNG"}, "E-REQUEST", "leave width out"),
        (
            {**QUICK},
            {"start": "PNG"},
            "E-REQUEST",
            "request: pictures 'start': is a picture that the settings don't name",
        ),
        ({"image": "start", "stages": IMG2IMG}, {"start": "?"}, "E-REQUEST", "request: pictures.start: is no base64"),
        ({"image": "start", "stages": IMG2IMG}, {"start": "R0lGODlh"}, "E-REQUEST", "is a GIF"),
        ({"image": "start", "stages": IMG2IMG}, {"start": "/etc/passwd"}, "E-SSRF", "is opened"),
        ({"image": "start", "stages": IMG2IMG}, {"start": "http://[::1]/x.png"}, "E-SSRF", "is opened"),
        ({"image": "start", "stages": IMG2IMG}, {"start": 7}, "E-REQUEST", "pictures.start"),
        ({"image": "a" * 64, "stages": IMG2IMG}, {}, "E-REQUEST", "is the name of no picture that was sent"),
        (
            {**QUICK, "stages": [{"hires": {"scale": 8}}], "width": 512, "height": 512},
            {},
            "E-LIMIT",
            "size '4096x4096'",
        ),
        ({**QUICK, "stages": [{"hires": {"steps": 149}}]}, {}, "E-LIMIT", "steps '151'"),
        ({**QUICK, "stages": [{"nope": {}}]}, {}, "E-REQUEST", "nope is no stage"),
        ({**QUICK, "stages": [7]}, {}, "E-REQUEST", "a stage is a name with its settings"),
        ({**QUICK, "stages": {"inpaint": {"mask": "m"}}}, {}, "E-REQUEST", "stages"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    fake: Stand, settings: Settings, pictures: Settings, code: str, words: str
) -> None:
    before = fake.noted("renders")
    sent = {name: in_base64(png()) if value == "PNG" else value for name, value in pictures.items()}
    answer = ask(fake, settings, sent)
    assert answer.status_code == 422, answer.text
    error = answer.json()["error"]
    assert error["code"] == code
    assert words in error["message"]
    assert fake.noted("renders") == before


def test_a_picture_over_the_limits_is_refused_before_it_is_decoded(fake: Stand) -> None:
    large = png(size=(5000, 4000))
    answer = ask(fake, {"image": "start", "stages": IMG2IMG}, {"start": in_base64(large)})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "E-LIMIT")
    body = b'{"request": {"prompt": "' + b"x" * 2**25 + b'"}}'
    assert fake.post("/render", body).status_code == 413


@pytest.mark.parametrize(
    ("fields", "files", "words"),
    [
        ({}, [("start", b"x")], "request: Field required"),
        ({"request": "{"}, [("start", b"x")], "request: request: is not JSON"),
        ({"request": "[" * 100 + "]" * 100}, [("start", b"x")], "nested at most"),
        ({"request": "{}", "model": "fake", "more": "x"}, [("start", b"x")], "more"),
        ({"request": '{"prompt": "x"}'}, [("start", b"x"), ("start", b"y")], "2 files"),
        ({"request": '{"prompt": "x"}'}, [("start", png())], "the settings don't name"),
    ],
)
def test_a_form_that_is_none_is_refused(
    fake: Stand, fields: dict[str, str], files: list[tuple[str, bytes]], words: str
) -> None:
    answer = send_form(fake, fields, files)
    assert answer.status_code == 422, answer.text
    assert words.lower() in answer.json()["error"]["message"].lower()


def test_a_body_that_says_it_is_something_else_is_refused(fake: Stand) -> None:
    body = b'{"request": {"prompt": "x"}}'
    answer = fake.ask("POST", "/render", content=body, headers={"content-type": "text/plain"})
    assert (answer.status_code, answer.json()["error"]["what"]) == (422, "request body")
    settings = {"prompt": "x", **QUICK}
    answer = fake.ask("POST", "/render", content=json.dumps({"request": settings}).encode())
    assert answer.status_code == 200


def test_pictures_come_to_the_engine_by_their_sha256(fake: Stand) -> None:
    answer = ask(fake, {"image": "start", "stages": IMG2IMG}, {"start": in_base64(png(form="JPEG"))})
    name = made_of(answer)["image"]
    assert fake.noted("files")[-1].startswith(name[:12])
    assert hashlib.sha256(png(form="JPEG")).hexdigest() != name  # it was decoded and stored anew, without metadata


def test_a_controls_picture_is_sent_under_a_name(fake: Stand) -> None:
    controlnets = fake.folder / "models/controlnets"
    controlnets.mkdir(exist_ok=True)
    (controlnets / "lines.safetensors").touch()
    size = {"width": 64, "height": 64}
    hires = {"hires": {"control": [{"model": "lines", "image": "edges"}]}}
    settings = {**size, "control": [{"model": "lines", "image": "pose"}], "stages": [hires]}
    answer = ask(fake, settings, {"pose": in_base64(png()), "edges": in_base64(png(70))})
    assert answer.status_code == 200, answer.text
    made = made_of(answer)
    own, later = made["control"][0]["image"], made["stages"][0]["hires"]["control"][0]["image"]
    assert len(own) == len(later) == 64 and own != later
    first = ask(fake, {**settings, "stages": []}, {"pose": in_base64(png())})
    assert first.status_code == 200 and made_of(first)["control"][0]["image"] == own
    unknown = ask(fake, {**size, "control": [{"model": "line", "image": "pose"}]}, {"pose": in_base64(png())})
    assert unknown.status_code == 422 and "E-CONTROL" in unknown.text and "did you mean 'lines'" in unknown.text
    unsent = ask(fake, {**size, "control": [{"model": "lines", "image": "pose"}]})
    assert unsent.status_code == 422 and "E-REQUEST request: control: image 'pose'" in unsent.text
