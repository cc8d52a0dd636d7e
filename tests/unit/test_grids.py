"""Which grids a study has, what their files are called, and when one has to be drawn again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from darkroom.config import parse_config
from darkroom.errors import BadNameError
from darkroom.pictures.records import find_grids
from darkroom.run import grids
from darkroom.run.grids import MOST_GRIDS, StudyGrids, grids_of, make_grid_file
from darkroom.run.plan import Plan
from darkroom.sheets.read import load_pictures

CONFIG: dict[str, Any] = {
    "checkpoints": {"base": {"source": "a.safetensors"}},
    "render": {"width": 64, "height": 64, "steps": 4, "sampler": "DDIM"},
}
PROMPT = "prompts: [{id: cat, prompt: a cat}]\n"
Read = Callable[..., StudyGrids]


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Read:
    """The grids of a sheet's text."""
    monkeypatch.chdir(tmp_path)

    def read(text: str, **render: Any) -> StudyGrids:
        Path("s.yaml").write_text(PROMPT + text, encoding="utf-8")
        config = {**CONFIG, "render": CONFIG["render"] | render, "sheets": ["s.yaml"]}
        found = grids_of("s", load_pictures(parse_config(config))["s"])
        assert found is not None
        return found

    return read


@pytest.mark.parametrize(
    ("text", "stems"),
    [
        ("axes: {steps: [1, 2], cfg_scale: [3, 4]}", ["grid"]),
        (
            "axes: {steps: [1, 2], cfg_scale: [3, 4], Sampler-x: {sampler: [Euler, DPM++ 2M]}}",
            ["grid", "grid.sampler-x-dpmpp-2m"],
        ),
        (
            "defaults: {seeds: [1, 2]}\naxes: {steps: [1, 2], cfg_scale: [3, 4], eta: [0.5, ~]}",
            ["grid", "grid.seeds-2", "grid.eta-none", "grid.eta-none.seeds-2"],
        ),
        (
            "axes: {steps: [1, 2], cfg_scale: [3, 4], look: {雪: ~, 火: {eta: 1}}}",
            ["grid", "grid.look-6a1ae9bf"],
        ),
        ("grid: {rows: prompts, columns: seeds}\ndefaults: {seeds: [1, 2]}", ["grid"]),
    ],
)
def test_grids_are_named_by_the_labels_that_differ_from_the_first_page(read: Read, text: str, stems: list[str]) -> None:
    found = list(read(text).by_stem)
    assert [stem if "look" not in stem else stem[:10] for stem in found] == [
        stem if "look" not in stem else stem[:10] for stem in stems
    ]


def test_a_value_and_an_axis_more_leave_the_names_of_the_other_grids(read: Read) -> None:
    before = "axes: {steps: [1, 2], cfg_scale: [3, 4], clip_skip: [1, 2]}"
    after = "axes: {steps: [1, 2], cfg_scale: [3, 4], clip_skip: [1, 3, 2], eta: [~, 1]}"
    assert set(read(before).by_stem) < set(read(after).by_stem)


def test_labels_of_one_form_and_long_labels_have_names_of_their_own(read: Read) -> None:
    text = "axes: {steps: [1, 2], cfg_scale: [3, 4], a: {one: {eta: 0.1}, x.b-y: {eta: 0.2}, x: {eta: 0.3}}, b: {p: {vae: ~, clip_skip: 1}, y: {clip_skip: 2}}}"
    stems = list(read(text).by_stem)
    assert len(stems) == len(set(stems)) == 6
    values = ", ".join(f"{'long label ' * 5}{n}: {{eta: 0.{n}}}" for n in range(1, 4))
    axes = f"axes: {{steps: [1, 2], cfg_scale: [3, 4], {'a' * 60}: {{{values}}}, {'b' * 60}: {{p: ~, q: {{clip_skip: 2}}}}}}"
    stems = list(read(axes).by_stem)
    assert len(stems) == len(set(stems)) == 6 and max(map(len, stems)) <= 120


def test_parts_of_a_large_page_are_numbered(read: Read) -> None:
    text = "axes: {seeds: {from: 1, to: 40, step: 1}, cfg_scale: {from: 1, to: 20, step: 1}, eta: [0, 1]}\ngrid: {rows: seeds, columns: cfg_scale}"
    stems = list(read(text, width=1024, height=1024).by_stem)
    assert stems[:2] == ["grid", "grid-2"] and {"grid.eta-1", "grid-2.eta-1"} <= set(stems)


def test_no_more_than_the_limit_are_drawn(read: Read) -> None:
    found = read("axes: {steps: [1, 2], cfg_scale: [3, 4], seeds: {from: 1, to: 30, step: 1}}")
    assert len(found.by_stem) == MOST_GRIDS == 24 and len(list(grids.list_grids(found.table))) == 30


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        (("eta: [0, 1]", "eta: [0, 1, 0.5]"), set()),
        (("a cat", "a dog"), {"grid", "grid.eta-1"}),
        (("[3, 4]", "[4, 3]"), {"grid", "grid.eta-1"}),
        (("id: cat", "id: dog"), {"grid", "grid.eta-1"}),
        (("exclude: []", "exclude: [{eta: 1, steps: 1, cfg_scale: 3}]"), {"grid.eta-1"}),
        (("grid: {rows: steps}", "grid: {columns: steps}"), {"grid", "grid.eta-1"}),
    ],
)
def test_a_grid_is_drawn_again_when_what_it_shows_changes(
    read: Read, monkeypatch: pytest.MonkeyPatch, change: tuple[str, str], changed: set[str]
) -> None:
    text = f"{PROMPT}axes: {{steps: [1, 2], cfg_scale: [3, 4], eta: [0, 1]}}\nexclude: []\ngrid: {{rows: steps}}\n"
    monkeypatch.setattr(f"{__name__}.PROMPT", "")
    before, after = read(text), read(text.replace(*change))
    assert {stem for stem in before.by_stem if before.digest(stem) != after.digest(stem)} == changed


def test_an_unknown_grid_is_refused_with_the_nearest(read: Read) -> None:
    found = read("axes: {steps: [1, 2], cfg_scale: [3, 4], eta: [0, 1]}")
    with pytest.raises(BadNameError, match=r"E-NAME grid 'results/s/grid.eta-2.png': .*grid.eta-1"):
        found.find("grid.eta-2")


def test_a_sheet_that_is_no_study_has_no_grids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("s.yaml").write_text(PROMPT)
    config = parse_config({**CONFIG, "sheets": ["s.yaml"]})
    plan = Plan(config, cast("Any", None), load_pictures(config))
    assert plan.grid_paths() == [] and plan.grids == {}
    with pytest.raises(BadNameError, match="is no study"):
        plan.grids_of_sheet("s")
    Path("plan.json").write_text('{"sheets": {"s": []}, "studies": {}}')
    with pytest.raises(BadNameError, match=r"E-NAME grid 'results/s/grid.png'"):
        make_grid_file(Path("plan.json"), "s", Path("results/s/grid.png"))


def test_only_grids_are_found_as_grids(tmp_path: Path) -> None:
    for name in ("grid.png", "grid-2.png", "grid.eta-1.png", "grid-3.eta-1.b-2.png", "gridlock.png", "grid-x.png"):
        (tmp_path / "s").mkdir(exist_ok=True)
        (tmp_path / "s" / name).touch()
    assert find_grids(tmp_path) == ["s/grid-2.png", "s/grid-3.eta-1.b-2.png", "s/grid.eta-1.png", "s/grid.png"]
