"""OpenAI's edits and variations: forms with pictures, masks the other way round from A1111's, and fields as stages."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from darkroom.errors import DarkroomError
from darkroom.request.render_request import RenderRequest
from darkroom.serve import a1111, openai_images
from tests.unit.serve.test_a1111_stages import changes, file_of, text_of
from tests.unit.serve.test_adapter_requests import StandInService, post, send

EDITS, VARIATIONS = "/v1/images/edits", "/v1/images/variations"
Files = list[tuple[str, tuple[str, bytes, str]]]


def holed(width: int = 128, height: int = 96) -> bytes:
    """A picture whose left half is transparent."""
    image = Image.new("RGBA", (width, height), (0, 200, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, width // 2, height))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def files_of(**files: bytes) -> Files:
    return [(name, ("../../etc/passwd", data, "text/html")) for name, data in files.items()]


def edit(
    folder: Path, files: Files, path: str = EDITS, **fields: Any
) -> tuple[dict[str, Any], list[RenderRequest], Any]:
    service = StandInService(folder)
    data = {"prompt": "a flamingo", **fields} if path == EDITS else fields
    answer = send(service, openai_images.make_router, path, data=data, files=files)
    return answer, [RenderRequest.from_settings(each) for each in service.asked["settings"]], service.asked


def refusal(folder: Path, files: Files, path: str = EDITS, **fields: Any) -> DarkroomError:
    with pytest.raises(DarkroomError) as caught:
        edit(folder, files, path, **fields)
    return caught.value


def test_a_picture_without_a_mask_is_made_anew(tmp_path: Path) -> None:
    answer, (request,), asked = edit(tmp_path, files_of(image=file_of(128, 96)))
    assert (request.prompt, request.width, request.height) == ("a flamingo", 128, 96)
    assert [stage.name for stage in request.stages] == ["img2img"]
    assert changes(request.stages[0]) == {}
    assert asked["pictures"].keys() == {request.image}
    assert answer["data"][0]["b64_json"]


def test_the_transparent_part_of_a_mask_is_made_anew_and_the_white_one_of_a1111s(tmp_path: Path) -> None:
    """The same part of the same picture, asked for in both worlds."""
    transparent, white = holed(), Image.new("L", (128, 96), 0)
    white.paste(255, (0, 0, 64, 96))
    buffer = io.BytesIO()
    white.save(buffer, "PNG")
    _, (request,), asked = edit(tmp_path, files_of(image=file_of(128, 96), mask=transparent))
    service = StandInService(tmp_path)
    body = {"init_images": [text_of(128, 96)], "mask": base64.b64encode(buffer.getvalue()).decode()}
    post(service, a1111.make_router, "/sdapi/v1/img2img", body)
    other = RenderRequest.from_settings(service.asked["settings"][0])
    assert request.pictures == other.pictures  # the same picture and the same mask, byte for byte
    assert {name: service.asked["pictures"][name] for name in other.pictures} == asked["pictures"]
    assert request.stages[0].name == other.stages[0].name == "inpaint"


def test_the_transparent_part_of_the_picture_itself_is_the_mask_if_there_is_no_other(tmp_path: Path) -> None:
    _, (request,), asked = edit(tmp_path, files_of(image=holed()))
    assert changes(request.stages[0]).keys() == {"mask", "masked_content"}
    assert request.stages[0].model_dump()["masked_content"] == "fill"
    mask = Image.open(io.BytesIO(asked["pictures"][request.pictures[1]]))
    assert (mask.getpixel((0, 0)), mask.getpixel((127, 0))) == (255, 0)
    _, (other,), _ = edit(tmp_path, files_of(image=holed(), mask=holed()))
    assert other.stages[0].model_dump()["masked_content"] == "original"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"size": "auto"}, {}),
        ({"size": "128x96"}, {}),
        ({"size": "256x256"}, {"width": 256, "height": 256, "resize_mode": "crop"}),
        ({"size": "256x256", "resize_mode": "fill"}, {"width": 256, "height": 256, "resize_mode": "fill"}),
        ({"width": "256"}, {"width": 256, "resize_mode": "crop"}),
        ({"denoising_strength": "0.25"}, {"denoising_strength": 0.25}),
    ],
)
def test_fields_of_the_stage(tmp_path: Path, fields: dict[str, str], expected: dict[str, Any]) -> None:
    _, (request,), _ = edit(tmp_path, files_of(image=file_of(128, 96)), **fields)
    assert changes(request.stages[0]) == expected


def test_fields_of_a_mask(tmp_path: Path) -> None:
    fields = {
        "mask_blur": "9",
        "masked_content": "latent noise",
        "only_masked": "true",
        "padding": "8",
        "size": "64x64",
    }
    _, (request,), _ = edit(tmp_path, files_of(image=file_of(128, 96), mask=holed()), **fields)
    expected = {"mask_blur": 9, "masked_content": "latent noise", "only_masked": True, "padding": 8}
    assert changes(request.stages[0]).items() >= {**expected, "width": 64, "height": 64}.items()


def test_settings_of_the_picture_come_as_the_packages_write_them(tmp_path: Path) -> None:
    fields: dict[str, Any] = {
        "n": "2",
        "seed": "7",
        "negative_prompt": "people",
        "steps": "9",
        "cfg_scale": "3.5",
        "sampler": "DPM++ 2M Karras",
        "loras[outline]": "0.8",
        "embeddings[]": ["glow", "dim"],
        "freeu": "true",
        "stages": '[{"upscale": {"scale": 2}}]',
    }
    _, requests, _ = edit(tmp_path, files_of(image=file_of(128, 96)), **fields)
    assert [request.seed for request in requests] == [7, 8]
    first = requests[0]
    assert (first.steps, first.cfg_scale, first.sampler, first.schedule) == (9, 3.5, "DPM++ 2M", "Karras")
    assert first.loras[0].unet == 0.8
    assert first.embeddings == ("dim", "glow")
    assert first.freeu is not None
    assert [stage.name for stage in first.stages] == ["img2img", "upscale"]


def test_what_has_no_effect_is_named(tmp_path: Path) -> None:
    fields = {"input_fidelity": "high", "quality": "high", "user": "anna", "background": "auto"}
    answer, _, _ = edit(tmp_path, files_of(image=file_of(128, 96)), **fields)
    assert answer["ignored"].keys() == {"input_fidelity", "quality"}


@pytest.mark.parametrize(
    ("files", "fields", "what"),
    [
        (files_of(mask=holed()), {}, "request: image"),
        (files_of(image=file_of(64, 64)) * 2, {}, "request: image"),
        ([("image[]", ("a.png", file_of(64, 64), "image/png"))] * 2, {}, "request: image"),
        (files_of(image=file_of(64, 64), mask=holed()), {}, "request: mask"),
        (files_of(image=file_of(64, 64), mask=file_of(64, 64)), {}, "request: mask"),
        (files_of(image=file_of(64, 64), mask=b"GIF89a"), {}, "request: mask"),
        (files_of(image=file_of(64, 64), markup=holed(64, 64)), {}, "request: markup"),
        (files_of(image=file_of(64, 64), sketch=holed(64, 64)), {}, "request: field"),
        (files_of(image=file_of(64, 64)), {"background": "transparent"}, "request: background"),
        (files_of(image=file_of(64, 64)), {"mask_blur": "4"}, "request: mask_blur"),
        (files_of(image=file_of(64, 64)), {"denoising_strength": "1.5"}, "request: denoising_strength"),
        (files_of(image=file_of(64, 64)), {"strength": "0.5"}, "request: field"),
        (files_of(image=file_of(64, 64)), {"partial_images": "2"}, "request: partial_images"),
        (files_of(image=file_of(64, 64)), {"svg[model]": "x"}, "request: svg"),
        (files_of(image=file_of(64, 64)), {"loras": "[1"}, "request: loras"),
        (files_of(image=file_of(64, 64)), {"size": "100x100"}, "request: size"),
    ],
)
def test_what_is_refused_names_its_field(tmp_path: Path, files: Files, fields: dict[str, str], what: str) -> None:
    assert refusal(tmp_path, files, **fields).what == what


def test_one_file_in_a_list_is_one(tmp_path: Path) -> None:
    _, (request,), _ = edit(tmp_path, [("image[]", ("a.png", file_of(64, 64), "image/png"))])
    assert request.image


@pytest.mark.parametrize("path", [EDITS, VARIATIONS])
def test_a_body_that_is_no_form_is_refused(tmp_path: Path, path: str) -> None:
    for options in ({"json": {"prompt": "x"}}, {"content": b"x", "headers": {"content-type": "multipart/form-data"}}):
        with pytest.raises(DarkroomError, match="is no form"):
            send(StandInService(tmp_path), openai_images.make_router, path, **options)


def test_a_form_of_too_many_fields_is_refused(tmp_path: Path) -> None:
    fields = {f"f{number}": "x" for number in range(300)}
    assert "200 fields" in refusal(tmp_path, files_of(image=file_of(64, 64)), **fields).why


def test_a_variation_needs_no_prompt(tmp_path: Path) -> None:
    _, (first, second), _ = edit(tmp_path, files_of(image=file_of(64, 64)), VARIATIONS, n="2", size="256x256", seed="5")
    assert (first.prompt, first.stages[0].name, second.seed) == ("", "img2img", 6)
    assert first.stages[0].size_after(64, 64) == (256, 256)


def test_a_variation_has_the_prompts_of_the_pictures_metadata(tmp_path: Path) -> None:
    about, buffer = PngInfo(), io.BytesIO()
    about.add_text(
        "parameters", "a lighthouse\nNegative prompt: people\nSteps: 20, Sampler: Euler, Seed: 3, Size: 64x64"
    )
    Image.new("RGB", (64, 64)).save(buffer, "PNG", pnginfo=about)
    files = files_of(image=buffer.getvalue())
    _, (request,), _ = edit(tmp_path, files, VARIATIONS)
    assert (request.prompt, request.negative_prompt) == ("a lighthouse", "people")
    _, (other,), _ = edit(tmp_path, files, VARIATIONS, prompt="a mill")
    assert (other.prompt, other.negative_prompt) == ("a mill", "")


def test_a_variation_takes_no_mask(tmp_path: Path) -> None:
    assert refusal(tmp_path, files_of(image=file_of(64, 64), mask=holed(64, 64)), VARIATIONS).value == "mask"
