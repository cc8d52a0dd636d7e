"""Pictures of stages by way of a job and the warm engine: what goes in, what comes back, and what is refused."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from darkroom.cli import render_job
from darkroom.cli.command import main
from darkroom.errors import DarkroomError, DiskError, ImageError, LimitError, RequestError
from darkroom.pictures.png import read_png_text
from darkroom.warm import chain_files
from darkroom.warm.chain_files import Chain
from darkroom.warm.client import render
from tests.unit.warm.bench import Bench
from tests.unit.warm.fake_engine import LATENTS

SIZE = {"width": 64, "height": 64, "steps": 2, "seed": 1}


def request(*stages: dict[str, Any], **settings: Any) -> str:
    return json.dumps({"prompt": "x", **SIZE, **settings, **({"stages": list(stages)} if stages else {})})


def save(path: Path, grey: int = 50) -> str:
    """A picture's file; returns its SHA-256."""
    Image.new("RGB", (64, 64), (grey,) * 3).save(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def grey(path: Path) -> int:
    with Image.open(path) as image:
        pixel = image.getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return int(pixel[0])


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def made_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(read_png_text(path)["darkroom"])
    return found


HIRES: dict[str, Any] = {"hires": {"upscaler": "Lanczos"}}


def test_a_chain_may_be_made_in_one_go_or_from_file_to_file(bench: Bench) -> None:
    whole, first, second, third = (bench.root / f"{name}.png" for name in ("whole", "first", "second", "third"))
    stages = [HIRES, {"img2img": {}}]
    render(bench.spec, request(*stages), whole)
    render(bench.spec, request(), first)
    render(bench.spec, request(*stages[:1]), second, chain=Chain({}, first))
    render(bench.spec, request(*stages), third, chain=Chain({}, second, stages_done=1))
    assert [grey(path) for path in (first, second, third, whole)] == [1, 11, 21, 21]
    assert [size(path) for path in (first, second, third)] == [(64, 64), (128, 128), (128, 128)]


def test_a_picture_says_its_whole_chain_and_the_file_that_it_went_on_from(bench: Bench) -> None:
    first, second = bench.root / "first.png", bench.root / "second.png"
    render(bench.spec, request(), first)
    render(bench.spec, request(HIRES), second, chain=Chain({}, first))
    made = made_of(second)
    assert [list(stage) for stage in made["request"]["stages"]] == [["hires"]]
    assert made["made_from"] == hashlib.sha256(first.read_bytes()).hexdigest()
    assert "Hires upscaler: Lanczos" in read_png_text(second)["parameters"]
    assert not {"stages", "image", "made_from"} & made_of(first).keys() | made_of(first)["request"].keys() & {"stages"}


def test_given_pictures_reach_the_engine_as_they_are(bench: Bench) -> None:
    photo, mask = bench.root / "photo.png", bench.root / "mask.png"
    names = [save(photo), save(mask, 255)]
    inpaint = {"inpaint": {"mask": names[1]}}
    render(
        bench.spec,
        request(inpaint, image=names[0]),
        bench.output,
        chain=Chain(dict(zip(names, (photo, mask), strict=True))),
    )
    assert grey(bench.output) == 60
    noted = [f"{name[:12]} {path.stat().st_size}" for name, path in zip(names, (photo, mask), strict=True)]
    assert bench.noted("files") == noted
    assert made_of(bench.output)["request"]["image"] == names[0]


def test_latents_are_a_second_output(bench: Bench) -> None:
    latents = bench.root / "deep" / "a.latent.safetensors"
    render(bench.spec, request(), bench.output, latents=latents)
    assert latents.read_bytes() == LATENTS
    again = bench.root / "again.png"
    render(bench.spec, request(), again)
    assert again.read_bytes() == bench.output.read_bytes()
    render(bench.spec, request({"hires": {}}), again, chain=Chain({}, bench.output, latents))
    assert bench.noted("files")[-1] == f"before.laten {len(LATENTS)}"


def test_a_full_disk_leaves_neither_a_picture_nor_latents(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    latents, syncs = bench.root / "a.latent.safetensors", []
    bench.output.parent.mkdir()
    bench.output.write_bytes(b"as before")

    def refuse_the_second(handle: int) -> None:
        syncs.append(handle)
        if len(syncs) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse_the_second)
    with pytest.raises(DiskError, match="No space left"):
        render(bench.spec, request(), bench.output, latents=latents)
    assert len(syncs) == 2
    assert bench.output.read_bytes() == b"as before"
    assert not latents.exists()
    assert [path.name for path in bench.output.parent.iterdir()] == ["a.png"]
    assert not list(bench.root.glob(".darkroom-tmp*"))


def test_a_picture_that_is_not_there_or_another_one_is_told_before_an_engine_starts(bench: Bench) -> None:
    photo = bench.root / "photo.png"
    named = save(photo)
    save(photo, 51)
    begun = request({"img2img": {}}, image=named)
    with pytest.raises(ImageError, match=f"E-IMAGE picture '{photo}': is another one than was planned with") as caught:
        render(bench.spec, begun, bench.output, bench.log, chain=Chain({named: photo}))
    assert named[:12] in str(caught.value)
    assert "run snakemake again" in caught.value.hint
    assert "E-IMAGE" in bench.log.read_text()
    photo.unlink()
    with pytest.raises(ImageError, match=r"is missing.*run snakemake again"):
        render(bench.spec, begun, bench.output, chain=Chain({named: photo}))
    with pytest.raises(ImageError, match=r"is missing.*makes what is missing first"):
        render(bench.spec, request(HIRES), bench.output, chain=Chain({}, bench.root / "gone.png"))
    with pytest.raises(ImageError, match="Is a directory"):
        render(bench.spec, request(HIRES), bench.output, chain=Chain({}, bench.root))
    assert not bench.output.exists()
    assert bench.pids == []


def test_pictures_of_too_many_bytes_are_not_sent(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    photo = bench.root / "photo.png"
    named = save(photo)
    bytes_ = photo.stat().st_size
    monkeypatch.setattr(chain_files, "MAX_FILES_BYTES", bytes_ - 1)
    with pytest.raises(LimitError, match="has more than"):
        Chain({named: photo}).read()
    monkeypatch.setattr(chain_files, "MAX_FILES_BYTES", 2 * bytes_ - 1)
    assert Chain({named: photo}).read() == {named: photo.read_bytes()}
    with pytest.raises(LimitError, match=r"have .* bytes together"):
        Chain({named: photo}, before=photo).read()


@pytest.mark.parametrize(
    ("stages", "given", "done", "why"),
    [
        ([{"img2img": {}}], [], 1, "stages done"),
        ([HIRES, HIRES], [], 1, "'before': is needed"),
        ([{"inpaint": {"mask": "a" * 64}}], [], 0, f"'{'a' * 64}': is needed"),
        ([], ["b" * 64], 0, "is none that the request names"),
        ([HIRES], ["b" * 64], 0, "is none that the request names"),
        ([], ["before"], 0, "is none that the request names"),
    ],
)
def test_files_that_do_not_fit_the_request_are_refused(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, stages: list[dict[str, Any]], given: list[str], done: int, why: str
) -> None:
    monkeypatch.setattr(Chain, "read", lambda self: dict.fromkeys(given, b"x"))
    with pytest.raises(RequestError, match=why):
        render(bench.spec, request(*stages), bench.output, chain=Chain({}, stages_done=done))
    assert bench.noted("renders") == []
    assert not bench.output.exists()


def test_a_failed_stage_leaves_nothing_and_the_next_picture_is_made(bench: Bench) -> None:
    first, latents = bench.root / "first.png", bench.root / "latents"
    render(bench.spec, request(), first)
    with pytest.raises(DarkroomError, match="E-OOM"):
        render(bench.spec, request(HIRES, prompt="oom"), bench.output, chain=Chain({}, first), latents=latents)
    assert not bench.output.exists() and not latents.exists()
    render(bench.spec, request(HIRES), bench.output, chain=Chain({}, first))


def test_a_job_of_a_stage_imports_nothing_that_is_slow_to_import(bench: Bench) -> None:
    from tests.unit.warm.test_warm_client import HEAVY

    photo = bench.root / "photo.png"
    named = save(photo)
    render(bench.spec, request(), bench.root / "first.png", latents=bench.root / "first.latent")
    command = [
        *("render", str(bench.model), "--request", request({"img2img": {}}, {"hires": {}}, image=named)),
        *("--before", str(bench.root / "first.png"), "--before-latent", str(bench.root / "first.latent")),
        *("--picture", f"{named}={photo}", "--stages-done", "1", "--latent", str(bench.root / "b.latent")),
        *("--output", str(bench.output), "--kept", str(bench.root / "kept.png")),
    ]
    script = "import sys; from darkroom.cli import command; print(command.main(sys.argv[1:]), *sys.modules)"
    done = subprocess.run([sys.executable, "-c", script, *command], capture_output=True, text=True, check=True)
    code, *imported = done.stdout.split()
    assert code == "0", done.stderr
    assert grey(bench.output) == 11
    assert HEAVY.isdisjoint(imported)
    assert (bench.root / "kept.latent.safetensors").read_bytes() == LATENTS
    bench.output.unlink()
    (bench.root / "b.latent").unlink()
    again = render_job.read(command)
    assert again is not None
    assert "earlier attempt" in str(render_job.run(again))
    assert (grey(bench.output), (bench.root / "b.latent").read_bytes()) == (11, LATENTS)


def test_a_picture_without_its_path_is_refused_with_how_to_write_it(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["render", "nowhere", "--request", "{}", "--output", "a.png", "--picture", "photo.png"]
    assert main(command) == 2
    assert "write --picture SHA256=PATH" in capsys.readouterr().err
