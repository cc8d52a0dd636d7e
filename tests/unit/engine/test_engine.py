"""Requests become pictures, the same ones every time, whatever came before."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import weakref
from pathlib import Path

import pytest

from darkroom.engine import Cancelled, Engine, RenderedImage
from darkroom.errors import ConfigError, ModelError, NanImageError, OutOfMemoryError
from darkroom.pictures.infotext import read_infotext
from darkroom.pictures.png import read_png_text
from darkroom.request.render_request import RenderRequest
from darkroom.serve.answers import encode


def changed(request: RenderRequest, **settings: object) -> RenderRequest:
    return request.model_copy(update=settings)


def test_a_request_becomes_a_picture_of_its_size(engine: Engine, request_: RenderRequest) -> None:
    rendered: RenderedImage = engine.render(changed(request_, width=72, height=128))
    assert (rendered.image.mode, rendered.image.size) == ("RGB", (72, 128))
    assert rendered.request.width == 72
    facts = rendered.facts
    assert (facts.prompt_tokens, facts.negative_tokens, facts.chunks) == (3, 1, 1)
    assert (facts.device, facts.dtype, facts.memory) == ("cpu", "fp32", "cpu, fp32, VAE tiling off")
    assert facts.total_s >= facts.apply_s + facts.encode_s + facts.denoise_s + facts.decode_s


def test_the_model_is_named_by_its_audit(engine: Engine, model_dir: Path) -> None:
    audit = json.loads(model_dir.with_name(f"{model_dir.name}.audit.json").read_text())
    assert (engine.name, engine.model_hash) == (audit["name"], audit["autov2"])


def test_a_model_without_audit_is_named_by_its_folder(model_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(model_dir, tmp_path / "lone")
    engine = Engine.load(tmp_path / "lone", device="cpu")
    assert (engine.name, engine.model_hash) == ("lone", None)


def test_an_adopted_folder_has_a_name_and_no_hash(model_dir: Path, tmp_path: Path, request_: RenderRequest) -> None:
    shutil.copytree(model_dir, tmp_path / "adopted")
    audit = json.loads(model_dir.with_name(f"{model_dir.name}.audit.json").read_text())
    audit |= {"name": "adopted", "source_kind": "folder", "autov2": None}
    (tmp_path / "adopted.audit.json").write_text(json.dumps(audit))
    engine = Engine.load(tmp_path / "adopted", device="cpu")
    assert (engine.name, engine.model_hash) == ("adopted", None)
    picture = tmp_path / "picture.png"
    picture.write_bytes(encode(engine.render(request_)).png)
    text = read_png_text(picture)
    settings = read_infotext(text["parameters"])["settings"]
    assert settings["Model"] == "adopted"
    assert not {"Model hash", "Hashes"} & settings.keys()
    assert json.loads(text["darkroom"])["model_hash"] is None


def test_any_request_after_any_other_equals_a_fresh_engines(
    engine: Engine, request_: RenderRequest, expected: bytes
) -> None:
    others = [
        {"sampler": "Euler a", "seed": 1},
        {"sampler": "DPM++ 2M", "schedule": "Karras", "width": 128},
        {"prompt": "sunset " * 100, "clip_skip": 2, "cfg_scale": 1.0},
    ]
    assert engine.render(request_).image.tobytes() == expected
    for other in others:
        engine.render(changed(request_, **other))
        assert engine.render(request_).image.tobytes() == expected


@pytest.mark.parametrize(
    "change",
    [{"seed": 8}, {"sampler": "Euler a"}, {"sampler": "DDIM"}, {"schedule": "Karras"}, {"steps": 4}],
    ids=str,
)
def test_what_decides_a_picture_changes_it(
    engine: Engine, request_: RenderRequest, expected: bytes, change: dict[str, object]
) -> None:
    assert engine.render(changed(request_, **change)).image.tobytes() != expected


def test_equal_prompts_are_encoded_once(engine: Engine, request_: RenderRequest) -> None:
    batches: list[int] = []
    encoder = engine._pipeline.text_encoder
    handle = encoder.register_forward_hook(lambda *_: batches.append(1))
    try:
        first = changed(request_, prompt="a fox of its own")
        for request in (first, changed(first, seed=99, steps=2), changed(first, clip_skip=1)):
            engine.render(request)
        assert len(batches) == 1
        for change in ({"prompt": "an owl"}, {"clip_skip": 2}, {"negative_prompt": "grey"}, {"prompt_2": "an owl"}):
            before = len(batches)
            engine.render(changed(first, **change))
            assert len(batches) == before + 1
    finally:
        handle.remove()


def test_progress_is_told_step_by_step(engine: Engine, request_: RenderRequest) -> None:
    steps: list[tuple[int, int]] = []
    engine.render(request_, on_step=lambda done, total: steps.append((done, total)))
    assert steps == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_cancelled_picture_stops_before_the_next_step(
    engine: Engine, request_: RenderRequest, expected: bytes, after: int
) -> None:
    steps: list[int] = []
    with pytest.raises(Cancelled):
        engine.render(request_, cancelled=lambda: len(steps) >= after, on_step=lambda done, _: steps.append(done))
    assert len(steps) == after
    assert engine.render(request_).image.tobytes() == expected


@pytest.mark.parametrize(
    ("part", "layer", "words"), [("unet", "conv_out", "step 1 of 3"), ("vae", "post_quant_conv", "VAE")]
)
def test_nan_is_an_error_and_no_picture(
    engine: Engine, request_: RenderRequest, expected: bytes, part: str, layer: str, words: str
) -> None:
    weight = getattr(getattr(engine._pipeline, part), layer).weight
    kept = weight.clone()
    weight[0, 0, 0, 0] = float("nan")
    try:
        with pytest.raises(NanImageError, match=f"E-NANIMAGE.*{words}"):
            engine.render(request_)
    finally:
        weight.copy_(kept)
    assert engine.render(request_).image.tobytes() == expected


@pytest.mark.parametrize("error", ["OutOfMemoryError", "RuntimeError"])
def test_a_picture_too_big_for_memory_leaves_a_working_engine(
    engine: Engine, request_: RenderRequest, expected: bytes, monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    import torch

    kind = getattr(torch, error, RuntimeError)

    def refuse(*_: object, **__: object) -> None:
        raise kind("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")

    with monkeypatch.context() as patch:
        patch.setattr(engine._pipeline.unet, "forward", refuse)
        with pytest.raises(OutOfMemoryError, match=r"E-OOM picture '64x64': .* GB are free.*Hint: ") as caught:
            engine.render(request_)
    assert caught.value.__context__ is None, "the failed picture's tensors are kept alive"
    assert engine.render(request_).image.tobytes() == expected


def test_a_missing_model_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="Diffusers format missing"):
        Engine.load(tmp_path / "none")


def test_a_device_that_is_not_there_is_refused(model_dir: Path) -> None:
    with pytest.raises(ConfigError, match=r"E-CONFIG engine\.device 'cuda:77'"):
        Engine.load(model_dir, device="cuda:77")


def test_bfloat16_on_request(model_dir: Path, request_: RenderRequest) -> None:
    engine = Engine.load(model_dir, device="cpu", dtype="bf16")
    assert engine.render(request_).facts.dtype == "bf16"


def test_a_closed_engine_says_so(model_dir: Path, request_: RenderRequest) -> None:
    engine = Engine.load(model_dir, device="cpu")
    engine.render(request_)
    parts = [weakref.ref(getattr(engine._pipeline, part)) for part in ("unet", "vae", "text_encoder", "text_encoder_2")]
    engine.close()
    engine.close()
    with pytest.raises(ModelError, match="has been closed"):
        engine.render(request_)
    assert [part() for part in parts] == [None] * 4, "the model is still in memory"


def test_importing_the_engine_does_not_import_torch() -> None:
    code = "import sys, darkroom.engine, darkroom.prompting; print({'torch', 'diffusers', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
