"""Grids: every label and picture is there, at both edges of large ones; excluded and missing cells; metadata."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageStat

from darkroom.errors import ImageError
from darkroom.pictures import grid
from darkroom.pictures.contact_sheet import MARGIN, MAX_PIXELS, PAPER
from darkroom.pictures.formats import PNG, check_picture
from darkroom.pictures.grid import GridRequest, describe_page, draw_grid
from darkroom.pictures.grid_parts import GAP, MOST_EDGE, cell_size, picture_size, split_page
from darkroom.pictures.infotext import read_infotext
from darkroom.pictures.missing import NOT_YET, find_missing
from darkroom.pictures.picture import GalleryPicture
from darkroom.pictures.records import digest_pictures
from darkroom.pictures.study_table import StudyTable, make_table
from darkroom.request.render_request import RenderRequest
from tests.fixtures.studies import make_study

AXES = {"cfg_scale": ["4", "7.5"], "age": ["young", "old", "ancient"]}
Labels = Mapping[str, str]


def cfg(labels: Labels) -> dict[str, Any]:
    return {"cfg_scale": float(labels["cfg_scale"])} if "cfg_scale" in labels else {}


def draw(
    results: Path,
    made: tuple[StudyTable, list[GalleryPicture], dict[str, Any]],
    missing: Mapping[str, str] | None = None,
) -> tuple[Image.Image, grid._Layout, dict[str, str]]:
    """The first page of a study, how it is laid out, and its texts."""
    table, _, layout = made
    request = GridRequest(results, table, split_page(table, next(table.all_pages()))[0], layout["axes"])
    out = results / "grid.png"
    draw_grid(request, out, missing or {})
    check_picture(out)
    with Image.open(out) as image:
        return image.convert("RGB"), grid._fit(request, missing or {}, out), PNG.read_text(out.read_bytes(), out)


def box(layout: grid._Layout, row: int, column: int) -> tuple[int, int, int, int]:
    """Where a cell is on the page."""
    x = layout.left + column * (layout.column_width + GAP)
    y = layout.top + sum(layout.heights[:row]) + row * GAP
    return x, y, x + layout.column_width, y + layout.heights[row]


def has_ink(page: Image.Image, area: tuple[int, int, int, int]) -> bool:
    part = page.crop(area)
    return ImageChops.difference(part, Image.new("RGB", part.size, PAPER)).getbbox() is not None


@pytest.mark.parametrize(("size", "shown"), [(64, 128), (72, 144), (128, 128), (200, 200), (768, 512)])
def test_each_cell_shows_its_picture(tmp_path: Path, size: int, shown: int) -> None:
    made = make_study(tmp_path, AXES, settings=cfg, size=size)
    page, layout, _ = draw(tmp_path, made)
    assert layout.cell.width == layout.cell.height == shown
    for picture in made[1]:
        labels = picture.study["axes"]
        row, column = AXES["age"].index(labels["age"]), AXES["cfg_scale"].index(labels["cfg_scale"])
        x, y, right, bottom = box(layout, row, column)
        left, top = (x + right - shown) // 2, (y + bottom - shown) // 2
        cell = page.crop((left, top, left + shown, top + shown))
        how = Image.Resampling.NEAREST if shown > size else Image.Resampling.LANCZOS
        with Image.open(tmp_path / picture.path) as image:
            expected = image.convert("RGB").resize((shown, shown), how)
        assert max(ImageStat.Stat(ImageChops.difference(cell, expected)).mean) < 1, labels


def test_pictures_of_a_page_are_drawn_by_one_factor(tmp_path: Path) -> None:
    def size(labels: Labels) -> dict[str, Any]:
        return {"width": int(labels["width"])}

    table, _, _ = make_study(tmp_path, {"width": ["256", "1024"]}, settings=size, size=512)
    assert cell_size(table, next(table.all_pages())).width == 512
    assert cell_size(table, next(table.all_pages())).height == 256
    assert cell_size(table, next(table.all_pages())).factor == 0.5


def test_a_picture_of_stages_is_shown_in_the_size_of_its_last_one() -> None:
    assert picture_size({"width": 64, "height": 72}) == (64, 72)
    stages = [{"outpaint": {"right": 8}}, {"upscale": {"scale": 2}}]
    assert picture_size({"prompt": "a cat", "width": 64, "height": 72, "stages": stages}) == (144, 144)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (8, 8), (9, 3), (3, 9)])
def test_heads_stand_at_both_edges_of_large_grids_and_nowhere_else(tmp_path: Path, rows: int, columns: int) -> None:
    axes = {"x": [f"c{n}" for n in range(columns)], "y": [f"r{n}" for n in range(rows)]}
    made = make_study(tmp_path, axes, grid={"rows": "y", "columns": "x"})
    page, layout, _ = draw(tmp_path, made)
    x, _, right, _ = box(layout, 0, columns - 1)
    assert has_ink(page, (x, layout.top - layout.head_height, right, layout.top - 1))
    below = layout.bottom < page.height - MARGIN and has_ink(page, (x, layout.bottom + 1, right, page.height))
    assert below == (rows > 8)
    _, y, _, bottom = box(layout, rows - 1, 0)
    assert has_ink(page, (0, y, layout.left - 1, bottom))
    assert has_ink(page, (layout.right, y, page.width, bottom)) == (columns > 8)


@pytest.mark.parametrize(
    "label",
    ["w" * 200, "a harbour at dusk " * 12, "بالعربية " * 25, "日本語" * 66, "😀" * 100],
    ids=lambda text: text[:6],
)
def test_labels_of_200_characters_are_never_cut(tmp_path: Path, label: str) -> None:
    """Their ink ends within the page and doesn't touch the cells, for heads of rows and of columns."""
    made = make_study(tmp_path, {"x": [label, "b"], "y": [label, "d"]}, grid={"rows": "y", "columns": "x"})
    page, layout, _ = draw(tmp_path, made)
    for block in (layout.row_heads[0], layout.column_heads[0]):
        written = "".join(run.text for line in block.lines for run in line.runs)
        assert sorted(written.replace(" ", "")) == sorted(label.replace(" ", ""))
    assert layout.row_heads[0].height <= layout.heights[0] and layout.column_heads[0].height <= layout.head_height
    assert layout.column_heads[0].width <= layout.column_width and layout.row_heads[0].width <= layout.head_width
    x, y, right, bottom = box(layout, 0, 0)
    assert not has_ink(page, (x, y - 2, right, y)) and not has_ink(page, (x - 2 * GAP, y, x, bottom))
    assert not has_ink(page, (0, 0, MARGIN, page.height)) and not has_ink(page, (0, 0, page.width, MARGIN - 2))


def test_an_excluded_place_is_empty_and_a_missing_picture_hatched(tmp_path: Path) -> None:
    made = make_study(
        tmp_path, AXES, settings=cfg, size=128, is_there=lambda each: each != {"cfg_scale": "4", "age": "old"}
    )
    _, pictures, _ = made
    gone = pictures[-1]
    (tmp_path / gone.path).unlink()
    page, layout, texts = draw(tmp_path, made, {gone.name: "E-OOM picture 'a': did not fit. Hint: buy more."})
    assert not has_ink(page, box(layout, 1, 0))
    hatched = page.crop(box(layout, 2, 1))
    assert len(set(hatched.get_flattened_data())) > 3 and has_ink(page, box(layout, 2, 1))
    others, _, whole = draw(tmp_path, made, {gone.name: NOT_YET})
    assert ImageChops.difference(page.crop(box(layout, 2, 1)), others.crop(box(layout, 2, 1))).getbbox()
    assert not ImageChops.difference(page.crop(box(layout, 0, 0)), others.crop(box(layout, 0, 0))).getbbox()
    assert texts["pictures"] == whole["pictures"] != digest_pictures(["x"])
    with pytest.raises(ImageError, match=gone.path):
        draw(tmp_path, made)


def test_a_long_reason_makes_its_row_higher(tmp_path: Path) -> None:
    made = make_study(tmp_path, AXES, settings=cfg)
    gone = made[1][0]
    _, layout, _ = draw(tmp_path, made, {gone.name: "E-OOM picture 'a': " + "did not fit " * 60})
    assert layout.heights[0] > 400 and layout.heights[1] == 128


def test_the_reason_is_the_error_in_the_pictures_log(tmp_path: Path) -> None:
    _, pictures, _ = make_study(tmp_path, AXES, settings=cfg)
    for picture in pictures[:2]:
        (tmp_path / picture.path).unlink()
    log = tmp_path / f"logs/{pictures[0].name}.log"
    log.parent.mkdir(parents=True)
    log.write_text("E-OOM picture 'x': too large. Hint: smaller.\nE-IMAGE of another\n")
    found = find_missing(tmp_path, pictures, tmp_path / "logs")
    assert found == {pictures[0].name: "E-OOM picture 'x': too large. Hint: smaller.", pictures[1].name: NOT_YET}


def test_a_page_beyond_the_limit_is_split_and_every_picture_is_in_one_part(tmp_path: Path) -> None:
    """Nothing is drawn: a page of 4,000 cells would take gigabytes."""
    cells = [(str(x), str(y)) for y in range(80) for x in range(50)]
    request = RenderRequest(prompt="a", width=1024, height=768).model_dump(mode="json")
    pictures = [
        GalleryPicture("s", "c", f"p{x}.{y}", 1, f"s/c/{x}.{y}.png", request, {"prompt": "p", "axes": {"x": x, "y": y}})
        for x, y in cells
    ]
    axes = [{"name": "x", "labels": [], "plain": None}, {"name": "y", "labels": [], "plain": None}]
    table = make_table("s", pictures, {"axes": axes, "grid": {"rows": "y", "columns": "x"}})
    parts = split_page(table, next(table.all_pages()))
    size = cell_size(table, parts[0].page)
    assert (size.width, size.height) == (512, 384)
    assert sorted(place for part in parts for place in part.places(table)) == sorted(table.cells)
    for part in parts:
        width, height = len(part.columns) * (512 + GAP), len(part.rows) * (384 + GAP)
        assert width * height < MAX_PIXELS and max(width, height) <= MOST_EDGE
    assert [(part.number, part.count) for part in parts] == [(n, len(parts)) for n in range(1, len(parts) + 1)]
    assert max(len(part.rows) for part in parts) - min(len(part.rows) for part in parts) <= 1
    assert describe_page(table, parts[1]) == f"part 2 of {len(parts)}"


def test_cells_shrink_where_labels_leave_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_study(tmp_path, AXES, settings=cfg, size=256)
    monkeypatch.setattr(grid, "MAX_PIXELS", 300_000)
    page, layout, _ = draw(tmp_path, made)
    assert page.width * page.height <= 300_000 and layout.cell.width < 256


def test_labels_that_no_grid_can_hold_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_study(tmp_path, {"x": ["a " * 2000, "b"]})
    monkeypatch.setattr(grid, "MAX_PIXELS", 100_000)
    monkeypatch.setattr(grid.png, "MAX_PIXELS", 100_000)
    with pytest.raises(ImageError, match=r"labels alone.*Hint: give long values labels"):
        draw(tmp_path, made)


def test_the_metadata_is_that_of_an_xyz_plot(tmp_path: Path) -> None:
    axes = {"cfg_scale": ["4", "7.5"], "age": ["young", "old, and grey"], "seeds": ["1", "2"]}

    def settings(labels: Labels) -> dict[str, Any]:
        return {**cfg(labels), "seed": int(labels["seeds"])}

    _, _, texts = draw(tmp_path, make_study(tmp_path, axes, settings=settings))
    info = read_infotext(texts["parameters"])["settings"]
    assert {key: info[key] for key in info if key == "Script" or key[1:2] == " "} == {
        "Script": "X/Y/Z plot",
        "X Type": "CFG Scale",
        "X Values": "4,7.5",
        "Y Type": "age",
        "Y Values": 'young,"old, and grey"',
        "Z Type": "Seed",
        "Z Values": "1",
    }
    assert info["Version"] and info["Steps"] == "20"
    assert json.loads(texts["study"]) == {
        "sheet": "study",
        "rows": {"age": ["young", "old, and grey"]},
        "columns": {"cfg_scale": ["4", "7.5"]},
        "page": {"seeds": "1"},
    }


@pytest.mark.parametrize(
    ("axis", "labels", "setting", "kind", "values"),
    [
        ("quality", ["low", "high"], "steps", "Steps", "5,9"),
        ("look", ["a", "b"], "sampler", "Sampler", "Euler,Heun"),
        ("hair", ["~", "blue hair"], {"swap": "red hair"}, "Prompt S/R", "red hair,blue hair"),
        ("size", ["wide", "tall"], "height,width", "Size", "128x64,64x128"),
        ("skip", ["~", "2"], "clip_skip", "Clip skip", "0,2"),
        ("vae", ["~", "soft"], "vae", "VAE", "Automatic,soft"),
        ("mood", ["calm", "wild"], None, "mood", "calm,wild"),
        ("weights", ["half", "full"], "checkpoints", "Checkpoint name", "alpha,alpha"),
        ("luck", ["good", "bad"], "seeds", "Seed", "7,13"),
    ],
)
def test_an_axis_has_a1111s_name_and_values(
    tmp_path: Path, axis: str, labels: Sequence[str], setting: Any, kind: str, values: str
) -> None:
    changes: dict[str, Sequence[dict[str, Any]]] = {
        "quality": ({"steps": 5}, {"steps": 9}),
        "look": ({"sampler": "Euler"}, {"sampler": "Heun"}),
        "size": ({"width": 128}, {"height": 128}),
        "skip": ({}, {"clip_skip": 2}),
        "vae": ({}, {"vae": "soft"}),
        "luck": ({"seed": 7}, {"seed": 13}),
    }

    def settings(each: Labels) -> dict[str, Any]:
        return changes.get(axis, ({}, {}))[labels.index(each[axis])]

    table, pictures, layout = make_study(tmp_path, {axis: labels}, settings=settings)
    layout["axes"][0]["setting"] = setting
    _, _, texts = draw(tmp_path, (table, pictures, layout))
    info = read_infotext(texts["parameters"])["settings"]
    assert (info["X Type"], info["X Values"]) == (kind, values)


def test_an_independent_reader_understands_the_grid(tmp_path: Path) -> None:
    from sd_parsers import ParserManager

    _, pictures, _ = made = make_study(tmp_path, AXES, settings=cfg)
    draw(tmp_path, made)
    info = ParserManager().parse(tmp_path / "grid.png")
    assert info is not None
    (sampler,) = info.samplers
    assert [each.value for each in sampler.prompts] == [pictures[0].request["prompt"]]
    assert sampler.parameters["seed"] == "7" and sampler.parameters["cfg_scale"] == "4"
    assert info.metadata["Script"] == "X/Y/Z plot"


def test_the_same_study_gives_the_same_bytes(tmp_path: Path) -> None:
    made = make_study(tmp_path, AXES, settings=cfg)
    draw(tmp_path, made)
    first = (tmp_path / "grid.png").read_bytes()
    draw(tmp_path, made)
    assert (tmp_path / "grid.png").read_bytes() == first


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    made = make_study(tmp_path, AXES, settings=cfg)
    path = tmp_path / made[1][2].path
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ImageError, match=path.name):
        draw(tmp_path, made)


def test_planning_draws_nothing(tmp_path: Path) -> None:
    code = "import sys, darkroom.run.grids; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"PIL", "torch"} & set(done.stdout.split())


def test_a_study_without_rows_has_one_line_of_pictures(tmp_path: Path) -> None:
    made = make_study(tmp_path, {"x": ["a", "b", "c"]})
    page, layout, texts = draw(tmp_path, made)
    assert layout.left == MARGIN and layout.row_heads == () and has_ink(page, box(layout, 0, 2))
    assert "Y Type" not in texts["parameters"]
    table = replace(made[0], rows=made[0].columns, columns=None)
    _, layout, texts = draw(tmp_path, (table, made[1], made[2]))
    assert len(layout.row_heads) == 3 and "X Type" not in texts["parameters"]
