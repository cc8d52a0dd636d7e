"""Answers in the forms of OpenAI and A1111, where no client is needed to see them."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from darkroom.config import ServeConfig
from darkroom.errors import LimitError, RequestError
from darkroom.pictures.formats import AVIF, JPEG, WEBP, PictureFormat, convert_png, read_texts
from darkroom.pictures.infotext import write_infotext
from darkroom.request.render_request import RenderRequest
from darkroom.serve.a1111 import read_png_info, read_progress, write_answer
from darkroom.serve.a1111_schemas import Txt2Img
from darkroom.serve.a1111_settings import read_txt2img
from darkroom.serve.answers import Rendered
from darkroom.serve.openai_images import write_answer as write_images
from darkroom.serve.openai_schemas import ImageGeneration
from darkroom.serve.output_files import read_output
from darkroom.serve.service import Progress
from tests.fixtures.pictures import MODEL_HASH, make_picture
from tests.fixtures.pngs import encode_png

LIMITS = ServeConfig()


def picture(folder: Path, *, is_cached: bool = False, **settings: Any) -> Rendered:
    made = make_picture(folder, **settings)
    request = RenderRequest.from_settings(made.request)
    facts = {} if is_cached else {"prompt_tokens": 3}
    infotext = write_infotext(request, model="alpha", model_hash=MODEL_HASH, version="9")
    png = (folder / made.path).read_bytes()
    warnings = tuple(settings.get("warnings", ()))
    return Rendered(png, request, infotext, facts, warnings, "alpha", MODEL_HASH, is_cached)


def test_an_item_says_whether_it_is_cached_and_keeps_its_warnings(tmp_path: Path) -> None:
    body, made = ImageGeneration(prompt="x"), picture(tmp_path, is_cached=True, warnings=["shows one colour"])
    (item,) = write_images(body, [made], [made.png]).data
    assert (item.cached, item.warnings, item.facts) == (True, ["shows one colour"], {})
    assert base64.b64decode(item.b64_json or "").startswith(b"\x89PNG")
    (item,) = write_images(body, [picture(tmp_path)], [b""], ["http://host/x.png"]).data
    assert (item.cached, item.b64_json, item.url) == (False, None, "http://host/x.png")


def test_info_says_what_was_used_and_parameters_what_was_sent(tmp_path: Path) -> None:
    made = picture(tmp_path, negative_prompt="blue", clip_skip=3)
    body = Txt2Img.model_validate({"prompt": "a circle", "seed": -1, "auth": "anna:secret"})
    answer = write_answer(body, [made], read_txt2img(body), 0.0, [made.png])
    info = json.loads(answer.info)
    assert info["ignored"] == {"auth": "unknown field"}
    assert "secret" not in answer.model_dump_json()
    assert (info["seed"], info["steps"], info["clip_skip"], info["negative_prompt"]) == (100, 20, 3, "blue")
    assert (info["sd_model_name"], info["sd_model_hash"], info["sd_vae_name"]) == ("alpha", MODEL_HASH, None)
    sent = answer.parameters
    assert (sent["prompt"], sent["seed"], sent["steps"], sent["scheduler"]) == ("a circle", -1, 20, "Automatic")


@pytest.mark.parametrize(
    ("progress", "fraction", "eta", "text"),
    [
        (Progress("waiting", 0, 2, 0, 10, 3, started=100.0), 0.0, 0.0, "waiting, 3 ahead"),
        (Progress("loading", 0, 2, 0, 10, 0, started=100.0), 0.0, 0.0, "loading"),
        (Progress("denoising", 0, 2, 5, 10, 0, started=100.0), 0.25, 30.0, "denoising"),
        (Progress("decoding", 1, 2, 10, 10, 0, started=100.0), 1.0, 0.0, "decoding"),
    ],
)
def test_progress(progress: Progress, fraction: float, eta: float, text: str) -> None:
    shown = read_progress(progress, now=110.0)
    assert (shown.progress, shown.eta_relative, shown.textinfo) == (fraction, eta, text)
    assert (shown.state.job_count, shown.state.job_no) == (2, progress.picture)
    assert (shown.state.sampling_step, shown.state.sampling_steps) == (progress.step, 10)


def test_no_progress_is_all_zero() -> None:
    shown = read_progress(None, now=110.0)
    assert (shown.progress, shown.state.job_count, shown.state.job) == (0.0, 0, "")


def test_metadata_of_a_bare_and_of_a_data_url(tmp_path: Path) -> None:
    png = base64.b64encode(picture(tmp_path, negative_prompt="blue, red").png).decode()
    shown = read_png_info(png, LIMITS)
    assert shown == read_png_info("data:image/png;base64," + png, LIMITS)
    assert shown.info.splitlines()[1] == "Negative prompt: blue, red"
    expected = {"Negative prompt": "blue, red", "Steps": "20", "Seed": "100", "Size-1": "64", "Size-2": "64"}
    assert expected.items() <= shown.parameters.items()
    assert shown.items.keys() == {"darkroom"}


@pytest.mark.parametrize("kind", [WEBP, JPEG, AVIF])
def test_metadata_of_the_other_formats(tmp_path: Path, kind: PictureFormat) -> None:
    png = picture(tmp_path, negative_prompt="blau, größer").png
    shown = read_png_info(base64.b64encode(convert_png(png, kind, 90)).decode(), LIMITS)
    assert shown.info == read_png_info(base64.b64encode(png).decode(), LIMITS).info
    assert shown.parameters["Negative prompt"] == "blau, größer"


def test_an_infotext_of_little_endian_utf_16_or_without_a_code_is_read() -> None:
    for comment in (b"UNICODE\0" + "größer".encode("utf-16-le"), b"ASCII\0\0\0" + b"gr", b"\0" * 8 + "größer".encode()):
        exif, buffer = Image.Exif(), io.BytesIO()
        exif.get_ifd(0x8769)[0x9286] = comment
        Image.new("RGB", (8, 8)).save(buffer, "WEBP", exif=exif)
        assert read_texts(buffer.getvalue())["parameters"].startswith("gr")


def test_a_prompt_that_a_jpeg_has_no_room_for_is_refused_and_fits_into_a_webp() -> None:
    png = encode_png(Image.new("RGB", (8, 8)), "x" * 33_000, "{}")
    with pytest.raises(LimitError, match="format 'jpeg'"):
        convert_png(png, JPEG, 90)
    with pytest.raises(LimitError, match="output_format 'jpeg'"):
        asyncio.run(read_output("jpeg", 90, ("output_format", "output_compression")).encode(png))
    assert read_texts(convert_png(png, WEBP, 90))["parameters"] == "x" * 33_000


def test_less_quality_is_a_smaller_file_and_none_is_the_best() -> None:
    png = encode_png(Image.effect_noise((64, 64), 80).convert("RGB"), "x", "{}")
    for kind in (WEBP, JPEG, AVIF):
        sizes = [len(convert_png(png, kind, quality)) for quality in (0, 50, 100)]
        assert sizes == sorted(set(sizes))


def test_a_cut_off_picture_is_refused(tmp_path: Path) -> None:
    png = picture(tmp_path).png
    with pytest.raises(RequestError, match="is not a PNG, JPEG, WebP or AVIF"):
        read_png_info(base64.b64encode(png[: len(png) // 2]).decode(), LIMITS)
