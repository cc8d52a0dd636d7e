"""What `darkroom verify` says of a results folder, and `darkroom prune` of pictures that nobody asks for."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from darkroom.cli.command import main
from darkroom.pictures.contact_sheet import make_contact_sheet
from darkroom.pictures.gallery import build_gallery
from darkroom.pictures.grid import GridRequest, draw_grid
from darkroom.pictures.grid_parts import split_page
from darkroom.pictures.picture import GalleryPicture
from darkroom.pictures.records import index_path, scores_path, thumbnail_path
from tests.fixtures.pictures import make_picture, make_pictures
from tests.fixtures.studies import make_study

SHEET = "prompts:\n- {id: scene-00, prompt: a, seed: 100}\n- {id: scene-01, prompt: b, seed: 101}\n"
CONFIG = "checkpoints: {alpha: {source: x.safetensors}}\nsheets: [shapes.yaml]\n"


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six pictures of one sheet with all their pages, below the working folder."""
    monkeypatch.chdir(tmp_path)
    build(Path("results"), make_pictures(Path("results"), 6))
    return Path("results")


def build(results: Path, pictures: list[GalleryPicture]) -> None:
    make_contact_sheet(results, pictures, results / "shapes/contact-sheet.png", columns=3, thumbnail_px=32)
    build_gallery(results, pictures, {}, title="x", thumbnail_px=32)


def flip(path: Path, *, keep_time: bool = False) -> None:
    status, data = path.stat(), bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    if keep_time:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def strip(path: Path) -> None:
    Image.open(path).convert("RGB").save(path)


def picture(number: int) -> str:
    return f"shapes/alpha/scene-{number:02}-{100 + number}.png"


def verify(path: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str], str]:
    capsys.readouterr()
    code = main(["verify", path])
    said = capsys.readouterr()
    return code, said.out.splitlines(), said.err.strip()


def test_all_findings_are_listed_at_once(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (results / picture(0)).unlink()
    flip(results / picture(1))
    strip(results / picture(2))
    shutil.copy(results / picture(4), results / picture(3))
    make_picture(results, 9)
    code, lines, error = verify("results", capsys)
    assert code == 1
    assert lines[0] == f"missing: results/{picture(0)}"
    assert lines[1].startswith(f"damaged: results/{picture(1)} (")
    assert lines[2] == f"without metadata: results/{picture(2)}"
    assert lines[3] == f"changed since: results/{picture(3)}"
    assert lines[4] == f"not asked for any more: results/{picture(9)}"
    assert len(lines) == 5
    counts = "1 missing, 1 damaged, 1 without metadata, 1 changed since; 2 pictures are whole"
    assert error.startswith(f"E-IMAGE results 'results': {counts}.")


@pytest.mark.parametrize(("count", "said"), [(1, "1 picture is whole"), (2, "2 pictures are whole")])
def test_whole_pictures_are_counted(
    count: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    build(Path("results"), make_pictures(Path("results"), count))
    assert verify("results", capsys) == (0, [said], "")
    assert verify("results/shapes", capsys) == (0, [said], "")


def test_a_picture_that_is_not_asked_for_any_more_is_no_failure(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_picture(results, 9)
    code, lines, _ = verify("results", capsys)
    assert code == 0
    assert lines[-1] == "6 pictures are whole, 1 not asked for any more (see `darkroom prune`)"


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("shapes/contact-sheet.png", "damaged"),
        ("index.html", "damaged"),
        ("manifest.jsonl", "damaged"),
        (thumbnail_path("shapes/alpha/scene-00-100"), "damaged"),
        ("shapes/contact-sheet.png", "missing"),
        ("index.html", "missing"),
        ("manifest.jsonl", "missing"),
        (thumbnail_path("shapes/alpha/scene-00-100"), "missing"),
    ],
)
def test_pages_are_checked_too(path: str, kind: str, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if kind == "missing":
        (results / path).unlink()
    else:
        flip(results / path)
    code, lines, error = verify("results", capsys)
    assert code == 1
    assert any(line.startswith(f"{kind}: results/{path}") for line in lines)
    assert "6 pictures are whole" in error


def test_what_is_found_damaged_gets_another_time_so_that_the_next_run_sees_it(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = results / picture(0)
    flip(path, keep_time=True)
    before = path.stat().st_mtime_ns
    assert verify("results", capsys)[0] == 1
    assert path.stat().st_mtime_ns != before


@pytest.mark.parametrize(
    ("path", "code", "words"),
    [
        ("README.md", "E-INPUT", "verify takes a model folder, a PNG or a results folder"),
        ("a.safetensors", "E-INPUT", "darkroom convert a.safetensors FOLDER"),
        ("nothing.png", "E-IMAGE", "is missing"),
        ("nothing.jpg", "E-IMAGE", "is missing"),
        ("nothing", "E-INPUT", "does not exist"),
        ("models/diffusers/nothing", "E-MODEL", "the folder does not exist"),
        (".", "E-MODEL", "model_index.json"),
    ],
)
def test_what_is_neither_gets_the_right_message(
    path: str,
    code: str,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("README.md", "a.safetensors"):
        Path(name).write_text("x")
    _, _, error = verify(path, capsys)
    assert error.startswith(f"{code} ") and words in error


def test_the_grids_of_a_study_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    results = Path("results")
    table, pictures, layout = make_study(results, {"x": ["a", "b"]})
    make_contact_sheet(results, pictures, results / "study/contact-sheet.png", columns=3, thumbnail_px=32)
    build_gallery(results, pictures, {}, title="x", thumbnail_px=32)

    def said() -> list[str]:
        """What is said of grids; the study's other pages weren't made."""
        return [line for line in verify("results", capsys)[1] if "/grid." in line]

    assert said() == ["missing: results/study/grid.png"]
    part = split_page(table, next(table.all_pages()))[0]
    for name in ("grid.png", "grid.x-old.png"):
        draw_grid(GridRequest(results, table, part, layout["axes"]), results / "study" / name, {})
    assert said() == []
    flip(results / "study/grid.x-old.png")
    (line,) = said()
    assert line.startswith("damaged: results/study/grid.x-old.png (")


@pytest.fixture
def prune(results: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """`darkroom prune` where the sheet asks for the first two pictures only."""
    Path("shapes.yaml").write_text(SHEET)
    Path("config").mkdir()
    Path("config/config.yaml").write_text(CONFIG)

    def run(*options: str) -> list[str]:
        capsys.readouterr()
        assert main(["prune", *options]) == 0
        return capsys.readouterr().out.splitlines()

    return run


def test_pruning_lists_and_moves_nothing_without_being_told(prune: Callable[..., list[str]], results: Path) -> None:
    before = sorted(results.rglob("*"))
    *listed, last = prune()
    assert listed == [f"results/{picture(number)}" for number in (2, 3, 4, 5)]
    assert last.startswith("4 pictures that aren't asked for any more, ") and "--yes" in last
    assert sorted(results.rglob("*")) == before


def test_pruning_moves_pictures_with_their_thumbnails(prune: Callable[..., list[str]], results: Path) -> None:
    make_picture(results, 0, sheet="gone")
    theirs = (results / picture(2)).read_bytes()
    *_, last = prune("--yes")
    trash = Path(last.rpartition(" to ")[2])
    assert trash.parent == results / ".trash"
    assert (trash / picture(2)).read_bytes() == theirs
    assert (trash / thumbnail_path("shapes/alpha/scene-02-102")).exists()
    assert not (results / thumbnail_path("shapes/alpha/scene-02-102")).exists()
    assert not (results / "gone").exists()
    assert (results / index_path("shapes")).exists() and (results / "shapes/contact-sheet.png").exists()
    assert prune() == ["every picture, grid and page in results/ is asked for"]


def test_pruning_moves_grids_that_no_study_has(prune: Callable[..., list[str]], results: Path) -> None:
    for name in ("grid.png", "grid-2.look-a.png", "gridlock.png"):
        shutil.copy(results / picture(0), results / "shapes" / name)
    *listed, last = prune()
    assert listed[4:] == ["results/shapes/grid-2.look-a.png", "results/shapes/grid.png"]
    assert last.startswith("4 pictures and 2 grids that aren't asked for any more, ")
    *_, last = prune("--yes")
    assert (Path(last.rpartition(" to ")[2]) / "shapes/grid.png").exists()
    assert [path.name for path in results.glob("shapes/grid*")] == ["gridlock.png"]
    shutil.copy(results / picture(0), results / "shapes/grid.png")
    assert prune()[-1].startswith("1 grid that isn't asked for any more, ")


def test_pruning_moves_the_pages_of_studies_and_sheets_that_are_gone_and_scores_that_nobody_configures(
    prune: Callable[..., list[str]], results: Path
) -> None:
    pages = ["gone/contact-sheet.png", "shapes/study.csv", "shapes/study.html"]
    others = ["thumbnails/shapes/_measures.json", scores_path("shapes/alpha/scene-00-100")]
    for path in [*pages, *others, "shapes/notes.csv"]:
        (results / path).parent.mkdir(exist_ok=True, parents=True)
        (results / path).write_bytes(b"x")
    *listed, last = prune()
    assert listed[4:] == [f"results/{path}" for path in (*pages, others[1])]
    assert last.startswith("4 pictures and 3 pages and 1 score that aren't asked for any more, ")
    *_, last = prune("--yes")
    assert all((Path(last.rpartition(" to ")[2]) / path).exists() for path in [*pages, *others])
    assert not (results / "gone").exists() and (results / "shapes/notes.csv").exists()
    assert (results / "shapes/contact-sheet.png").exists()


def test_pruning_keeps_what_any_of_several_configurations_asks_for(prune: Callable[..., list[str]]) -> None:
    Path("more.yaml").write_text(CONFIG.replace("shapes.yaml", "other/shapes.yaml"))
    Path("other").mkdir()
    Path("other/shapes.yaml").write_text(SHEET.replace("-01", "-02").replace("101", "102"))
    *listed, _ = prune("--config", "config/config.yaml", "more.yaml")
    assert listed == [f"results/{picture(number)}" for number in (3, 4, 5)]
