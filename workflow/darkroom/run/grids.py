"""The grids of a run's studies: which files there are, what each is made from, and drawing one of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from darkroom.base.text import did_you_mean
from darkroom.config_output import MetadataConfig
from darkroom.errors import BadNameError
from darkroom.pictures.grid_parts import GridPart, cell_size, split_page
from darkroom.pictures.picture import GalleryPicture
from darkroom.pictures.study_table import Place, StudyTable, make_table
from darkroom.sheets.axes import slug_of
from darkroom.sheets.read import PlannedPicture, PlannedSheet

MOST_GRIDS = 24
"""More than these of a study aren't drawn; its page shows all."""
RESULTS = Path("results")
_MAX_STEM = 120


@dataclass(frozen=True, slots=True)
class Grid:
    """A grid and its file's name in results/SHEET/, without `.png`."""

    stem: str
    part: GridPart

    @property
    def file(self) -> str:
        return f"{self.stem}.png"


def list_grids(table: StudyTable) -> Iterator[Grid]:
    """All grids of a study, named by the labels in which they differ from the first page.

    `grid.png` is the first page; `grid.age-old.seeds-2.png` another one, `grid-2.png` the second part of the first.
    """
    first = next(table.all_pages())
    taken: set[str] = set()
    for page, cells in table.by_page():
        for part in split_page(cells, page):
            stem = _stem(table, part, first)
            if stem in taken:  # two labels with one form in a file's name
                stem = f"{stem}.{_hash([table.labels_of(page), part.number])}"
            taken.add(stem)
            yield Grid(stem, part)


def _stem(table: StudyTable, part: GridPart, first: Place) -> str:
    words = ["grid" if part.number == 1 else f"grid-{part.number}"]
    for number in table.pages:
        dimension, label = table.dimensions[number], table.dimensions[number].labels[part.page[number]]
        if part.page[number] != first[number]:
            words.append(f"{dimension.name.lower()}-{'none' if label == '~' else slug_of(label)}")
    stem = ".".join(words)
    if len(stem) <= _MAX_STEM:
        return stem
    return f"{stem[: _MAX_STEM - 11].rstrip('.')}.{_hash([table.labels_of(part.page), part.number])}"


def _hash(data: Any) -> str:
    return hashlib.sha256(json.dumps(data).encode()).hexdigest()[:10]


@dataclass(frozen=True)
class StudyGrids:
    """The grids of one study; `pictures` are the sheet's, by their paths below results/."""

    table: StudyTable
    axes: Sequence[Mapping[str, Any]]
    pictures: Mapping[str, PlannedPicture]

    @cached_property
    def by_stem(self) -> dict[str, Grid]:
        """The first MOST_GRIDS."""
        return {grid.stem: grid for grid, _ in zip(list_grids(self.table), range(MOST_GRIDS), strict=False)}

    def find(self, stem: str) -> Grid:
        """Raises BadNameError (E-NAME) for a name of no grid."""
        return find_grid(self.table.sheet, stem, self.by_stem)

    def shown(self, grid: Grid) -> list[PlannedPicture]:
        """The pictures of a grid, row by row."""
        return [self.pictures[self.table.cells[place].path] for place in grid.part.places(self.table)]

    def digest(self, stem: str) -> str:
        """Changes when a grid has to be drawn again."""
        grid = self.find(stem)
        part, table = grid.part, self.table
        lines = [[each.name, each.is_axis] for each in table.dimensions]
        labels = [
            None if dimension is None else [table.dimensions[dimension].labels[number] for number in numbers]
            for dimension, numbers in ((table.rows, part.rows), (table.columns, part.columns))
        ]
        page = [table.dimensions[number].labels[part.page[number]] for number in table.pages]
        size = cell_size(table, part.page)
        cells = [[each.path, each.request.to_json(), each.study] for each in self.shown(grid)]
        settings = [[axis["name"], axis["setting"]] for axis in self.axes]
        order = [table.rows, table.columns, part.number, part.count, size.factor, size.width, size.height]
        return hashlib.sha256(json.dumps([lines, labels, page, cells, settings, order]).encode()).hexdigest()


def find_grid(sheet: str, stem: str, known: Mapping[str, Grid]) -> Grid:
    """The grid of that name. Raises BadNameError (E-NAME) with the nearest one."""
    if stem not in known:
        hint = did_you_mean(stem, known, f"the sheet has {', '.join(known) or 'none'}", most=1)
        raise BadNameError("grid", f"results/{sheet}/{stem}.png", "is none of the sheet's grids", hint)
    return known[stem]


def grids_of(sheet: str, planned: PlannedSheet) -> StudyGrids | None:
    """The grids of a sheet; None if it is no study, or has no pictures."""
    if planned.study is None or not planned:
        return None
    pictures = [_placed(picture) for picture in planned]
    table = make_table(sheet, pictures, planned.study)
    return StudyGrids(table, planned.study["axes"], {picture.path: picture for picture in planned})


def _placed(picture: PlannedPicture) -> GalleryPicture:
    """What the table and the grids' sizes take from a picture."""
    width, height = picture.request.sizes[-1]
    size = {"width": width, "height": height}
    names = ("sheet", "checkpoint", "id", "seed", "path", "study", "stage", "before", "is_result")
    return GalleryPicture(request=size, **{name: getattr(picture, name) for name in names})


def make_grid_file(plan_file: Path, sheet: str, output: Path, missing: Mapping[str, str] | None = None) -> str:
    """Draw one of a study's grids from the plan that a run left; returns a line that says so.

    `missing` says of pictures by name why they aren't there. Raises ImageError (E-IMAGE) for a damaged picture, and
    BadNameError (E-NAME) if the plan has no such grid.
    """
    from darkroom.pictures.grid import GridRequest, draw_grid
    from darkroom.pictures.text_layout import lacks_shaping

    plan = json.loads(plan_file.read_text(encoding="utf-8"))
    layout = plan["studies"].get(sheet, {"axes": [], "grid": {}})
    pictures = [GalleryPicture(**picture) for picture in plan["sheets"].get(sheet, []) if sheet in plan["studies"]]
    table = make_table(sheet, pictures, layout)
    grids = list(list_grids(table)) if pictures else []
    grid = find_grid(sheet, output.stem, {grid.stem: grid for grid in grids})
    metadata = MetadataConfig.model_validate(plan["config"].get("metadata", {}))
    draw_grid(GridRequest(RESULTS, table, grid.part, layout["axes"], metadata), output, missing or {})
    line = f"{output}: {len(grid.part.places(table))} pictures"
    if len(grids) > MOST_GRIDS:
        line += f"; {MOST_GRIDS} of {len(grids):,} grids are drawn, results/{sheet}/study.html has all"
    labels = [label for dimension in table.dimensions for label in dimension.labels]
    if lacks_shaping(labels):
        line += "; Pillow finds no FriBiDi (libfribidi): letters that should be joined stand alone"
    return line
