"""`darkroom check`, `darkroom show` and `darkroom --version`: what is wrong, what made a picture, what is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from darkroom import __version__
from darkroom.cli.command import main
from darkroom.pictures.formats import FORMATS, convert_png
from darkroom.pictures.infotext import write_infotext
from darkroom.request.render_request import RenderRequest
from tests.fixtures.pictures import make_picture
from tests.fixtures.pngs import encode_png

CONFIG = """\
checkpoints:
  one: {source: weights.safetensors}
sheets: [sheet.yaml, lines.txt]
render: {steps: 9}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    files = {
        "config/config.yaml": CONFIG,
        "sheet.yaml": "- {prompt: x, seeds: [1, 2]}\n",
        "lines.txt": "y\n",
        "weights.safetensors": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_nothing_wrong_is_one_line_and_writes_nothing(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(project.rglob("*"))
    assert main(["check"]) == 0
    found = capsys.readouterr()
    assert (found.out, found.err) == ("config/config.yaml: 1 checkpoint, 2 sheets, 3 pictures, no mistakes\n", "")
    assert sorted(project.rglob("*")) == before


def test_mistakes_of_configuration_sources_and_sheets_are_told_at_once(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = CONFIG.replace("steps: 9", "stpes: 9, width: 100").replace("[sheet.yaml", "[gone.yaml, sheet.yaml")
    config += "loras:\n  a: {source: nowhere.safetensors}\n  b: {source: 'foo:bar'}\n  c: {sorce: x}\nengin: {}\n"
    (project / "mine.yaml").write_text(config, encoding="utf-8")
    (project / "sheet.yaml").write_text("- a: b\n- [c] d\n- {prompt: x <lora:c:1>, steps: 0}\n", encoding="utf-8")
    (project / "lines.txt").write_text("fine\n--prompt x --stpes 3\n", encoding="utf-8")
    assert main(["check", "--config", "mine.yaml"]) == 2
    found = capsys.readouterr()
    lines = found.err.splitlines()
    wrong = ["'engin'", "'loras.c.sorce'", "'nowhere.safetensors'", "'foo:bar'", "'render.stpes'", "width '100'"]
    wrong += ["'gone.yaml'", "'a: b'", "sheet.yaml:2:", "steps '0'", "'--stpes'"]
    for each in wrong:
        assert sum(each in line for line in lines) == 1, (each, lines)
    assert len(lines) == len(wrong)
    assert found.out == ""


def test_a_source_that_was_fetched_before_need_not_be_there(project: Path) -> None:
    (project / "weights.safetensors").unlink()
    assert main(["check"]) == 2
    receipt = project / "models/checkpoints/one.receipt.json"
    receipt.parent.mkdir(parents=True)
    receipt.write_text("{}", encoding="utf-8")
    assert main(["check"]) == 0


def test_checking_imports_nothing_large(project: Path) -> None:
    code = "import sys; from darkroom.cli.command import main; main(['check']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=project)
    assert not set(done.stdout.split()) & {
        "snakemake",
        "torch",
        "diffusers",
        "transformers",
        "numpy",
        "PIL",
        "requests",
    }


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    made = make_picture(folder, 1, prompt="a star\nwith two lines", negative_prompt="dull \x1b[2J", sampler="DDIM")
    return folder / made.path


def test_a_picture_says_what_made_it(picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(picture)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["Prompt", "a", "star"]
    assert lines[1] == "with two lines"
    assert ["Sampler", "DDIM"] in [line.split() for line in lines]
    assert ["Seed", "101"] in [line.split() for line in lines]
    assert not any("\x1b" in line for line in lines)  # a picture comes from anybody


def test_a_picture_says_it_to_programs_too(picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(picture), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["prompt"] == "a star\nwith two lines"
    assert shown["request"]["sampler"] == shown["settings"]["Sampler"] == "DDIM"
    assert shown["parameters"].startswith("a star\n")


def test_a_picture_of_stages_lists_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stages = [{"hires": {"denoising_strength": 0.4}}, {"img2img": {}}, {"upscale": {"scale": 4}}]
    request = RenderRequest.from_settings({"prompt": "x", "image": "a" * 64, "stages": stages})
    infotext = write_infotext(request, model="m", model_hash=None, version="1")
    png = encode_png(Image.new("RGB", (8, 8)), infotext, request.to_json(), facts={"made_from": "b" * 64})
    (tmp_path / "x.png").write_bytes(png)
    assert main(["show", str(tmp_path / "x.png")]) == 0
    lines = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
    assert ["Stage", "1", "hires: denoising_strength 0.4"] in lines
    assert ["Stage", "2", "img2img"] in lines
    assert ["Stage", "3", "upscale: scale 4.0"] in lines
    assert ["Begins", "with", f"the picture of SHA-256 {'a' * 64}"] in lines
    assert ["Made", "from", f"the picture of SHA-256 {'b' * 64}"] in lines


@pytest.mark.parametrize(("suffix", "output_format"), [(".jpg", "jpeg"), (".webp", "webp"), (".jpg", "png")])
def test_a_picture_of_another_format_says_it_too(
    picture: Path, tmp_path: Path, suffix: str, output_format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever its name says."""
    other = tmp_path / f"x{suffix}"
    other.write_bytes(convert_png(picture.read_bytes(), FORMATS[output_format], 90))
    assert main(["show", str(other)]) == 0
    assert capsys.readouterr().out.startswith("Prompt")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gone.png", "is missing"),
        ("text.png", "is no PNG, JPEG, WebP or AVIF"),
        ("bare.png", "has no prompt and settings"),
        ("bare.jpg", "has no prompt and settings"),
    ],
)
def test_what_says_nothing_is_refused(
    tmp_path: Path, name: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.png").write_text("no picture", encoding="utf-8")
    for bare in ("bare.png", "bare.jpg"):
        Image.new("RGB", (8, 8)).save(tmp_path / bare)
    assert main(["show", str(tmp_path / name)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("E-IMAGE picture ") and words in error and "Hint: " in error


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert (ended.value.code, capsys.readouterr().out) == (0, f"darkroom {__version__}\n")
