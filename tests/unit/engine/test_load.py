"""Loading takes weights however they are stored, and says nothing that isn't of use."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from darkroom.checkpoint import open_model, verify_model, weights
from darkroom.checkpoint.header import Header
from darkroom.engine import Engine, load
from darkroom.engine.load import load_pipeline, prepare
from darkroom.engine.memory import decide
from darkroom.engine.weights import WeightFiles
from darkroom.errors import ModelError
from darkroom.request.render_request import RenderRequest
from tests.fixtures.folders import shard

CPU = decide("cpu", 0, "auto")


def test_a_fresh_process_loads_and_renders_in_silence(model_dir: Path, request_: RenderRequest) -> None:
    code = (
        "import sys; from darkroom.engine import Engine; from darkroom.request.render_request import RenderRequest\n"
        "Engine.load(sys.argv[1], device='cpu').render(RenderRequest.from_json(sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, str(model_dir), request_.to_json()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize(("upcast", "vae"), [(True, "float32"), (False, "float16")])
def test_a_vae_that_overflows_in_half_precision_is_kept_in_full(
    model_dir: Path, tmp_path: Path, upcast: bool, vae: str
) -> None:
    shutil.copytree(model_dir, tmp_path / "model")
    config = tmp_path / "model" / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"force_upcast": upcast}))
    pipeline = load_pipeline(WeightFiles(prepare(tmp_path / "model")), "cpu", "fp16", CPU)
    assert (str(pipeline.vae.dtype), str(pipeline.unet.dtype)) == (f"torch.{vae}", "torch.float16")


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_weights_in_shards_are_loaded(model_dir: Path, tmp_path: Path, variant: str | None) -> None:
    whole = load_pipeline(WeightFiles(prepare(model_dir)), "cpu", "fp32", CPU)
    whole.save_pretrained(tmp_path / "model", variant=variant, max_shard_size="2MB")
    index = f"diffusion_pytorch_model.safetensors.index{f'.{variant}' if variant else ''}.json"
    assert (tmp_path / "model" / "unet" / index).is_file()
    sharded = load_pipeline(WeightFiles(prepare(tmp_path / "model")), "cpu", "fp32", CPU)
    for component in ("unet", "vae", "text_encoder", "text_encoder_2"):
        stored = getattr(whole, component).state_dict()
        loaded = getattr(sharded, component).state_dict()
        assert all(tensor.equal(loaded[name]) for name, tensor in stored.items())


@pytest.mark.parametrize("receipt", [False, True])
def test_each_header_is_parsed_once_when_an_engine_starts(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, receipt: bool
) -> None:
    model = shutil.copytree(model_dir, tmp_path / "model")
    shard(model, "unet")
    verified = verify_model(model) if receipt else None
    parsed: list[Path] = []
    read = weights.read_header

    def count(path: Path) -> Header:
        parsed.append(path)
        return read(path)

    for module in (weights, load):
        monkeypatch.setattr(module, "read_header", count)
    Engine.load(open_model(model, verified), device="cpu").close()
    assert sorted(parsed) == sorted(model.rglob("*.safetensors"))


def test_a_model_replaced_between_its_verification_and_its_loading_is_refused(model_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model_dir, tmp_path / "model")
    model = open_model(folder)
    other = shutil.copytree(model_dir, tmp_path / "other")
    shutil.rmtree(folder)
    other.rename(folder)
    with pytest.raises(ModelError, match="'model': its files were changed while it was loaded"):
        Engine.load(model, device="cpu")
