"""Conversions give the same bytes as ever: folders and audits by their SHA256.

Where revisions.CONVERT or a config was changed on purpose, take the digests over from the failures.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darkroom.checkpoint import Expected, convert
from tests.fixtures.checkpoints import extra_tensors, random_tensors, write_random_checkpoint, write_tensors
from tests.fixtures.folders import TEXT, files_below, flatten_names, shard
from tests.fixtures.tiers import full_except

DEMO = Path(__file__).parents[3] / "workflow/resources/demo/darkroom-demo.safetensors"
UNET, VAE = "model.diffusion_model.", "first_stage_model."
DIGESTS = {
    "tiny-fp16": "399e8456ec51337740ae956020f62354f6593d1ea5a9331072de5af132206ee9",
    "tiny-fp32": "82a3ba03f87b97f50b13ec87adb2558ff2988079bf9bfdc119cdd51c6a8979b2",
    "tiny-bf16": "f2e9581bc7edcb03950e2833e1e85226908a5612103e8234a68e0e052c022c87",
    "tiny-keep": "8dc14061a36f667a03112c50c00e13dd64f8e823a02bf2c3926a85ccb7a680cc",
    "tiny-v": "39aec4536f48a46e24349e76669b2a0d32404b8326a927f15597f1ae414d3ba6",
    "fp8": "71a51804c49a575d1c0c13c31f798a0c04d4fd033d72ccfd150ce9d896bbf64e",
    "ema": "2aa8befa4f2d174625de71435ae8aec039cf65346a05cb34f5db38bb30e97660",
    "edm": "ca8e5e06062cdac58727967ded6f2eedcddbcc743ae24cb9be1d4f87277754d9",
    "adopt-flat": "8652c2307f9edfec58b335069aa6c89f2d373bfcfedb94995b1476f97ac8e235",
    "demo": "f269060cdc1c4ccf586071341d98d0365ea3a4260fa48f88a4220d1f2c6ccc03",
    "vae": "61d88968cc606bba9823b82b6b6bba5ac03e53cbf1405061558f7d943cada749",
}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digest(model: Path) -> str:
    """One SHA256 of a folder's files and its audit."""
    lines = [f"{relative} {sha256(model / relative)}\n" for relative in files_below(model)]
    return hashlib.sha256("".join([*lines, sha256(model.with_name(f"{model.name}.audit.json"))]).encode()).hexdigest()


def tiny(folder: Path) -> Path:
    return write_random_checkpoint(folder / "ck.safetensors")


def with_ema(folder: Path) -> Path:
    tensors = random_tensors()
    names = {key: "model_ema." + key.removeprefix("model.").replace(".", "") for key in tensors if key.startswith(UNET)}
    ema = {name: tensors[key] for key, name in names.items()}
    return write_tensors(folder / "ema.safetensors", tensors | ema | extra_tensors())


def with_edm_noise(folder: Path) -> Path:
    markers = {"edm_mean": np.zeros(4, np.float32), "edm_std": np.ones(4, np.float32)}
    tensors = random_tensors() | extra_tensors() | markers
    return write_tensors(folder / "edm.safetensors", tensors, lambda key: "F32" if key in markers else "F16")


def vae(folder: Path) -> Path:
    tensors = {key.removeprefix(VAE): value for key, value in random_tensors(seed=5).items() if key.startswith(VAE)}
    return write_tensors(folder / "vae.safetensors", tensors)


def changed_folder(folder: Path) -> Path:
    """A folder whose first text encoder has flattened names and whose UNet is in shards."""
    convert(tiny(folder), folder / "tiny-fp16")
    shutil.copytree(folder / "tiny-fp16", folder / "flat")
    flatten_names(folder / "flat" / TEXT)
    shard(folder / "flat", "unet")
    return folder / "flat"


CASES: dict[str, tuple[Callable[[Path], Path], dict[str, Any]]] = {
    "tiny-fp16": (tiny, {}),
    "tiny-fp32": (tiny, {"dtype": "fp32"}),
    "tiny-bf16": (tiny, {"dtype": "bf16"}),
    "tiny-keep": (tiny, {"dtype": "keep"}),
    "tiny-v": (tiny, {"prediction": "v_prediction", "parameterization": "eps"}),
    "fp8": (
        lambda folder: write_random_checkpoint(folder / "fp8.safetensors", dtype="F8_E4M3", seed=4),
        {"dtype": "keep"},
    ),
    "ema": (with_ema, {"extract_ema": True}),
    "edm": (with_edm_noise, {}),
    "adopt-flat": (changed_folder, {}),
    "demo": (lambda _: DEMO, {}),
}


@pytest.mark.parametrize("case", full_except(["tiny-fp16", "fp8", "adopt-flat"], CASES))
def test_a_conversion_gives_the_same_bytes_as_ever(case: str, tmp_path: Path) -> None:
    make, options = CASES[case]
    convert(make(tmp_path), tmp_path / case, **options)
    assert digest(tmp_path / case) == DIGESTS[case]


def test_a_conversion_with_receipts_and_another_vae_gives_the_same_bytes_as_ever(tmp_path: Path) -> None:
    source, other = tiny(tmp_path), vae(tmp_path)
    convert(source, tmp_path / "vae", vae=other, expected=Expected(sha256(source), sha256(other)))
    assert digest(tmp_path / "vae") == DIGESTS["vae"]
