"""`darkroom replay` of Darkroom's own pictures, with a real tiny model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from darkroom.base.hashing import hash_file
from darkroom.checkpoint.audit import audit_path
from darkroom.cli.command import main
from darkroom.config import parse_config
from darkroom.engine import Engine
from darkroom.pictures.png import encode_texts, read_png_text
from darkroom.replay.left_out import _read_file
from darkroom.replay.rendering import processors
from darkroom.request.render_request import RenderRequest
from darkroom.sheets.read import load_pictures
from tests.fixtures.assets import write_lora

OF_NOTHING = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def replay(models: Path, *arguments: object) -> int:
    return main(["replay", *map(str, arguments), "--models-dir", str(models), "--config", "none.yaml"])


def rewrite(picture: Path, output: Path, change: Callable[[dict[str, Any]], object], pixel: int = 0) -> Path:
    """The picture with other metadata, and with so many levels more in the red of two pixels."""
    texts = read_png_text(picture)
    made = json.loads(texts["darkroom"])
    change(made)
    image = Image.open(picture).convert("RGB")
    for place in ((3, 3), (40, 9)):
        red, green, blue = image.getpixel(place)  # type: ignore[misc]
        image.putpixel(place, (red + pixel if red < 128 else red - pixel, green, blue))
    output.write_bytes(encode_texts(image, texts | {"darkroom": json.dumps(made)}))
    return output


def copy_models(models: Path, folder: Path, model: str = "tiny") -> Path:
    """The models folder with links, its model under another name."""
    source = models / "diffusers/tiny"
    (folder / "diffusers").mkdir(parents=True)
    (folder / "diffusers" / model).symlink_to(source.resolve())
    shutil.copyfile(audit_path(source), folder / f"diffusers/{model}.audit.json")
    for kind in ("loras", "embeddings", "vaes"):
        shutil.copytree(models / kind, folder / kind)
    return folder


def test_pictures_are_made_again_bit_by_bit_with_one_load(
    models: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[Path] = []
    load = Engine.load.__func__  # type: ignore[attr-defined]
    monkeypatch.setattr(Engine, "load", classmethod(lambda cls, *a, **k: (loads.append(a[0]), load(cls, *a, **k))[1]))
    given = [pictures / f"{name}.png" for name in ("plain", "assets", "stages", "painted")]
    out = tmp_path / "out"
    assert replay(models, *given, "--check", "-o", out, "--input", pictures / "given") == 0
    said = capsys.readouterr()
    assert [line.partition(": ")[2].startswith("bitwise equal") for line in said.out.splitlines()] == [True] * 4
    assert said.err == ""
    assert len(loads) == 1
    assert [(out / path.name).read_bytes() for path in given] == [path.read_bytes() for path in given]


def test_models_are_found_by_their_hashes(
    models: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy_models(models, tmp_path / "models", "renamed")
    (folder / "loras/lines.safetensors").rename(folder / "loras/other name.safetensors")
    write_lora(folder / "loras/lines.safetensors", seed=9)  # another one under the picture's name
    older = rewrite(
        pictures / "assets.png", tmp_path / "older.png", lambda made: [made.pop("origin"), made.pop("made_on")]
    )
    assert replay(folder, pictures / "assets.png", older, "--check") == 0
    said = capsys.readouterr()
    assert said.out.count("bitwise equal") == 2
    assert "model 'tiny' is 'renamed' here, by its hash" not in said.err  # the audit still calls it tiny
    assert "lora 'lines' is 'other name' here, by its SHA-256" in said.err
    assert f"{older}: it doesn't say with how many threads it was made; rendered with " in said.err


def test_the_picture_says_what_is_missing(
    models: Path, pictures: Path, other_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another model, LoRA or file under the same name is never taken in its place."""
    folder = copy_models(models, tmp_path / "models")
    (folder / "diffusers/tiny").unlink()
    (folder / "diffusers/tiny").symlink_to(other_model)
    shutil.copyfile(audit_path(other_model), folder / "diffusers/tiny.audit.json")
    lora = hash_file(folder / "loras/lines.safetensors")
    write_lora(folder / "loras/lines.safetensors", seed=9)
    assert replay(folder, pictures / "plain.png", "--check") == 1
    error = capsys.readouterr().err
    sha256 = json.loads(read_png_text(pictures / "plain.png")["darkroom"])["origin"]["source_sha256"]
    assert error.startswith(f"E-MODEL model 'tiny [{sha256}]': is not in ")
    assert "the model of that name there is another one, 'tiny' [" in error

    shutil.copyfile(audit_path(models / "diffusers/tiny"), folder / "diffusers/tiny.audit.json")
    (folder / "diffusers/tiny").unlink()
    (folder / "diffusers/tiny").symlink_to((models / "diffusers/tiny").resolve())
    assert replay(folder, pictures / "assets.png", pictures / "painted.png", "-o", tmp_path / "out") == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f"E-LORA LoRA 'lines [{lora}]': no file in ") and "another one" in lines[0]
    assert lines[1].startswith("E-IMAGE picture ") and hash_file(pictures / "given/photo.jpg") in lines[1]
    assert "--input" in lines[1] and not (tmp_path / "out").exists()


def test_a_model_that_was_converted_otherwise_is_another_one(
    models: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = rewrite(pictures / "plain.png", tmp_path / "x.png", lambda made: made["origin"].update(vae_sha256="b" * 64))
    assert replay(models, other, "--check") == 1
    error = capsys.readouterr().err
    assert "E-MODEL model 'tiny [" in error and f"vae_sha256 is None there, {'b' * 64} in the picture" in error


@pytest.mark.parametrize(
    "bad", [OF_NOTHING, *(pytest.param(each, marks=pytest.mark.full) for each in ("", OF_NOTHING[:10]))]
)
def test_no_hash_and_that_of_nothing_tell_nothing_apart(
    models: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], bad: str
) -> None:
    def spoil(made: dict[str, Any]) -> None:
        made["model_hash"] = bad
        del made["origin"]
        made["assets"][0]["sha256"] = bad

    folder = copy_models(models, tmp_path / "models")
    (folder / "loras/empty.safetensors").touch()
    (folder / "loras/empty.receipt.json").write_text(json.dumps({"sha256": OF_NOTHING}))
    picture = rewrite(pictures / "assets.png", tmp_path / "spoilt.png", spoil)
    assert replay(folder, picture, "--check") == 0
    said = capsys.readouterr()
    assert "bitwise equal" in said.out
    assert "model 'tiny' is taken by its name alone: the picture has no hash of it" in said.err
    assert "lora 'lines' is taken by its name alone" in said.err


def test_a_difference_is_measured_and_its_causes_are_said(
    models: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def older(made: dict[str, Any]) -> None:
        made["versions"]["torch"] = "2.0.0"
        made["revision"] = [1]
        made["made_on"] |= {"processor": "Z80", "dtype": "bf16", "threads": 4096}

    plain = rewrite(pictures / "plain.png", tmp_path / "plain.png", lambda made: None, pixel=1)
    other = rewrite(pictures / "plain.png", tmp_path / "other.png", older, pixel=1)
    assert replay(models, plain, other, "--check", "--dtype", "fp32") == 3
    said = capsys.readouterr()
    one, two = said.out.splitlines()
    assert f"{plain}: differs by at most 1 level of 255 in 2 of 4,096 pixels, SSIM 0.99" in one
    assert one.endswith("nothing that the picture states differs")
    for words in ("torch was 2.0.0, is ", "revision was 1, is 2", "processor was Z80, is ", "dtype was bf16, is fp32"):
        assert words in two
    assert "threads was 4096, is " in two
    usual = torch.get_num_threads()
    assert (
        f"made with 4096 threads, rendered with {usual}: there are {processors()} processors. --threads 4096"
        in said.err
    )


def test_it_computes_with_the_pictures_number_of_threads(
    models: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = torch.get_num_threads()
    own, other = pictures / "plain.png", tmp_path / "other.png"
    rewrite(own, other, lambda made: made["made_on"].update(threads=usual + 1))
    code = replay(models, own, other, "--check", "--threads", usual + 1)
    lines = capsys.readouterr().out.splitlines()
    assert code in (0, 3)  # another number of threads may change a last bit
    assert f", {usual + 1} threads" in lines[0] and f"threads was {usual}, is {usual + 1}" in lines[0]
    assert f", {usual + 1} threads" in lines[1] and "threads was" not in lines[1]
    assert torch.get_num_threads() == usual
    assert replay(models, own, "--check") == 0
    assert f"plain.png: bitwise equal, {usual} thread" in capsys.readouterr().out


def test_what_was_compiled_is_compiled_again(
    models: Path,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled: list[str] = []
    monkeypatch.setattr("darkroom.engine.engine.compile_blocks", lambda _, device: compiled.append(device))
    other = rewrite(pictures / "plain.png", tmp_path / "a.png", lambda made: made["made_on"].update(compile="regional"))
    foreign = tmp_path / "b.png"
    rewrite(other, foreign, lambda made: made["made_on"].update(device="cuda"), pixel=1)
    assert replay(models, pictures / "plain.png", other, foreign, "--check") == 3
    assert compiled == ["cpu"], "for the picture that was compiled on a device of this kind"
    lines = capsys.readouterr().out.splitlines()
    assert ["compile was regional, is none" in line for line in lines] == [False, False, True]


def test_a_picture_that_was_enlarged_afterwards_is_enlarged_again(
    models: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    larger = tmp_path / "larger.png"
    upscale = ["upscale", str(pictures / "plain.png"), "-o", str(larger), "--model", "Lanczos", "--scale", "2"]
    assert main([*upscale, "--models-dir", str(models)]) == 0
    assert replay(models, larger, "--check") == 0
    assert "larger.png: bitwise equal" in capsys.readouterr().out


def test_a_lossy_file_of_a_picture_holds_the_same_metadata(
    models: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lossy, again = tmp_path / "plain.webp", tmp_path / "again.png"
    assert main(["encode", str(pictures / "plain.png"), "-o", str(lossy)]) == 0
    capsys.readouterr()
    assert replay(models, lossy, "-o", again, "--check") == 3
    line = capsys.readouterr().out
    assert "differs by at most " in line and "its file is lossy" in line
    assert again.read_bytes() == (pictures / "plain.png").read_bytes()


def test_a_picture_without_its_prompts_is_not_made_without_them(
    models: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    silent = tmp_path / "silent.png"
    model = str(models / "diffusers/tiny")
    quick = ["--width", "64", "--height", "64", "--steps", "1", "--device", "cpu", "--metadata", '{"prompt": false}']
    assert main(["render", model, "--prompt", "a star", *quick, "-o", str(silent)]) == 0
    assert replay(models, silent, "--check") == 1
    assert "was written without its prompts" in capsys.readouterr().err

    # A manifest above it has them, and counts if it is about this very request.
    folder, again = tmp_path / "results/demo/tiny", tmp_path / "again.png"
    folder.mkdir(parents=True)
    picture = folder / "silent.png"
    shutil.copyfile(silent, picture)
    request = {"width": 64, "height": 64, "steps": 1, "prompt": "a star"}
    for prompt, code in (("a moon", 1), ("a star", 0)):
        manifest = f'{{"request": 1}}\n{json.dumps({"request": request | {"prompt": prompt}})}\n'
        (tmp_path / "results/manifest.jsonl").write_text(manifest)
        _read_file.cache_clear()
        assert replay(models, picture, "--check", "-o", again) == code
    assert "bitwise equal" in capsys.readouterr().out
    assert again.read_bytes() == silent.read_bytes() and b"a star" not in again.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "E-REQUEST replay: has nothing to do."),
        (["--check", "--sheet", "x.yaml"], "E-REQUEST --sheet 'x.yaml': renders nothing."),
        (["-o", "x.gif"], "E-REQUEST output 'x.gif'"),
        (["--check", "--threads", "0"], "E-REQUEST --threads '0'"),
        (["--check", "--input", "nowhere"], "E-REQUEST --input 'nowhere': does not exist"),
        (["-o", "PICTURE"], "is a picture that is replayed"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    models: Path, pictures: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    picture = pictures / "plain.png"
    before = picture.read_bytes()
    assert replay(models, picture, *(picture if each == "PICTURE" else each for each in arguments)) == 2
    assert words in capsys.readouterr().err
    assert picture.read_bytes() == before


def test_a_sheet_of_own_pictures_makes_them_again(
    models: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = tmp_path / "again.yaml"
    given = [pictures / f"{name}.png" for name in ("plain", "assets", "stages", "painted")]
    assert replay(models, *given, "--sheet", sheet) == 0
    assert "left out: painted: it begins with another picture" in sheet.read_text()
    assert replay(models, *given, "--sheet", sheet, "--input", pictures / "given") == 0
    assert f"{sheet}: 4 pictures" in capsys.readouterr().out
    names = {"loras": "lines", "embeddings": "easy", "vaes": "fixed"}
    sources = {kind: {name: {"source": "x.safetensors"}} for kind, name in names.items()}
    config = parse_config({"checkpoints": {"tiny": {"source": "x"}}, "sheets": [str(sheet)], **sources})
    planned = [picture.request for picture in load_pictures(config)["again"] if picture.is_result]
    stated = [json.loads(read_png_text(path)["darkroom"])["request"] for path in given]
    assert planned == [RenderRequest.model_validate(request) for request in stated]

    lossy = tmp_path / "stages.avif"
    assert main(["encode", str(given[2]), "-o", str(lossy)]) == 0
    imported = tmp_path / "imported.yaml"
    sources = [str(lossy), str(given[1]), "--models", str(models)]
    assert main(["import-prompts", *sources, "--output", str(imported)]) == 0
    names |= {"checkpoints": "tiny"}
    sources = {kind: {name: {"source": "x.safetensors"}} for kind, name in names.items()}
    config = parse_config({"sheets": [str(imported)], **sources})
    again = [picture.request for picture in load_pictures(config)["imported"] if picture.is_result]
    assert again == [planned[2], planned[1]]


def test_a_reader_that_has_read_enough_is_no_error(pictures: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "darkroom.cli", "show", str(pictures / "plain.png")]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (128 + 13, b"")
