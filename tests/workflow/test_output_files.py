"""Files in other formats beside finished pictures, their metadata, prompts left out, and signatures, as a run makes them."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from darkroom.pictures.formats import FORMATS, PNG, read_texts
from darkroom.pictures.marking import COMPOSITE, GENERATED, XMP, find_source
from darkroom.pictures.png import read_png_text
from tests.fixtures.certificates import write_certificate
from tests.workflow.project import Project

NAMES = ("circle-1", "circle-2", "star-0")
SECRETS = ("red circle", "green star", "blue fog", "black fog", "oil painting")


def darkroom(project: Project, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "darkroom.cli", *arguments]
    return subprocess.run(command, cwd=project.folder, env=project.environment(), capture_output=True, text=True)


def encoded(project: Project, suffix: str) -> dict[str, bytes]:
    folder = project.results / "first/tiny"
    return {path.name.removesuffix(suffix): path.read_bytes() for path in folder.glob(f"*{suffix}")}


def succeed(project: Project, *targets: str, **changes: Any) -> str:
    project.configure(**changes)
    done = project.run(*targets)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_a_format_is_written_from_the_png_and_nothing_is_rendered(project: Project) -> None:
    before = project.times()
    succeed(project, output={"format": "webp", "quality": 80})
    first = encoded(project, ".webp")
    assert set(first) == set(NAMES) and project.times() == before
    for name, data in first.items():
        assert read_texts(data) == read_png_text(project.results / f"first/tiny/{name}.png")
    assert "Nothing to be done" in project.run().stdout

    succeed(project, output={"format": "webp", "quality": 40})
    again = encoded(project, ".webp")
    assert all(again[name] != first[name] for name in NAMES) and project.times() == before

    broken = project.results / "first/tiny/star-0.webp"
    broken.write_bytes(again["star-0"][:-20])
    (project.results / "first/tiny/circle-1.webp").unlink()
    checked = darkroom(project, "verify", "results")
    assert checked.returncode == 1 and "damaged: results/first/tiny/star-0.webp" in checked.stdout
    said = succeed(project, output={"format": "webp", "quality": 40})
    assert "E-IMAGE picture 'results/first/tiny/star-0.webp'" in said and "made again from the PNG" in said
    assert encoded(project, ".webp") == again and project.times() == before

    said = succeed(project)  # back to PNG alone
    assert "Nothing to be done" in said and encoded(project, ".webp") == again
    listed = darkroom(project, "prune")
    assert (
        "results/first/tiny/star-0.webp" in listed.stdout and "3 encoded files that aren't asked for" in listed.stdout
    )
    assert darkroom(project, "verify", "results").returncode == 0
    darkroom(project, "prune", "--yes")
    assert not encoded(project, ".webp") and project.times() == before


def test_last_stages_get_the_file_and_a_given_picture_is_told(empty: Project) -> None:
    Image.linear_gradient("L").convert("RGB").resize((64, 64)).save(empty.folder / "given.jpg")
    empty.set_up(
        """\
prompts:
  - {id: chain, prompt: a red circle, then: [{upscale: {upscaler: Lanczos, scale: 2}}]}
  - {id: begun, prompt: a red circle, from: given.jpg, then: [{img2img: {denoising_strength: 0.5}}]}
""",
        output={"format": "jpeg"},
    )
    files = encoded(empty, ".jpg")
    assert set(files) == {"chain-0.1-upscale", "begun-0.1-img2img"}
    sources = {name: find_source(read_texts(data)[XMP]) for name, data in files.items()}
    assert sources == {"chain-0.1-upscale": GENERATED, "begun-0.1-img2img": COMPOSITE}


def test_prompts_are_left_out_of_everything_that_is_written(empty: Project) -> None:
    sheet = """\
axes: {look: [oil painting, green star]}
prompts:
  - id: one
    prompt: a red circle, ${look}
    negative_prompt: blue fog
    then:
      - hires:
          {upscaler: Lanczos, scale: 2, denoising_strength: 0.5, steps: 2, prompt: a red circle twice, negative_prompt: black fog}
"""
    empty.set_up(sheet, metadata={"prompt": False}, output={"format": "avif"})
    pictures = [*empty.results.glob("first/tiny/*")]
    assert len(pictures) == 6
    for path in [*pictures, *empty.results.glob("first/*.png")]:
        held = path.read_bytes()
        assert not any(word.encode() in held or word.encode("utf-16-be") in held for word in SECRETS), path
        if path in pictures:
            made = json.loads(read_texts(held)["darkroom"])
            assert made["request"]["prompt"] == "" and len(made["request_sha256"]) == 64
    assert "a red circle" in (empty.results / "manifest.jsonl").read_text()
    data = (empty.results / "thumbnails/_gallery").glob("texts-*.js")
    assert any("a red circle" in path.read_text() for path in data)
    before = empty.times()
    (empty.folder / ".snakemake/darkroom/whole.json").unlink(missing_ok=True)
    for index in (empty.results / "thumbnails").rglob("_index.json"):
        index.unlink()
    said = succeed(empty, metadata={"prompt": False})  # everything is looked at again, and nothing of it is damaged
    assert empty.times() == before and "E-IMAGE" not in said
    assert "(left out)" in darkroom(empty, "show", str(pictures[0])).stdout


def test_pictures_with_prompts_stay_and_are_counted(project: Project) -> None:
    before = project.times()
    said = succeed(project, metadata={"prompt": False})
    assert "3 of 3 pictures that are there hold their prompts" in said and "darkroom metadata results" in said
    assert project.times() == before
    assert "3 written again: prompts left out" in darkroom(project, "metadata", "results").stdout
    written = project.pictures()
    said = succeed(project, metadata={"prompt": False})
    assert "hold their prompts" not in said and "E-IMAGE" not in said and project.pictures() == written
    assert all(PNG.decode(data, name).size == (64, 64) for name, data in written.items())
    fresh = project.results / "first/tiny/star-0.png"
    fresh.unlink()
    succeed(project, metadata={"prompt": False})
    assert fresh.read_bytes() == written["first/tiny/star-0.png"]  # what is left out is left out in the same way


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"output": {"format": "gif"}}, "output.format = 'gif'"),
        ({"output": {"format": "webp", "quality": 0}}, "output.quality = '0'"),
        ({"output": {"format": "webp", "quality": 101}}, "output.quality = '101'"),
        ({"output": {"quality": 90}}, "which loses nothing"),
        ({"metadata": {"promt": False}}, "did you mean"),
        ({"c2pa": {"certificate": "no.pem", "key": "no.key"}}, "E-CONFIG c2pa"),
    ],
)
def test_mistakes_are_told_before_anything_runs(project: Project, changes: dict[str, Any], words: str) -> None:
    project.configure(**changes)
    done = darkroom(project, "check")
    assert done.returncode == 2 and words in done.stderr and "Hint: " in done.stderr, done.stderr


def test_formats_of_the_command(project: Project) -> None:
    picture = "results/first/tiny/star-0.png"
    for name, kind in FORMATS.items():
        done = darkroom(project, "encode", picture, "-o", f"x{kind.suffix}")
        assert done.returncode == 0, done.stderr
        shown = darkroom(project, "show", f"x{kind.suffix}")
        assert "a green star" in shown.stdout, (name, shown.stderr)
        with Image.open(io.BytesIO(Path(project.folder, f"x{kind.suffix}").read_bytes())) as image:
            assert image.format == name.upper() and image.size == (64, 64)
    assert (
        "E-REQUEST --quality '101'" in darkroom(project, "encode", picture, "-o", "x.webp", "--quality", "101").stderr
    )
    assert "E-REQUEST output" in darkroom(project, "encode", picture, "-o", "x.gif").stderr


def test_signed_files_beside_the_pngs_and_no_key_anywhere(project: Project) -> None:
    c2pa = pytest.importorskip("c2pa")
    before = project.pictures()
    signer = write_certificate(project.folder.parent / "keys")
    succeed(project, c2pa=signer)
    signed = encoded(project, ".c2pa.png")
    assert set(signed) == set(NAMES)
    for name, data in signed.items():
        assert c2pa.Reader("image/png", io.BytesIO(data)).get_validation_state() == "Valid"
        assert read_texts(data) == read_png_text(project.results / f"first/tiny/{name}.png")
    assert {name: data for name, data in project.pictures().items() if ".c2pa." not in name} == before
    said = project.run().stdout
    assert "Nothing to be done" in said and encoded(project, ".c2pa.png") == signed

    succeed(project, c2pa=signer, output={"format": "avif"}, metadata={"marking": False})
    for data in encoded(project, ".avif").values():
        assert c2pa.Reader("image/avif", io.BytesIO(data)).get_validation_state() == "Valid"
        assert XMP not in read_texts(data)
    secret = Path(signer["key"]).read_bytes().splitlines()[1]
    files = [path for path in project.folder.rglob("*") if path.is_file()]
    assert not [path for path in files if secret in path.read_bytes()]
    assert "3 encoded files" in darkroom(project, "prune").stdout
