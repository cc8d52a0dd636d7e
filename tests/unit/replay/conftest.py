"""A models folder with a tiny model, and a few pictures of it, made by the command."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from darkroom.base.hashing import hash_file
from darkroom.checkpoint.audit import audit_path
from darkroom.cli.command import main
from tests.fixtures.assets import write_embedding, write_lora, write_vae
from tests.fixtures.checkpoints import make_model_dir

QUICK = ("--steps", "2", "--device", "cpu")
SMALL = ("--width", "64", "--height", "64", *QUICK)
Render = Callable[..., Path]


@pytest.fixture(scope="session")
def models(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder as the workflow leaves it. Not to be changed: copy it first."""
    folder = tmp_path_factory.mktemp("replay-models")
    (folder / "diffusers").mkdir()
    (folder / "diffusers/tiny").symlink_to(model_dir)
    shutil.copyfile(audit_path(model_dir), folder / "diffusers/tiny.audit.json")
    write_lora(folder / "loras/lines.safetensors")
    write_embedding(folder / "embeddings/easy.safetensors")
    write_vae(folder / "vaes/fixed.safetensors", seed=4)
    return folder


@pytest.fixture(scope="session")
def pictures(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `plain.png`, `assets.png`, `stages.png` and, from `photo.jpg` with `mask.png`, `painted.png`."""
    folder = tmp_path_factory.mktemp("replay-pictures")
    given = folder / "given"
    given.mkdir()
    Image.linear_gradient("L").resize((60, 64)).convert("RGB").save(given / "photo.jpg")
    Image.new("L", (60, 64), 255).save(given / "mask.png")
    model = str(models / "diffusers/tiny")

    def render(name: str, *arguments: str) -> None:
        assert main(["render", model, *arguments, "--output", str(folder / name)]) == 0

    render("plain.png", *SMALL, "--prompt", "a star", "--seed", "7")
    assets = ("--prompt", "easy star <lora:lines:0.5>", "--vae", "fixed")
    render("assets.png", *SMALL, *assets)
    stages = ("--then", "hires: {upscaler: Lanczos, denoising_strength: 0.5}", "--then", "upscale: {scale: 1.5}")
    render("stages.png", *SMALL, "--prompt", "a star", *stages)
    paint = ("--image", str(given / "photo.jpg"), "--then", f"inpaint: {{mask: {given / 'mask.png'}}}")
    render("painted.png", *QUICK, "--prompt", "a star", *paint)
    return folder


@pytest.fixture(scope="session")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with other weights under the same name."""
    return make_model_dir(tmp_path_factory.mktemp("other"), seed=5)


def sha256(path: Path) -> str:
    return hash_file(path)
