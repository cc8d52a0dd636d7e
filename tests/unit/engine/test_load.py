"""Loading accounts for every weight, and says nothing that isn't of use."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from darkroom.engine import Engine
from darkroom.engine.load import load_pipeline
from darkroom.engine.memory import decide
from darkroom.errors import KeysError
from darkroom.request import RenderRequest

CPU = decide("cpu", 0, "auto")


def drop_tensor(path: Path, name: str) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    del tensors[name]
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("file", "tensor"),
    [
        ("unet/diffusion_pytorch_model.fp16.safetensors", "conv_out.weight"),
        ("text_encoder_2/model.fp16.safetensors", "text_projection.weight"),
    ],
)
def test_a_missing_weight_is_never_made_up(model_dir: Path, tmp_path: Path, file: str, tensor: str) -> None:
    shutil.copytree(model_dir, tmp_path / "model")
    drop_tensor(tmp_path / "model" / file, tensor)
    with pytest.raises(KeysError, match=f"E-KEYS.*{tensor.split('.')[0]}"):
        Engine.load(tmp_path / "model", device="cpu")
    with pytest.raises(KeysError, match=f"E-KEYS.*{tensor.split('.')[0]}"):
        load_pipeline(tmp_path / "model", "cpu", "fp32", CPU)


def test_a_fresh_process_loads_and_renders_in_silence(model_dir: Path, request_: RenderRequest) -> None:
    code = (
        "import sys; from darkroom.engine import Engine; from darkroom.request import RenderRequest\n"
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
    pipeline = load_pipeline(tmp_path / "model", "cpu", "fp16", CPU)
    assert (str(pipeline.vae.dtype), str(pipeline.unet.dtype)) == (f"torch.{vae}", "torch.float16")
