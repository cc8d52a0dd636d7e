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


def save(path: Path, size: tuple[int, int] = (60, 64), grey: int = 90) -> Path:
    Image.new("RGB", size, (grey, 40, 40)).save(path)
    return path


def test_stages_follow_a_prompts_picture(models: Path, tmp_path: Path) -> None:
    first, both = tmp_path / "first.png", tmp_path / "both.png"
    render(models, first, "--prompt", "star")
    hires = ["--then", "hires: {upscaler: Lanczos, denoising_strength: 0.5}"]
    text = render(models, both, "--prompt", "star", *hires, "--then", "upscale: {scale: 1.5}")
    assert "Hires upscaler: Lanczos" in text and "Postprocess upscale by: 1.5" in text
    with Image.open(both) as image:
        assert image.size == (192, 192)
    again = tmp_path / "again.png"
    command = ["render", str(models / "diffusers/tiny"), "--image", str(first), *hires, "--output", str(again)]
    assert main([*command, "--then", "upscale: {scale: 1.5}", "--device", "cpu"]) == 0
    with Image.open(both) as one, Image.open(again) as other:
        assert one.tobytes() == other.tobytes()  # prompt, seed and settings came with the picture


def test_a_picture_and_a_mask_are_files(models: Path, tmp_path: Path) -> None:
    photo, mask = save(tmp_path / "photo.png"), tmp_path / "mask.png"
    Image.new("L", (60, 64), 255).save(mask)
    command = ["render", str(models / "diffusers/tiny"), "--image", str(photo), "--steps", "2", "--device", "cpu"]
    output = tmp_path / "out.png"
    assert main([*command, "--prompt", "a star", "--then", f"inpaint: {{mask: {mask}}}", "--output", str(output)]) == 0
    with Image.open(output) as image:
        assert image.size == (60, 64)
        assert image.text["parameters"].startswith("a star\n")  # type: ignore[attr-defined]
        assert "Mask blur: 4" in image.text["parameters"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--image", "photo.png"], "--image 'photo.png': needs a stage"),
        ([], "--prompt: is missing"),
        (["--image", "gone.png", "--then", "upscale"], "E-IMAGE picture 'gone.png': does not exist"),
        (["--image", "photo.png", "--then", "hiress: {}"], "did you mean 'hires'"),
        (["--image", "photo.png", "--then", "hires: {scal: 2}"], "did you mean 'scale'?"),
        (["--image", "photo.png", "--then", "hires: {scale: 2"], "E-CONFIG YAML error at '--then:2:"),
        (["--image", "photo.png", "--then", ""], "names no stage"),
        (["--image", "photo.png", "--then", "inpaint: {mask: gone.png}"], "E-SHEET stage inpaint: mask 'gone.png'"),
        (
            ["--image", "photo.png", "--then", "upscale", "--width", "128"],
            "--width '128': the stages begin with a picture of",
        ),
        (["--prompt", "x", "--before", "photo.png"], "--before: is for a job with --request"),
        (["--request", "{}", "--then", "upscale"], "--then: is part of the request already"),
        (["--prompt", "x", "--latent-at", "0.8"], "--latent-at: is for a job with --request"),
    ],
)
def test_what_does_not_fit_a_chain_is_named(
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "photo.png")
    model = str(models / "diffusers/tiny")
    code = main(["render", model, *arguments, "--output", "out.png", "--device", "cpu"])
    assert words in capsys.readouterr().err
    assert code == (1 if "E-IMAGE" in words else 2)
    assert not (tmp_path / "out.png").exists()
