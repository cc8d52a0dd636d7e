"""`darkroom render MODEL_DIR --prompt …`: one picture by hand, with all that the workflow can do."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from darkroom.cli.command import main
from tests.fixtures.assets import write_embedding, write_lora, write_vae

QUICK = ["--width", "64", "--height", "64", "--steps", "2", "--device", "cpu"]


@pytest.fixture(scope="module")
def models(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder as the workflow leaves it."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "diffusers").mkdir()
    (folder / "diffusers/tiny").symlink_to(model_dir)
    write_lora(folder / "loras/lines.safetensors")
    write_embedding(folder / "embeddings/easy.safetensors")
    write_vae(folder / "vaes/fixed.safetensors", seed=4)
    return folder


def render(models: Path, output: Path, *arguments: str) -> str:
    """The picture's infotext; the command must succeed."""
    command = ["render", str(models / "diffusers/tiny"), *QUICK, "--output", str(output), *arguments]
    assert main(command) == 0
    return str(Image.open(output).text["parameters"])  # type: ignore[attr-defined]


def test_names_are_looked_up_in_the_models_folder(models: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.png"
    text = render(models, output, "--prompt", "easy star <lora:lines:0.5>", "--vae", "fixed", "--lora", "lines:0.25:0")
    assert text.startswith("easy star <lora:lines:0.5> <lora:lines:te=0:unet=0.25>\n")
    for part in ("Lora hashes: ", "TI hashes: ", "VAE: fixed"):
        assert part in text


def test_files_are_known_by_their_names(models: Path, tmp_path: Path) -> None:
    write_lora(tmp_path / "mine.safetensors", seed=5)
    write_embedding(tmp_path / "own.safetensors", seed=6)
    files = ["--lora-file", str(tmp_path / "mine.safetensors"), "--embedding-file", str(tmp_path / "own.safetensors")]
    plain = render(models, tmp_path / "plain.png", "--prompt", "own star")
    text = render(models, tmp_path / "out.png", "--prompt", "own star <lora:mine:1>", *files)
    assert "Lora hashes: " in text and "TI hashes: " in text
    assert "TI hashes" not in plain
    assert (tmp_path / "out.png").read_bytes() != (tmp_path / "plain.png").read_bytes()


def test_a_preset_gives_way_to_what_is_said_beside_it(models: Path, tmp_path: Path) -> None:
    text = render(models, tmp_path / "out.png", "--prompt", "star", "--preset", "lightning")
    assert "Steps: 2, Sampler: Euler, Schedule type: SGM Uniform, CFG scale: 1," in text


def test_an_old_name_of_a_sampler_says_its_schedule_too(models: Path, tmp_path: Path) -> None:
    text = render(models, tmp_path / "out.png", "--prompt", "star", "--sampler", "DPM++ 2M Karras")
    assert "Sampler: DPM++ 2M, Schedule type: Karras," in text


@pytest.mark.parametrize(("name", "found"), [("x.jpg", "JPEG"), ("x.WEBP", "WEBP")])
def test_a_picture_has_the_format_that_its_name_says(models: Path, tmp_path: Path, name: str, found: str) -> None:
    command = ["render", str(models / "diffusers/tiny"), *QUICK, "--prompt", "star", "--output", str(tmp_path / name)]
    assert main(command) == 0
    with Image.open(tmp_path / name) as picture:
        assert picture.format == found


@pytest.mark.parametrize("how", [["--prompt", "x"], ["--request", "{}"]])
@pytest.mark.parametrize("name", ["x.bmp", "x.png.tmp", "x.gif"])
def test_another_format_is_refused_before_a_model_is_loaded(
    tmp_path: Path, how: list[str], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["render", "nowhere", *how, "--output", str(tmp_path / name)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("E-REQUEST output ") and "end its name in .png" in error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--prompt", "<lora:linse:1>"],
            "E-LORA LoRA 'linse': there is none of that name. Hint: did you mean 'lines'?",
        ),
        (
            ["--prompt", "x", "--lora-file", "gone.safetensors", "--lora", "gone"],
            "E-LORA LoRA 'gone': its file gone.safetensors is missing",
        ),
        (["--prompt", "embedding:eazy"], "E-EMBEDDING embedding 'eazy'"),
        (["--prompt", "x", "--vae", "../vaes/fixed"], "E-REQUEST VAE '../vaes/fixed'"),
        (["--prompt", "x", "--sampler", "Eulr"], "did you mean Euler"),
        (["--prompt", "x", "--preset", "lightnin"], "did you mean lightning"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[-1],
)
def test_what_is_not_there_is_named_with_what_is_near(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    output = tmp_path / "out.png"
    assert main(["render", str(models / "diffusers/tiny"), *QUICK, "--output", str(output), *arguments]) == 2
    assert words in capsys.readouterr().err
    assert not output.exists()


def test_a_warning_is_said_aloud(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    render(models, tmp_path / "out.png", "--prompt", "a (star:12)")
    captured = capsys.readouterr()
    assert f"WARNING {tmp_path / 'out.png'}: a prompt's weight of 12 is over 10" in captured.err
    assert "WARNING: a prompt's weight of 12 is over 10" in captured.out
