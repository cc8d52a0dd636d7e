"""A study's table and measures as files among the results: `darkroom verify` and planning see damage, pruning takes them along."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from darkroom.cli.command import main
from darkroom.pictures.contact_sheet import make_contact_sheet
from darkroom.pictures.damage import ResultsCheck
from darkroom.pictures.gallery import build_gallery
from darkroom.pictures.measures import load_measures, measures_path
from darkroom.pictures.records import load_index
from darkroom.run.results import find_not_asked_for, prune_pictures
from tests.fixtures.measured_study import Study, scene

RESULTS = Path("results")
FILES = ["s/study.csv", measures_path("s")]


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """A study of two cells with all its pages."""
    monkeypatch.chdir(tmp_path)
    made = Study({"age": ["young", "old"]})
    made.add(scene(1), age="young")
    made.add(scene(2), age="old")
    make_contact_sheet(RESULTS, made.pictures, RESULTS / "s/contact-sheet.png", columns=2, thumbnail_px=32)
    made.measure()
    build_gallery(RESULTS, made.pictures, {}, title="x", thumbnail_px=32)
    return made


def is_current(study: Study) -> bool:
    check = ResultsCheck(RESULTS, Path("memory.json"))
    index = load_index(RESULTS, "s")
    found = check.is_study_current("s", [index[picture.name].sha256 for picture in study.pictures])
    check.save()
    return found


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")


def test_the_gallery_leaves_the_measures_of_studies_where_they_are(study: Study) -> None:
    assert len(load_measures(RESULTS, "s")) == 2
    others = [picture for picture in study.pictures if picture.id == "none"]
    build_gallery(RESULTS, others, {}, title="x", thumbnail_px=32)
    assert not (RESULTS / measures_path("s")).exists()


@pytest.mark.parametrize("damage", [cut, append, Path.unlink])
@pytest.mark.parametrize("path", FILES)
def test_planning_finds_a_damaged_table(path: str, damage: Callable[[Path], None], study: Study) -> None:
    assert is_current(study) and is_current(study)
    damage(RESULTS / path)
    assert not is_current(study)
    assert not is_current(study), "found once, it is found again"
    study.measure()
    assert is_current(study)


def test_a_table_of_other_pictures_is_out_of_date(study: Study) -> None:
    assert is_current(study)
    table = (RESULTS / FILES[0]).read_bytes()
    study.pictures.pop()
    study.add(scene(3), age="old")
    make_contact_sheet(RESULTS, study.pictures, RESULTS / "s/contact-sheet.png", columns=2, thumbnail_px=32)
    assert not is_current(study)
    study.measure()
    assert is_current(study)
    (RESULTS / FILES[0]).write_bytes(table)  # as Snakemake does after a job that failed
    assert not is_current(study)


def test_files_that_are_known_are_not_read(study: Study) -> None:
    assert is_current(study)
    memory = json.loads(Path("memory.json").read_text())
    for path in FILES:
        status = (RESULTS / path).stat()
        (RESULTS / path).write_bytes(bytes(status.st_size))
        memory["s/study.csv"] = [
            (RESULTS / path).stat().st_mtime_ns if each == status.st_mtime_ns else each
            for each in memory["s/study.csv"]
        ]
    Path("memory.json").write_text(json.dumps(memory))
    assert is_current(study)


@pytest.mark.parametrize(("damage", "kind"), [(append, "damaged"), (Path.unlink, "missing")])
@pytest.mark.parametrize("path", FILES)
def test_verify_says_so(
    path: str, damage: Callable[[Path], None], kind: str, study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    def said() -> list[str]:
        """What is said of the table and the measures; the study's other pages weren't made."""
        capsys.readouterr()
        assert main(["verify", "results"]) == 1
        return [line for line in capsys.readouterr().out.splitlines() if any(file in line for file in FILES)]

    assert said() == []
    damage(RESULTS / path)
    assert said() == [f"{kind}: results/{path}"]
    assert not is_current(study)


def test_pruning_takes_them_along_with_the_last_picture(study: Study) -> None:
    found = find_not_asked_for([])
    assert set(FILES) <= set(found[study.pictures[0].path]) | set(found[study.pictures[1].path])
    trash = prune_pictures(found)
    assert all((trash / path).exists() and not (RESULTS / path).exists() for path in FILES)
