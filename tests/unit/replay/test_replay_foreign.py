"""`darkroom replay` of other tools' pictures: what is known of them is rendered, and everything else is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from darkroom.cli.command import main
from darkroom.pictures.png import read_png_text

INFOTEXT = """\
a star{tag}
Negative prompt: blurry
Steps: 2, Sampler: Euler, Schedule type: Automatic, CFG scale: 3, Seed: 7, Size: 64x64, Model hash: {hash}, Model: {model}, \
Face restoration: CodeFormer, Token merging ratio: 0.5, Version: v1.10.1"""


def write(path: Path, tag: str = "", hash: str = "0123456789", model: str = "tiny") -> Path:
    texts = PngInfo()
    texts.add_text("parameters", INFOTEXT.format(tag=tag, hash=hash, model=model))
    Image.new("RGB", (64, 64), "red").save(path, pnginfo=texts)
    return path


@pytest.fixture
def config(models: Path, tmp_path: Path) -> Path:
    file = tmp_path / "config.yaml"
    file.write_text(f"checkpoints: {{tiny: {{source: tiny.safetensors}}}}\nmodels_dir: {models}\n")
    return file


def test_what_is_known_is_rendered_and_the_rest_is_said(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, output = write(tmp_path / "given.png", hash=""), tmp_path / "out.png"
    assert main(["replay", str(picture), "-o", str(output), "--check", "--config", str(config)]) == 3
    said = capsys.readouterr()
    request = json.loads(read_png_text(output)["darkroom"])["request"]
    assert (request["prompt"], request["negative_prompt"], request["seed"]) == ("a star", "blurry", 7)
    assert (request["steps"], request["cfg_scale"], request["width"]) == (2, 3, 64)
    assert "not used: Face restoration: CodeFormer" in said.err and "not used: Token merging ratio: 0.5" in said.err
    assert "checkpoint tiny is tiny, by its name" in said.err
    assert f"{picture}: differs by at most " in said.out and "made by " in said.out


def test_a_model_and_a_lora_that_are_not_there_are_named_with_their_hash(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lora = write(tmp_path / "lora.png", tag=" <lora:gone:1>")
    model = write(tmp_path / "model.png", model="another", hash="abcdef0123")
    assert main(["replay", str(lora), str(model), "--check", "--config", str(config)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("E-LORA LoRA 'gone'") and "no LoRA" in lines[0]
    assert lines[1].startswith("E-MODEL model 'another [abcdef0123]'") and "abcdef0123" in lines[1]


def test_a_sheet_of_them_says_what_was_left_out(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = tmp_path / "found.yaml"
    assert main(["replay", str(write(tmp_path / "a.png")), "--sheet", str(sheet), "--config", str(config)]) == 0
    assert "a: not used: Face restoration: CodeFormer" in capsys.readouterr().err
    text = sheet.read_text()
    assert "# not used: Face restoration: CodeFormer" in text and '"a star"' in text
