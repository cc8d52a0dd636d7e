"""A study as a table: its pictures by their place along each dimension, for grids, the study's page and study.csv.

Dimensions are the sheet's axes in their order, then prompts, checkpoints, draws and seeds, as far as these tell pictures
apart. Two of them run along the rows and columns; the others have one value a page.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from darkroom.pictures.picture import GalleryPicture

Place = tuple[int, ...]
"""For each dimension of a table the number of a label."""
PROMPTS = "prompts"


@dataclass(frozen=True, slots=True)
class Dimension:
    """A dimension and its labels, at least one; `base` is the number of the label that cells are compared with."""

    name: str
    labels: tuple[str, ...]
    base: int = 0
    is_axis: bool = False


@dataclass(frozen=True, slots=True)
class StudyTable:
    """The pictures of a study by their place. `rows` and `columns` are numbers of dimensions, None for a single line.

    A place without a picture was excluded, or belongs to a prompt that doesn't have that value. `bases` has by dimension and
    prompt's number the label that stands in for the dimension's base where a prompt doesn't have that. `pictures` are all of
    the sheet in its order, with those that are only there for the stages after them, which are no cells.
    """

    sheet: str
    dimensions: tuple[Dimension, ...]
    rows: int | None
    columns: int | None
    cells: Mapping[Place, GalleryPicture]
    bases: Mapping[tuple[int, int], int] = field(default_factory=dict)
    pictures: tuple[GalleryPicture, ...] = ()

    @property
    def pages(self) -> tuple[int, ...]:
        """The numbers of the dimensions with several labels that are neither rows nor columns."""
        shown = (self.rows, self.columns)
        return tuple(n for n, each in enumerate(self.dimensions) if len(each.labels) > 1 and n not in shown)

    def all_pages(self) -> Iterator[Place]:
        """A place of each page that has pictures, with 0 for rows and columns, in the dimensions' order."""
        pages = set(self.pages)
        used = {tuple(at if n in pages else 0 for n, at in enumerate(place)) for place in self.cells}
        yield from sorted(used)

    def by_page(self) -> Iterator[tuple[Place, StudyTable]]:
        """Each of `all_pages` with the table of its cells alone."""
        pages = set(self.pages)
        found: dict[Place, dict[Place, GalleryPicture]] = {page: {} for page in self.all_pages()}
        for place, picture in self.cells.items():
            found[tuple(at if n in pages else 0 for n, at in enumerate(place))][place] = picture
        for page, cells in found.items():
            yield page, replace(self, cells=cells)

    def lines(self, page: Place) -> tuple[list[int], list[int]]:
        """The labels' numbers along the rows and along the columns that have pictures on a page; [0] for None."""
        pages = self.pages
        there = [place for place in self.cells if all(place[n] == page[n] for n in pages)]
        used = [[0] if n is None else sorted({place[n] for place in there}) for n in (self.rows, self.columns)]
        return used[0], used[1]

    def at(self, page: Place, row: int, column: int) -> Place:
        """The place on a page where a row and a column meet."""
        place = list(page)
        for number, at in ((self.rows, row), (self.columns, column)):
            if number is not None:
                place[number] = at
        return tuple(place)

    def base_of(self, place: Place) -> Place:
        """The place that a cell is compared with: the same but for the axes, which have their base values."""
        return tuple(self._base(place, n) if each.is_axis else place[n] for n, each in enumerate(self.dimensions))

    def without(self, place: Place, axis: int) -> Place:
        """The place that differs only in having the base value of one axis."""
        return (*place[:axis], self._base(place, axis), *place[axis + 1 :])

    def _base(self, place: Place, axis: int) -> int:
        prompts = next((n for n, each in enumerate(self.dimensions) if each.name == PROMPTS), None)
        own = None if prompts is None else self.bases.get((axis, place[prompts]))
        return self.dimensions[axis].base if own is None else own

    def labels_of(self, place: Place) -> dict[str, str]:
        """The label along each dimension, by the dimensions' names."""
        return {each.name: each.labels[at] for each, at in zip(self.dimensions, place, strict=True)}


def make_table(sheet: str, planned: Sequence[GalleryPicture], layout: Mapping[str, Any]) -> StudyTable:
    """The table of a study's pictures; `layout` is the sheet's entry under `studies` in a run's plan."""
    pictures = [picture for picture in planned if picture.is_result]
    facts = [picture.study or {} for picture in pictures]
    labels = {
        **{axis["name"]: [_axis_label(axis, each) for each in facts] for axis in layout["axes"]},
        PROMPTS: [str(each.get("prompt", picture.id)) for each, picture in zip(facts, pictures, strict=True)],
        "checkpoints": [picture.checkpoint for picture in pictures],
        "draw": [str(each.get("draw", 1)) for each in facts],
        "seeds": [str(picture.seed) for picture in pictures],
    }
    axes = {axis["name"]: axis for axis in layout["axes"]}
    kept = {*axes, *layout["grid"].values()}
    for name in (name for name in ("checkpoints", "draw", "seeds") if name not in kept):
        others = [each for other, each in labels.items() if other != name]
        if len(set(zip(*others, strict=True))) == len(pictures):  # an axis decides it, or there is only one
            del labels[name]
    dimensions = tuple(_dimension(name, found, axes.get(name)) for name, found in labels.items())
    numbers = [{label: n for n, label in enumerate(each.labels)} for each in dimensions]
    cells = {
        tuple(number[label] for number, label in zip(numbers, each, strict=True)): picture
        for picture, each in zip(pictures, zip(*labels.values(), strict=True), strict=True)
    }
    rows, columns = _choose_lines(dimensions, layout["grid"])
    return StudyTable(sheet, dimensions, rows, columns, cells, _find_bases(dimensions, cells), tuple(planned))


def _find_bases(dimensions: Sequence[Dimension], places: Iterable[Place]) -> dict[tuple[int, int], int]:
    """The base labels of prompts that don't have an axis' own: the first that a prompt has."""
    prompts = next(n for n, each in enumerate(dimensions) if each.name == PROMPTS)
    used: dict[tuple[int, int], set[int]] = {}
    for place in places:
        for number, each in enumerate(dimensions):
            if each.is_axis:
                used.setdefault((number, place[prompts]), set()).add(place[number])
    return {key: min(labels) for key, labels in used.items() if dimensions[key[0]].base not in labels}


def _axis_label(axis: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """An axis' label for a picture: `~` where the axis says nothing of its prompt."""
    return str(facts.get("axes", {}).get(axis["name"], axis["plain"] or "~"))


def _dimension(name: str, found: Sequence[str], axis: Mapping[str, Any] | None) -> Dimension:
    """The labels that pictures have: an axis' in the sheet's order, with those that only `include` names at the end."""
    used = dict.fromkeys(found)
    if axis is None:
        return Dimension(name, tuple(used))
    labels = tuple(dict.fromkeys([*(label for label in axis["labels"] if label in used), *used]))
    base = labels.index(axis["plain"]) if axis["plain"] in labels else 0
    return Dimension(name, labels, base, is_axis=True)


def _choose_lines(dimensions: Sequence[Dimension], grid: Mapping[str, str]) -> tuple[int | None, int | None]:
    """Rows and columns: those that `grid` names, else the first dimensions with several labels, columns first."""
    names = {each.name: n for n, each in enumerate(dimensions)}
    chosen = {key: names.get(grid.get(key, "")) for key in ("columns", "rows")}
    for key in chosen:
        free = [n for n, each in enumerate(dimensions) if len(each.labels) > 1 and n not in chosen.values()]
        if chosen[key] is None and key not in grid and free:
            chosen[key] = free[0]
    return chosen["rows"], chosen["columns"]
