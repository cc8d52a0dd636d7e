"""`darkroom replay` of pictures whose stages have another checkpoint, with real tiny models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from darkroom.checkpoint import convert
from darkroom.checkpoint.audit import audit_path, read_audit
from darkroom.cli.command import main
from darkroom.config import parse_config
from darkroom.engine import Engine
from darkroom.pictures.png import read_png_text
from darkroom.request.render_request import RenderRequest
from darkroom.serve.legs import with_names
from darkroom.sheets.read import load_pictures
from tests.unit.replay.conftest import QUICK, SMALL
from tests.unit.replay.test_replay_own import replay, rewrite

CHAIN = ("--then", "hires: {scale: 1.5, checkpoint: half}", "--then", "img2img: {denoising_strength: 0.5}")


def link(source: Path, folder: Path, name: str) -> None:
    """The model in a models folder, under that name."""
    (folder / "diffusers").mkdir(parents=True, exist_ok=True)
    (folder / "diffusers" / name).symlink_to(source.resolve())
    shutil.copyfile(audit_path(source), folder / f"diffusers/{name}.audit.json")


@pytest.fixture(scope="module")
def both(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder in which `half` is the checkpoint of `tiny`, converted to another number format."""
    folder = tmp_path_factory.mktemp("chains")
    link(model_dir, folder, "tiny")
    convert(model_dir.parent / "tiny.safetensors", folder / "diffusers/half", dtype="bf16")
    return folder


@pytest.fixture(scope="module")
def chains(both: Path, pictures: Path) -> Path:
    """Pictures of `tiny` that `half` makes a stage of: `one.png`, `two.png`, and `given.png` of which it makes all."""
    folder = both / "pictures"
    folder.mkdir()
    for name, seed in (("one", "1"), ("two", "2")):
        given = ("--prompt", "a cat", "--seed", seed, *SMALL, *CHAIN, "--output", str(folder / f"{name}.png"))
        assert main(["render", str(both / "diffusers/tiny"), *given]) == 0
    stage = "img2img: {checkpoint: half, denoising_strength: 0.6, prompt: a dog}"
    given = ("--image", str(pictures / "plain.png"), "--then", stage, *QUICK, "--output", str(folder / "given.png"))
    assert main(["render", str(both / "diffusers/tiny"), *given]) == 0
    return folder


def test_chains_are_made_again_bit_by_bit_with_one_load_a_turn(
    both: Path, chains: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    loads: list[str] = []
    load = Engine.load.__func__  # type: ignore[attr-defined]
    monkeypatch.setattr(
        Engine, "load", classmethod(lambda cls, *a, **k: (loads.append(a[0].name), load(cls, *a, **k))[1])
    )
    given = [chains / f"{name}.png" for name in ("one", "given", "two")]
    assert replay(both, *given, "--check", "-o", tmp_path, "--input", pictures) == 0
    said = capsys.readouterr()
    assert said.out.count("bitwise equal") == 3 and said.err == ""
    assert loads == ["tiny", "half", "tiny"]
    assert [(tmp_path / path.name).read_bytes() for path in given] == [path.read_bytes() for path in given]
    origin = json.loads(read_png_text(chains / "one.png")["darkroom"])["assets"][0]["origin"]
    assert origin["dtype_out"] == "bf16"


def test_checkpoints_of_stages_are_found_by_hash_before_name(
    both: Path, chains: Path, other_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    audit = read_audit(both / "diffusers/half")
    assert audit is not None
    renamed = tmp_path / "renamed"
    link(both / "diffusers/tiny", renamed, "tiny")
    link(both / "diffusers/half", renamed, "elsewhere")
    (renamed / "diffusers/elsewhere").unlink()
    shutil.copytree(both / "diffusers/half", renamed / "diffusers/elsewhere")
    path = audit_path(renamed / "diffusers/elsewhere")
    path.write_text(path.read_text().replace('"half"', '"elsewhere"'))
    link(other_model, renamed, "half")
    assert replay(renamed, chains / "one.png", "--check") == 0
    said = capsys.readouterr()
    assert "bitwise equal" in said.out and "model 'half' is 'elsewhere' here, by its hash" in said.err

    shutil.rmtree(renamed / "diffusers/elsewhere")
    assert replay(renamed, chains / "one.png", "--check") == 1
    error = capsys.readouterr().err
    assert f"E-MODEL model 'half [{audit.source_sha256}]': was converted otherwise as 'tiny': dtype_out is fp" in error

    nothing = tmp_path / "nothing"
    link(other_model, nothing, "half")
    model = ("--model", both / "diffusers/tiny")
    assert replay(nothing, chains / "one.png", "--check", *model) == 1
    error = capsys.readouterr().err
    assert f"E-MODEL model 'half [{audit.source_sha256}]': is not in " in error and "model of that name there" in error


def test_a_model_that_no_stage_needs_is_not_ignored_without_a_word(
    both: Path, chains: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = both / "diffusers/tiny"
    assert replay(both, chains / "given.png", "--check", "--input", pictures, "--model", model) == 0
    said = capsys.readouterr()
    assert "bitwise equal" in said.out
    assert f"{model} is not used: the checkpoints of its stages make all of it" in said.err


def test_a_picture_that_states_no_conversion_is_told_by_its_name(
    both: Path, chains: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    older = rewrite(chains / "one.png", tmp_path / "one.png", lambda made: made["assets"][0].pop("origin"))
    assert replay(both, older, "-o", tmp_path / "again.png") == 0
    assert (tmp_path / "again.png").read_bytes() == (chains / "one.png").read_bytes()
    capsys.readouterr()
    other = rewrite(
        older,
        tmp_path / "other.png",
        lambda made: [
            made["assets"][0].update(name="full"),
            made["request"]["stages"][0]["hires"].update(checkpoint="full"),
        ],
    )
    assert replay(both, other, "--check") == 1
    assert "its hash is that of several models: half, tiny" in capsys.readouterr().err


def test_a_sheet_names_the_checkpoints_of_stages_as_they_are_here(
    both: Path, chains: Path, pictures: Path, tmp_path: Path
) -> None:
    renamed, sheet = tmp_path / "models", tmp_path / "again.yaml"
    link(both / "diffusers/tiny", renamed, "tiny")
    (renamed / "diffusers/fp").symlink_to(both / "diffusers/half")
    assert replay(renamed, chains / "one.png", chains / "given.png", "--sheet", sheet, "--input", pictures) == 0
    config = parse_config({"checkpoints": {"tiny": {"source": "x"}, "fp": {"source": "x"}}, "sheets": [str(sheet)]})
    planned = [picture.request for picture in load_pictures(config)["again"] if picture.is_result]
    # All of the second picture is made by the stage's checkpoint, which is its own one in a sheet.
    for name, own, request in zip(("one", "given"), ("tiny", "fp"), planned, strict=True):
        stated = RenderRequest.model_validate(json.loads(read_png_text(chains / f"{name}.png")["darkroom"])["request"])
        assert request == with_names(stated, lambda _: "fp", own)
