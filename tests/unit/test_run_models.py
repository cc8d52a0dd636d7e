"""What is broken of a finished model, and how little has to be made again for it; all commands run in this process."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

import pytest

from darkroom.cli.command import main
from darkroom.config import parse_config
from darkroom.run.models import inspect_model
from darkroom.run.repair import find_commands
from darkroom.run.sources import Key, Sources, inspect_sources
from tests.fixtures.assets import write_vae
from tests.fixtures.checkpoints import write_random_checkpoint

CHECKPOINT, VAE = ("checkpoints", "tiny"), ("vaes", "fixed")
CONFIG = {
    "checkpoints": {"tiny": {"source": "tiny.safetensors", "vae": "fixed"}},
    "vaes": {"fixed": {"source": "fixed.safetensors"}},
    "sheets": ["x.txt"],
}
UNET = "models/diffusers/tiny/unet/diffusion_pytorch_model.fp16.safetensors"
MODEL, VERIFIED = "models/diffusers/tiny", "models/verified/tiny.json"


def look() -> Sources:
    return inspect_sources(parse_config(CONFIG))


def run(commands: list[list[str]]) -> None:
    for command in commands:
        assert main(command) == 0


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    write_random_checkpoint(folder / "tiny.safetensors")
    write_vae(folder / "fixed.safetensors", seed=4)
    with chdir(folder):
        sources = look()
        run(list(find_commands(sources, VAE, [Path("models/vaes/fixed.safetensors")])))
        run(list(find_commands(sources, CHECKPOINT, [Path(MODEL), Path(VERIFIED)])))
    return folder


@pytest.fixture
def here(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished folder with its times, as the working folder."""

    shutil.copytree(finished, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def broken(*, recorded: bool = True) -> dict[Key, list[str]]:
    """What is broken by source; a stale file would mean that pictures are rendered again."""
    sources = look()
    params = [repr(sources.conversion("tiny"))] if recorded else []
    states = {key: inspect_model(sources, key, lambda _: params) for key in sources.states}
    assert not any(state.stale or state.difference for state in states.values())
    assert all(state.is_current == (not state.broken) for state in states.values())
    return {key: [str(path) for path in state.broken] for key, state in states.items() if state.broken}


def flip(path: str) -> None:
    data = bytearray(Path(path).read_bytes())
    data[len(data) // 2] ^= 255
    Path(path).write_bytes(data)


def unlink(path: str) -> None:
    Path(path).unlink()


def empty(path: str) -> None:
    Path(path).write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "path", "found"),
    [
        (flip, UNET, {CHECKPOINT: [MODEL, VERIFIED]}),
        (unlink, UNET, {CHECKPOINT: [MODEL, VERIFIED]}),
        (unlink, VERIFIED, {CHECKPOINT: [VERIFIED]}),
        (
            empty,
            "models/diffusers/tiny.audit.json",
            {CHECKPOINT: ["models/diffusers/tiny.audit.json", MODEL, VERIFIED]},
        ),
        (unlink, "models/checkpoints/tiny.receipt.json", {CHECKPOINT: ["models/checkpoints/tiny.receipt.json"]}),
        (flip, "models/checkpoints/tiny.safetensors", {CHECKPOINT: ["models/checkpoints/tiny.safetensors"]}),
        (unlink, "models/vaes/fixed.receipt.json", {VAE: ["models/vaes/fixed.receipt.json"]}),
        (empty, "models/vaes/fixed.receipt.json", {VAE: ["models/vaes/fixed.receipt.json"]}),
        (unlink, "models/vaes/fixed.safetensors", {VAE: ["models/vaes/fixed.safetensors"]}),
        (flip, "models/vaes/fixed.safetensors", {VAE: ["models/vaes/fixed.safetensors"]}),
        (unlink, "models/diffusers/tiny.hashes.json", {}),
        (unlink, "models/checkpoints/tiny.safetensors", {}),
    ],
)
def test_what_is_broken_is_found_and_repaired_as_it_was(
    damage: Callable[[str], None], path: str, found: dict[Key, list[str]], here: Path
) -> None:
    before = {each: each.read_bytes() for each in Path("models").rglob("*.json") if ".hashes" not in each.name}
    damage(path)
    assert broken() == found
    sources = look()
    for key, paths in found.items():
        run(list(find_commands(sources, key, list(map(Path, paths)))))
    assert broken() == {}
    after = {each: each.read_bytes() for each in before if each.parent.name != ".cache"}
    assert after == {each: data for each, data in before.items() if each.parent.name != ".cache"}


def test_a_copy_that_nothing_needs_is_left_alone_where_its_source_is_gone(here: Path) -> None:
    flip("models/checkpoints/tiny.safetensors")
    unlink("tiny.safetensors")
    assert broken() == {}


def test_a_folder_copied_without_its_times_is_whole(here: Path) -> None:
    for path in here.rglob("*"):
        os.utime(path)
    assert broken() == {}


def test_a_verification_that_never_ended_is_left_to_snakemake(here: Path) -> None:
    unlink(VERIFIED)
    sources = look()
    state = inspect_model(sources, CHECKPOINT, lambda _: [])
    assert (state.is_current, state.broken, state.stale) == (False, (), ())


def test_a_receipt_of_the_folder_before_is_left_to_snakemake_and_pictures_follow(here: Path) -> None:
    receipt = Path(VERIFIED).read_text()
    sha256 = json.loads(receipt)["files"]["unet/config.json"]["sha256"]
    Path(VERIFIED).write_text(receipt.replace(sha256, "0" * 64))
    sources = look()
    state = inspect_model(sources, CHECKPOINT, lambda _: [repr(sources.conversion("tiny"))])
    assert (state.is_current, state.broken, state.stale) == (False, (), (Path(VERIFIED),))
