"""`darkroom diff`: what is the same in two runs, what changed and how, what one of them lacks, and its exit codes."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from darkroom.cli.command import main
from darkroom.pictures.gallery import build_gallery
from darkroom.pictures.png import encode_texts, text_of_png
from darkroom.pictures.two_runs import compare_settings
from tests.fixtures.pictures import make_picture

Runs = tuple[Path, Path]
RED = "a red circle on a blue background, soft light, fine grain, in the middle of the picture"


def make_run(results: Path, *, is_new: bool) -> None:
    pictures = [make_picture(results, number, checkpoint=("alpha", "beta")[number % 2]) for number in range(4)]
    loras = {"grain": 0.5} if is_new else {}
    pictures.append(make_picture(results, 4, steps=25 if is_new else 20, loras=loras))
    pictures.append(make_picture(results, 5, prompt=RED.replace("soft", "hard") if is_new else RED))
    pictures.append(make_picture(results, 7 if is_new else 6))
    if is_new:
        paint(results / pictures[0].path, [(5, 5)], "torch")
        paint(results / pictures[2].path, [], "torch")
    build_gallery(results, pictures, {}, title="Run", thumbnail_px=64)


def paint(path: Path, points: list[tuple[int, int]], library: str) -> None:
    """Other pixels at the points, and another version in the metadata."""
    texts = text_of_png(path.read_bytes(), path)
    made = json.loads(texts["darkroom"]) | {"versions": {library: "9.9"}}
    image = Image.open(path).convert("RGB")
    for point in points:
        image.putpixel(point, (255, 0, 255))
    path.write_bytes(encode_texts(image, texts | {"darkroom": json.dumps(made)}))


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    monkeypatch.chdir(tmp_path)
    for name in ("old", "new"):
        make_run(tmp_path / name / "results", is_new=name == "new")
    return Path("old/results"), Path("new/results")


def diff(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    code = main(["diff", *map(str, arguments)])
    found = capsys.readouterr()
    return code, found.out + found.err


def test_pictures_are_told_apart_by_pixels_and_settings(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = diff(capsys, *runs)
    assert code == 1
    assert text.splitlines()[:2] == ["same: 3 pictures", "changed: 3 pictures"]  # one has other metadata alone
    assert "  shapes/alpha/scene-00-100: pixels differ by up to " in text
    assert "  shapes/alpha/scene-04-104: steps 20 → 25; loras.grain.unet none → 0.5; loras.grain.te none → 0.5;" in text
    assert "prompt …soft light, fine grain, in the middle of the picture → …hard light, fine grain" in text
    assert "only in old/results/manifest.jsonl: 1 picture\n  shapes/alpha/scene-06-106\n" in text
    assert "only in new/results/manifest.jsonl: 1 picture\n  shapes/alpha/scene-07-107" in text


@pytest.mark.parametrize("given", [("old", "old/results/manifest.jsonl"), ("new", "new/results")])
def test_a_run_is_named_by_its_folder_or_its_manifest(
    given: tuple[str, str], runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    assert diff(capsys, *given) == (0, "same: 7 pictures\n")


def test_versions_that_differ_are_said(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = runs
    for folder, version in ((old, "2.5.1"), (new, "2.6.0")):
        lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
        made = {"versions": {"torch": version, "diffusers": "0.35.0"}, "made_on": {"device": "cpu"}}
        (folder / "manifest.jsonl").write_text("".join(f"{json.dumps(line | made)}\n" for line in lines))
    _, text = diff(capsys, *runs)
    assert "made by torch 2.5.1 → 2.6.0" in text
    assert "diffusers" not in text and "device" not in text


def test_as_json(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = diff(capsys, *runs, "--json")
    found = json.loads(text)
    assert code == 1 and not found["is_same"]
    assert found["only_old"] == ["shapes/alpha/scene-06-106"] and len(found["same"]) == 3
    changed = {each["name"]: each for each in found["changed"]}
    assert changed["shapes/alpha/scene-04-104"]["settings"]["steps"] == [20, 25]
    assert changed["shapes/alpha/scene-00-100"]["pixels"]["largest"] > 0


def test_without_the_files_the_manifests_are_compared(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    (runs[0] / "shapes/alpha/scene-00-100.png").unlink()
    (runs[1] / "shapes/alpha/scene-04-104.png").write_bytes(b"another")
    _, text = diff(capsys, *runs)
    assert (
        "scene-00-100: files differ, pixels not compared: old/results/shapes/alpha/scene-00-100.png is missing" in text
    )
    assert "files differ, pixels not compared: new/results/shapes/alpha/scene-04-104.png is another file than" in text


def test_trouble_ends_with_2_as_diff_does(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = diff(capsys, runs[0], "nowhere")
    assert code == 2 and text.startswith("E-INPUT manifest 'nowhere': does not exist. Hint: name a manifest.jsonl")
    for line in ("{", "[]", '{"file": "../../etc/x.png", "sha256": "0", "request": {}}', '{"file": 3}'):
        Path("bad.jsonl").write_text(f"\n{line}\n")
        code, text = diff(capsys, "bad.jsonl", runs[0])
        assert code == 2 and "bad.jsonl:2" in text and text.startswith("E-INPUT"), text
    (runs[0] / "shapes/alpha/scene-00-100.png").write_bytes(b"x")
    old = (runs[0] / "manifest.jsonl").read_text().splitlines()
    old[0] = json.dumps(
        json.loads(old[0]) | {"sha256": "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"}
    )
    (runs[0] / "manifest.jsonl").write_text("\n".join(old))
    code, text = diff(capsys, *runs)
    assert code == 2 and text.startswith("E-IMAGE")


def test_settings_are_compared_one_by_one() -> None:
    def entry(**settings: Any) -> dict[str, Any]:
        return {"request": {"prompt": "a cat", "vae": None, **settings}, "model_hash": settings.pop("hash", None)}

    old = entry(stages=[{"hires": {"steps": 5, "sampler": None}}], freeu={"b1": 1.1}, loras=[{"name": "a", "unet": 1}])
    new = entry(stages=[{"hires": {"steps": 6}}, {"upscale": {"scale": 2}}], eta=0.0, vae="soft")
    assert compare_settings(old, new) == {
        "1-hires.steps": (5, 6),
        "freeu.b1": (1.1, None),
        "loras.a.unet": (1, None),
        "vae": (None, "soft"),
        "2-upscale": (None, "on"),
        "2-upscale.scale": (None, 2),
        "eta": (None, 0.0),
    }


def test_the_page_shows_both_pictures_where_they_are(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    page = Path("pages/a b.html")
    code, _ = diff(capsys, *runs, "--html", page)
    text = page.read_text()
    assert code == 1
    assert text.count('class="change"') == 5
    for side in ("old", "new"):
        assert f'"url":"../{side}/results/shapes/alpha/scene-00-100.png"' in text
    assert 'src="../old/results/thumbnails/shapes/alpha/scene-06-106.webp"' in text
    assert "script-src 'sha256-" in html.unescape(text)
