"""A converted folder is all that plain diffusers needs: offline, with the current libraries and with an older pair."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.checkpoints import shrink_architecture
from tests.fixtures.plain import make_marked_model

ROOT = Path(__file__).resolve().parents[2]
OLDER = ROOT / ".venv-older" / "bin" / "python"
SCRIPT = Path(__file__).with_name("render_plainly.py")
TOLERANCE = 1e-4
"""The largest difference between two pairs' latents of two steps, in fp32; they are of the order of 1 to 10."""


@dataclass(frozen=True)
class Rendering:
    """What one pair of libraries said and rendered: latents (4, 8, 8)."""

    facts: dict[str, Any]
    latents: Any


def render_with(python: Path | str, model: Path, folder: Path, name: str) -> Rendering:
    from safetensors.torch import load_file

    folder.mkdir(parents=True, exist_ok=True)
    # An empty cache, and no word about being offline: a user's plain process.
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "PYTHON"))}
    done = subprocess.run(
        [python, SCRIPT, model, folder / f"{name}.safetensors"],
        env={**environment, "HF_HOME": str(folder / "empty")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return Rendering(json.loads(done.stdout), load_file(folder / f"{name}.safetensors")["latents"])


@pytest.fixture(scope="module", params=["SDXL's structure", "SSD-1B's structure and EDM's noise"])
def model(request: pytest.FixtureRequest, model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param.startswith("SDXL"):
        return model_dir
    folder = tmp_path_factory.mktemp("edm")
    small = shrink_architecture("ssd-1b", folder / "architecture")
    return make_marked_model(
        folder, "edm", {"edm_mean": [-1.5, 2.0, -1.5, 2.5], "edm_std": [8.0, 6.0, 6.5, 5.0]}, small
    )


@pytest.fixture(scope="module")
def current(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Rendering:
    return render_with(sys.executable, model, tmp_path_factory.mktemp("current"), "current")


def test_plain_diffusers_renders_the_folder_without_a_network(current: Rendering) -> None:
    assert int(current.facts["transformers"].partition(".")[0]) >= 5
    assert current.latents.shape == (4, 8, 8)
    assert current.latents.isfinite().all()


def test_an_older_pair_loads_the_same_numbers_and_renders_the_same(
    current: Rendering, model: Path, tmp_path: Path
) -> None:
    if not OLDER.is_file():
        pytest.skip("there is no .venv-older: run `make older` first")
    older = render_with(OLDER, model, tmp_path, "older")
    assert older.facts["diffusers"].startswith("0.34.")
    assert older.facts["transformers"].startswith("4.5")
    assert older.facts["tensors"] == current.facts["tensors"]
    assert older.facts["scheduler"] == current.facts["scheduler"]
    assert (older.latents - current.latents).abs().max() <= TOLERANCE


def test_a_tensor_that_the_folder_lacks_does_not_pass(model_dir: Path, tmp_path: Path) -> None:
    """The comparison in the script sees what a loader makes up; else the tests above would prove little."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(model_dir, tmp_path / "model")
    path = tmp_path / "model" / "text_encoder_2" / "model.fp16.safetensors"
    tensors = load_file(path)
    del tensors["text_projection.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(AssertionError, match=r"text_projection\.weight"):
        render_with(sys.executable, tmp_path / "model", tmp_path, "broken")
