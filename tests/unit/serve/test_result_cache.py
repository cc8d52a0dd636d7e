"""Pictures that need no engine: those in results/, found only if they are the requested ones, and those behind links."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from darkroom.checkpoint.audit import audit_path, read_origin
from darkroom.config_output import MetadataConfig
from darkroom.engine.library import Library
from darkroom.pictures.embedded import left_out
from darkroom.pictures.formats import read_texts
from darkroom.pictures.marking import GENERATED, XMP, find_source
from darkroom.pictures.png import text_of_png
from darkroom.request.render_request import RenderRequest
from darkroom.serve import result_cache
from darkroom.serve.answers import Rendered
from darkroom.serve.catalog import Model
from darkroom.serve.engines import ModelFiles
from darkroom.serve.result_cache import LIFETIME_S, LinkedPictures, ResultCache
from tests.fixtures.pngs import encode_png

MODEL = Model("demo", ModelFiles(Path("demo")), "0123456789", None)
REQUEST = RenderRequest(prompt="a fox", width=64, height=64, loras=("outline",), vae="soft")


class Results:
    """A results folder with one picture made with a LoRA and a VAE."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "results"
        self.models = folder / "models"
        self.folder.mkdir()
        for kind, name in (("loras", "outline"), ("vaes", "soft")):
            self.asset(kind, name).parent.mkdir(parents=True)
            self.asset(kind, name).write_bytes(name.encode())
        assets = [
            {"kind": kind, "name": name, "sha256": hashlib.sha256(name.encode()).hexdigest(), "short": "x"}
            for kind, name in (("loras", "outline"), ("vaes", "soft"))
        ]
        facts = {"model": "demo", "model_hash": MODEL.model_hash, "assets": assets, "warnings": ["a warning"]}
        self.png = encode_png(Image.new("RGB", (64, 64)), "a fox", REQUEST.to_json(), facts=facts)
        (self.folder / "fox.png").write_bytes(self.png)
        self.write()
        self.cache = ResultCache(self.folder, Library(self.models), MetadataConfig(marking=False))

    def asset(self, kind: str, name: str) -> Path:
        return self.models / kind / f"{name}.safetensors"

    def write(self, **changes: Any) -> None:
        entry = {
            "file": "fox.png",
            "sha256": hashlib.sha256(self.png).hexdigest(),
            "model_hash": MODEL.model_hash,
            "request": REQUEST.model_dump(mode="json"),
        }
        (self.folder / "manifest.jsonl").write_text(json.dumps({**entry, **changes}) + "\n")


def test_what_is_given_out_has_the_metadata_that_the_configuration_wants(results: Results) -> None:
    library = Library(results.models)
    marked = ResultCache(results.folder, library).find(REQUEST, MODEL)
    assert marked is not None and find_source(read_texts(marked.png)[XMP]) == GENERATED
    without = MetadataConfig(prompt=False)
    found = ResultCache(results.folder, library, without).find(REQUEST, MODEL)
    assert found is not None and left_out(read_texts(found.png)) and json.loads(read_texts(found.png)["darkroom"])
    (results.folder / "fox.png").write_bytes(found.png)
    results.write(sha256=hashlib.sha256(found.png).hexdigest())
    again = ResultCache(results.folder, library, without)
    assert again.find(REQUEST, MODEL) is not None
    assert again.find(REQUEST.model_copy(update={"seed": 99}), MODEL) is None
    assert ResultCache(results.folder, library).find(REQUEST, MODEL) is None  # who wants prompts gets a new picture


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(tmp_path)


def test_the_same_request_for_the_same_model_is_found(results: Results) -> None:
    found = results.cache.find(REQUEST, MODEL)
    assert found == Rendered(
        results.png, REQUEST, "a fox", {}, ("a warning",), "demo", MODEL.model_hash, is_cached=True
    )


@pytest.mark.parametrize(
    ("request_", "model"),
    [
        (REQUEST.model_copy(update={"seed": 1}), MODEL),
        (REQUEST, replace(MODEL, model_hash="9876543210")),
        (REQUEST, replace(MODEL, model_hash=None)),
    ],
)
def test_another_request_or_model_is_not(results: Results, request_: RenderRequest, model: Model) -> None:
    assert results.cache.find(request_, model) is None


def spoil_picture(results: Results) -> None:
    (results.folder / "fox.png").write_bytes(results.png[:-1])


def remove_picture(results: Results) -> None:
    (results.folder / "fox.png").unlink()


def change_lora(results: Results) -> None:
    results.asset("loras", "outline").write_bytes(b"other bytes")


def remove_vae(results: Results) -> None:
    results.asset("vaes", "soft").unlink()


def point_elsewhere(results: Results) -> None:
    (results.folder.parent / "fox.png").write_bytes(results.png)
    results.write(file="../fox.png")


def break_manifest(results: Results) -> None:
    (results.folder / "manifest.jsonl").write_text("{")


def remove_manifest(results: Results) -> None:
    (results.folder / "manifest.jsonl").unlink()


@pytest.mark.parametrize(
    "change",
    [spoil_picture, remove_picture, change_lora, remove_vae, point_elsewhere, break_manifest, remove_manifest],
)
def test_what_is_not_surely_the_same_is_rendered(results: Results, change: Callable[[Results], None]) -> None:
    assert results.cache.find(REQUEST, MODEL) is not None
    change(results)
    assert results.cache.find(REQUEST, MODEL) is None


def test_a_newer_manifest_is_read_again(results: Results) -> None:
    other = REQUEST.model_copy(update={"seed": 1})
    assert results.cache.find(other, MODEL) is None
    facts = json.loads(json.dumps({"model": "demo", "model_hash": MODEL.model_hash, "assets": []}))
    plain = other.model_copy(update={"loras": (), "vae": None})
    png = encode_png(Image.new("RGB", (64, 64)), "a fox", plain.to_json(), facts=facts)
    (results.folder / "fox.png").write_bytes(png)
    results.write(sha256=hashlib.sha256(png).hexdigest(), request=plain.model_dump(mode="json"))
    found = results.cache.find(plain, MODEL)
    assert found is not None
    assert found.png == png


def test_a_picture_can_be_had_for_an_hour() -> None:
    now = [0.0]
    pictures = LinkedPictures(lambda: now[0])
    name = pictures.add(b"png")
    now[0] = LIFETIME_S - 1
    assert pictures.get(name) == b"png"
    now[0] = LIFETIME_S
    assert pictures.get(name) is None
    assert pictures.get("unknown") is None


def test_names_can_not_be_guessed() -> None:
    pictures = LinkedPictures()
    names = {pictures.add(b"same") for _ in range(100)}
    assert len(names) == 100
    assert min(map(len, names)) >= 32


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result_cache, "MAX_BYTES", 10)
    pictures = LinkedPictures()
    names = [pictures.add(b"1234") for _ in range(5)]
    assert [pictures.get(name) is not None for name in names] == [False, False, False, True, True]


def test_a_picture_of_stages_is_found_by_its_whole_chain(results: Results) -> None:
    stages = [{"hires": {"upscaler": "Lanczos"}}, {"inpaint": {"mask": "a" * 64}}]
    whole = RenderRequest.from_settings({**REQUEST.model_dump(), "image": "b" * 64, "stages": stages})
    assets = json.loads(text_of_png(results.png, "fox")["darkroom"])["assets"]
    facts = {"model": "demo", "model_hash": MODEL.model_hash, "assets": assets, "warnings": [], "made_from": "c" * 64}
    results.png = encode_png(Image.new("RGB", (128, 128)), "a fox", whole.to_json(), facts=facts)
    (results.folder / "fox.png").write_bytes(results.png)
    results.write(request=whole.model_dump(mode="json"))
    found = results.cache.find(whole, MODEL)
    assert found is not None and found.png == results.png
    for changes in (
        {"image": "d" * 64},
        {"stages": stages[:1]},
        {"stages": [stages[0], {"inpaint": {"mask": "d" * 64}}]},
        {"stages": [{"hires": {"upscaler": "Nearest"}}, stages[1]]},
        {"image": None, "stages": []},
    ):
        assert (
            results.cache.find(RenderRequest.from_settings({**whole.model_dump(mode="json"), **changes}), MODEL) is None
        )


def test_another_conversion_of_the_same_checkpoint_is_another_model(results: Results) -> None:
    """Models of one file in two number formats have one hash."""
    origins = {
        "half": {"source_sha256": "a" * 64, "dtype_out": "fp16"},
        "full": {"source_sha256": "a" * 64, "dtype_out": "fp32"},
    }
    models = {}
    for name, origin in origins.items():
        folder = results.models / "diffusers" / name
        folder.mkdir(parents=True)
        audit_path(folder).write_text(json.dumps(origin))
        models[name] = replace(MODEL, name=name, files=ModelFiles(folder))
    assets = json.loads(text_of_png(results.png, "fox")["darkroom"])["assets"]
    facts = {
        "model": "half",
        "model_hash": MODEL.model_hash,
        "assets": assets,
        "origin": read_origin(models["half"].files.model_dir),
    }
    results.png = encode_png(Image.new("RGB", (64, 64)), "a fox", REQUEST.to_json(), facts=facts)
    (results.folder / "fox.png").write_bytes(results.png)
    results.write()
    assert results.cache.find(REQUEST, models["half"]) is not None
    assert results.cache.find(REQUEST, models["full"]) is None
