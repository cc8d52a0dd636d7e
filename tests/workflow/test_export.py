"""`darkroom export` after a real run with a real engine, and `darkroom replay --check` of what comes out."""

from __future__ import annotations

import hashlib
import json
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from darkroom.cli.command import main
from tests.fixtures.assets import write_lora
from tests.fixtures.checkpoints import write_random_checkpoint
from tests.workflow.project import Project

SHEET = """\
styles_file: prompts/styles.csv
wildcards: {where: prompts/places.txt}
axes: {cfg: {cfg_scale: [3, 5]}}
prompts:
  - {id: star, prompt: "a star <lora:lines:0.5> ${where}", styles: [ink], seeds: [1], then: [{inpaint: {mask: masks/mask.png}}, {img2img: {denoising_strength: 0.5, checkpoint: other}}]}
"""
SECRET = "hf_abcdefghijklmnopqrstu"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A finished study by a real engine. Not to be changed."""
    with Project(tmp_path_factory.mktemp("study"), is_real=True) as project:
        project.write("prompts/styles.csv", "name,prompt,negative_prompt\nink,{prompt} in ink,blurry\n")
        project.write("prompts/places.txt", "on a hill\n")
        (project.folder / "masks").mkdir()
        Image.new("L", (64, 64), 255).save(project.folder / "masks/mask.png")
        write_lora(project.folder / "lines.safetensors")
        write_random_checkpoint(project.folder / "other.safetensors", seed=1)
        both = {"tiny": {"source": "checkpoint.safetensors"}, "other": {"source": "other.safetensors", "dtype": "bf16"}}
        sheet = f"checkpoints: tiny\n{SHEET}"
        project.set_up(sheet, "results/", loras={"lines": {"source": "lines.safetensors"}}, checkpoints=both)
        with (project.folder / "config/config.yaml").open("a") as config:
            config.write(f"# fetched from https://me:{SECRET}@example.org/x.safetensors?token={SECRET}\n")
        yield project


@pytest.fixture
def here(made: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(made.folder)
    return made


@pytest.fixture
def packed(here: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    output = tmp_path / "study.zip"
    assert main(["export", "first", "-o", str(output)]) == 0
    capsys.readouterr()
    return output


def test_it_packs_all_that_made_a_sheet_and_no_more(
    here: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIVITAI_TOKEN", "a-secret-of-the-environment")
    outputs = [tmp_path / "one.zip", tmp_path / "two.zip"]
    for output in outputs:
        assert main(["export", "first", "--output", str(output)]) == 0
    said = capsys.readouterr()
    assert f"{outputs[0]}: 6 pictures, " in said.out
    assert "config/config.yaml: secrets in it are masked in the archive" in said.err
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    with zipfile.ZipFile(outputs[0]) as archive:
        names = archive.namelist()
        data = {name: archive.read(name) for name in names}
    pictures = [name for name in names if name.startswith("results/first/tiny/")]
    assert len(pictures) == 6 and all(data[name] == (here.folder / name).read_bytes() for name in pictures)
    assert {
        *("README.md", "SHA256SUMS", "export.json", "versions.txt", "masks/mask.png", "config/config.yaml"),
        *("prompts/first.yaml", "prompts/styles.csv", "prompts/places.txt"),
        *("results/manifest.jsonl", "results/first/contact-sheet.png", "results/first/grid.png"),
        *("results/first/study.csv", "results/first/study.html"),
        *(
            "receipts/checkpoints/tiny.receipt.json",
            "receipts/diffusers/tiny.audit.json",
            "receipts/verified/tiny.json",
        ),
        "receipts/loras/lines.receipt.json",
        *("receipts/checkpoints/other.receipt.json", "receipts/diffusers/other.audit.json"),
    } <= set(names)
    assert not [name for name in names if name.endswith(".safetensors")]
    assert not [name for name, content in data.items() if SECRET.encode() in content or b"a-secret-of" in content]
    assert str(here.folder).encode() not in b"".join(data.values())
    versions = data["versions.txt"].decode().splitlines()
    assert versions[0].startswith("# Python 3.") and {"torch", "diffusers"} <= {v.partition("==")[0] for v in versions}
    files = json.loads(data["export.json"])["files"]
    assert {name: hashlib.sha256(content).hexdigest() for name, content in data.items()} == {
        **{name: file["sha256"] for name, file in files.items()},
        **{name: hashlib.sha256(data[name]).hexdigest() for name in ("export.json", "SHA256SUMS")},
    }


def test_the_zip_and_the_unpacked_folder_hold(
    here: Project, packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "unpacked"
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(folder)
    assert subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder, check=False).returncode == 0
    assert main(["replay", "--check", str(packed), str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("bitwise equal" in line and ".png: " in line for line in lines) == 12
    assert f"{packed}: 6 of 6 pictures rendered again and bitwise equal" in lines
    assert f"{folder}: 6 of 6 pictures rendered again and bitwise equal" in lines

    monkeypatch.chdir(folder)  # where the models aren't
    before = sorted(folder.rglob("*"))
    assert main(["replay", "--check", "."]) == 0
    said = capsys.readouterr()
    assert "files as exported" in said.out and "E-MODEL model 'tiny [" in said.err and "models/" in said.err
    assert sorted(folder.rglob("*")) == before


def test_what_was_changed_is_named(
    here: Project, packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "changed"
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(folder)
    picture = next(path for path in sorted((folder / "results/first/tiny").iterdir()))
    picture.write_bytes(picture.read_bytes()[:-1])
    (folder / "prompts/places.txt").write_text("in a valley\n")
    (folder / "results/first/study.csv").unlink()
    (folder / "notes.txt").write_text("mine")
    assert main(["replay", "--check", str(folder), "--models-dir", str(tmp_path / "none")]) == 3
    said = capsys.readouterr()
    assert f"{picture}: has other bytes than were exported" in said.out
    assert f"{folder / 'prompts/places.txt'}: has other bytes than were exported" in said.out
    assert f"{folder / 'results/first/study.csv'}: is missing" in said.out
    assert "1 file in it was not exported" in said.err


def test_an_unfinished_sheet_is_not_packed(
    made: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with made.copy(tmp_path / "project") as project:
        monkeypatch.chdir(project.folder)
        output = tmp_path / "study.zip"
        assert main(["export", "frist", "-o", str(output)]) == 2
        assert "E-SHEET sheet 'frist'" in capsys.readouterr().err
        picture = sorted((project.results / "first/tiny").iterdir())[0]
        picture.with_suffix(".webp").write_bytes(b"left by a run with another output.format")
        assert main(["export", "first", "-o", str(output)]) == 0
        with zipfile.ZipFile(output) as archive:
            assert f"results/first/tiny/{picture.stem}.webp" not in archive.namelist()
        output.unlink()
        capsys.readouterr()
        picture.unlink()
        assert main(["export", "first", "-o", str(output)]) == 1
        error = capsys.readouterr().err
        assert error.startswith("E-IMAGE export of 'first': ") and picture.name in error and "snakemake" in error
        assert not output.exists()
