"""One artifact of any kind is deleted or damaged; the same command makes it again, and nothing that was right goes.

The quick tier damages several files at once that have nothing to do with each other; the full tier each one alone.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.fixtures.assets import write_lora, write_vae
from tests.workflow.project import Project

SHEETS = {
    "prompts/first.yaml": "- {id: circle, prompt: a red circle, seeds: [1, 2]}\n- {id: star, prompt: a green star}\n",
    "prompts/second.yaml": "- {id: tag, prompt: 'a star <lora:lines:0.8>', vae: fixed}\n",
}
CACHES = (
    "models/.cache/",
    "models/.runs/",
    "results/run.json",
    "results/thumbnails/",
    "models/diffusers/tiny.hashes.json",
)
"""Their contents may differ, since they hold times; whether they are there is looked at all the same."""


def delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def flip(path: Path) -> None:
    """One other byte in the middle, in a file of its own: it may be linked elsewhere."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.unlink()
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.unlink()
    path.touch()


def strip(path: Path) -> None:
    """What another program does that opens the picture and saves it."""
    Image.open(path).convert("RGB").save(path)


Damage = Callable[[Path], None]
STAR = "results/first/tiny/star-0.png"
PICTURES = [(damage, STAR) for damage in (delete, flip, empty, strip)]
PAGES = [
    (damage, f"results/{path}")
    for path in ("first/contact-sheet.png", "index.html", "manifest.jsonl", "thumbnails/first/tiny/star-0.webp")
    for damage in (delete, flip)
]
INDEX = [(damage, "results/thumbnails/first/_index.json") for damage in (delete, empty)]
MODELS = [
    *[(delete, f"models/{path}") for path in ("diffusers/tiny", "diffusers/tiny/scheduler")],
    *[(flip, f"models/{path}") for path in ("diffusers/tiny/unet/config.json", "checkpoints/tiny.safetensors")],
    *[
        (damage, f"models/{path}")
        for path in (
            "diffusers/tiny.audit.json",
            "verified/tiny.json",
            "checkpoints/tiny.receipt.json",
            "loras/lines.receipt.json",
            "loras/lines.safetensors",
            "vaes/fixed.safetensors",
        )
        for damage in (delete, empty)
    ],
    (flip, "models/loras/lines.safetensors"),
]
ONE_EACH = [[each] for each in (*PICTURES, *PAGES, *INDEX, *MODELS)]
TOGETHER = [
    [(delete, "results/first/contact-sheet.png"), (flip, "results/thumbnails/second/tiny/tag-0.webp")],
    [(delete, "results/manifest.jsonl")],
    [(flip, STAR), (strip, "results/second/tiny/tag-0.png")],
    [
        (delete, "models/diffusers/tiny"),
        (empty, "models/loras/lines.receipt.json"),
        (delete, "models/vaes/fixed.safetensors"),
    ],
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    with Project(tmp_path_factory.mktemp("made")) as project:
        write_lora(project.folder / "lines.safetensors")
        write_vae(project.folder / "fixed.safetensors", seed=4)
        for path, text in SHEETS.items():
            project.write(path, text)
        assets = {"lines": {"source": "lines.safetensors"}}, {"fixed": {"source": "fixed.safetensors"}}
        project.set_up(SHEETS["prompts/first.yaml"], sheets=[*SHEETS], loras=assets[0], vaes=assets[1])
        yield project


def artifacts(project: Project) -> dict[str, bytes]:
    """Everything under results/ and models/ by its path, but the trash and Snakemake's marks."""
    files = [path for top in ("results", "models") for path in (project.folder / top).rglob("*") if path.is_file()]
    left_out = {".trash", ".snakemake_timestamp"}
    named = {path.relative_to(project.folder): path for path in files}
    return {str(name): path.read_bytes() for name, path in named.items() if not left_out & set(name.parts)}


def without_caches(found: dict[str, bytes]) -> dict[str, bytes]:
    return {path: data for path, data in found.items() if not path.startswith(CACHES)}


def name(damages: list[tuple[Damage, str]]) -> str:
    return " ".join(f"{damage.__name__}:{path}" for damage, path in damages)


@pytest.mark.parametrize(
    "damages",
    [
        *[pytest.param(each, id=name(each)) for each in TOGETHER],
        *[pytest.param(each, id=name(each), marks=pytest.mark.full) for each in ONE_EACH],
    ],
)
def test_what_is_missing_or_damaged_is_made_again(
    damages: list[tuple[Damage, str]], made: Project, tmp_path: Path
) -> None:
    with made.copy(tmp_path / "project") as project:
        before = artifacts(project)
        for damage, path in damages:
            damage(project.folder / path)
        pictures = {path.removeprefix("results/") for _, path in damages if path.endswith("-0.png")}
        assert project.rendered_by(project.run) == pictures
        after = artifacts(project)
        assert after.keys() == before.keys()
        assert without_caches(after) == without_caches(before)
        assert "Nothing to be done" in project.run().stdout


def test_a_dry_run_says_what_a_run_would_make_again_and_touches_nothing(made: Project, tmp_path: Path) -> None:
    with made.copy(tmp_path / "project") as project:
        flip(project.folder / STAR)
        delete(project.folder / "models/loras/lines.safetensors")
        before = without_caches(artifacts(project))
        done = project.run("results/", "--dry-run")
        assert done.returncode == 0, done.stdout
        assert "render first/tiny/star-0" in done.stdout and "render first/tiny/circle" not in done.stdout
        assert "models/loras/lines.safetensors is missing or damaged" in done.stdout
        assert without_caches(artifacts(project)) == before


def test_a_picture_that_somebody_edited_is_moved_to_the_trash_and_made_again(made: Project, tmp_path: Path) -> None:
    with made.copy(tmp_path / "project") as project:
        picture = project.folder / STAR
        whole = picture.read_bytes()
        strip(picture)
        edited = picture.read_bytes()
        done = project.run("results/first/tiny/star-0.png")
        assert done.returncode == 0, done.stdout
        said = next(line for line in done.stdout.splitlines() if line.startswith("E-IMAGE"))
        moved = project.folder / said.rpartition(" is now ")[2].rstrip(".")
        assert moved.read_bytes() == edited
        assert picture.read_bytes() == whole


def test_a_failing_page_leaves_the_pages_before_it(made: Project, tmp_path: Path) -> None:
    """And the next run makes it, although Snakemake's copy of the old page is newer than its pictures."""
    with made.copy(tmp_path / "project") as project:
        (project.results / "first/tiny/circle-1.png").unlink()
        # That of a picture that is there too: else a slow run's gallery says how far it is before the picture is made.
        thumbnails = sorted((project.results / "thumbnails/first/tiny").glob("*.webp"))
        assert "circle-1.webp" in [thumbnail.name for thumbnail in thumbnails] and len(thumbnails) > 1
        for thumbnail in thumbnails:
            thumbnail.unlink()
            thumbnail.mkdir()
        pages = [project.results / "first/contact-sheet.png", project.results / "index.html"]
        before = [page.read_bytes() for page in pages]
        failed = project.run()
        assert failed.returncode == 1
        assert [page.read_bytes() for page in pages] == before
        assert len((project.results / "manifest.jsonl").read_text().splitlines()) == 4
        for thumbnail in thumbnails:
            thumbnail.rmdir()
        done = project.run()
        assert done.returncode == 0 and "contact sheet of first" in done.stdout
        entries = [json.loads(line) for line in (project.results / "manifest.jsonl").read_text().splitlines()]
        assert {entry["file"] for entry in entries} == set(project.pictures())
