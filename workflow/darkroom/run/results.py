"""A run's results: which finished pictures and pages have to be made again although they exist, found while planning.

Snakemake sees that a file is missing or older than its inputs, not that it is damaged. What is found here is forced, so
that nothing is deleted before its successor can be made; a picture that another program may have written goes to the
trash.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from darkroom.config import Config
from darkroom.errors import ConfigError, ImageError
from darkroom.pictures.damage import ResultsCheck, SheetState
from darkroom.pictures.latents import holds, is_damaged
from darkroom.pictures.measures import STUDY_CSV
from darkroom.pictures.records import CONTACT_SHEET, INDEX, STUDY_PAGE, scores_path
from darkroom.pictures.trash import find_unwanted, find_unwanted_pages, move_to_trash, new_trash
from darkroom.run.asset_folders import expand_folders
from darkroom.run.encoded import EncodedFiles
from darkroom.run.grids import grids_of
from darkroom.run.outdated import OutdatedPictures
from darkroom.run.plan import Plan
from darkroom.run.snakemake_api import SnakemakeRun
from darkroom.run.stage_jobs import StageJob
from darkroom.sheets.planned import PlannedPicture, latents_of
from darkroom.sheets.read import load_pictures

RESULTS = Path("results")
_MEMORY = Path(".snakemake/darkroom/whole.json")


class Results:
    """The results that a run's targets ask for. Each sheet is checked once a process."""

    def __init__(self, plan: Plan, snakemake: SnakemakeRun) -> None:
        self._plan, self._snakemake = plan, snakemake
        self._check = ResultsCheck(RESULTS, _MEMORY)
        self._sheets: dict[str, SheetState] = {}
        self._trash = new_trash(RESULTS)
        self._outdated = OutdatedPictures(plan, RESULTS)
        self._handled: set[str] = set()

    def check_pictures(self, sheet: str | None) -> None:
        """Force what is damaged or out of date among a sheet's pictures and its contact sheet, or among all."""
        for name in self._plan.sheets if sheet is None else [sheet]:
            state = self._inspect(name)
            for path in state.damaged:
                self._make_again(path, state)
            if not state.is_current:
                self._snakemake.force(RESULTS / name / CONTACT_SHEET)
            self._check_grids(name, state)

    def check_picture(self, picture: PlannedPicture) -> None:
        """Force one picture if it is damaged, or if other versions made it and the configuration wants it anew."""
        self._make_again(picture.path, self._inspect(picture.sheet))
        if self._is_outdated(picture):
            self._snakemake.force(RESULTS / picture.path)

    def is_stage_done(self, job: StageJob, params: Sequence[Any], receipts: Sequence[str]) -> bool:
        """Whether a stage's picture is as wanted, after forcing what is damaged of what goes in."""
        if job.before is not None:
            self.check_picture(job.before)
            self.check_latent(job.before.latent_path, self._plan.latents.get(job.before.latent_path, set()))
        is_whole = job.picture.path not in self._inspect(job.picture.sheet).damaged
        return is_whole and not self._is_outdated(job.picture) and job.is_as_wanted(self._snakemake, params, receipts)

    def check_latent(self, path: str, parts: Collection[float]) -> None:
        """Take away latents, given below results/, that are damaged or lack some that stages take, so that they are made again.

        `parts` are those of their pass after which stages take them.
        """
        file = RESULTS / path
        if not self._snakemake.makes_files or path in self._handled:
            return
        self._handled.add(path)
        if is_damaged(file):
            file.unlink(missing_ok=True)
            why = "are damaged. They are made again where a stage needs them."
            print(f"E-IMAGE latents '{file}': {why}", file=sys.stderr, flush=True)
        elif file.exists() and not holds(file, parts):
            file.unlink()

    def check_gallery(self) -> None:
        """Force what is damaged or out of date of all sheets, and of index.html and manifest.jsonl."""
        self.check_pictures(None)
        states = [self._inspect(sheet) for sheet in self._plan.sheets]
        hashes = [digest for state in states for digest in state.hashes]
        if all(state.is_current for state in states) and not self._check.is_gallery_current(hashes):
            self._snakemake.force(RESULTS / INDEX)

    def check_scores(self, sheet: str, picture: PlannedPicture) -> None:
        """Force a picture's scores if they are damaged."""
        self._inspect(sheet)
        if self._snakemake.is_main and not self._check.are_scores_current(picture):
            self._snakemake.force(RESULTS / scores_path(picture.name))

    def check_encoded(self, path: str) -> None:
        """Force a file beside a picture, given below results/, if it is damaged or another program has written it."""
        if not self._snakemake.is_main or path in self._handled:
            return
        self._handled.add(path)
        try:
            self._check.check_encoded(path)
        except ImageError as error:
            if not self._snakemake.makes_files:
                self._snakemake.force(RESULTS / path)
                return
            move_to_trash(RESULTS, [path], self._trash)
            line = f"{error.why}. It is made again from the PNG; the file is now {self._trash / path}."
            print(f"E-IMAGE picture '{RESULTS / path}': {line}", file=sys.stderr, flush=True)

    def check_study(self, sheet: str) -> None:
        """Force what is damaged or out of date of a study's table; whatever its contact sheet waits for, it waits for too."""
        state = self._inspect(sheet)
        if self._snakemake.is_main and state.is_current and not self._check.is_study_current(sheet, state.hashes):
            self._snakemake.force(RESULTS / sheet / STUDY_CSV)

    def check_study_page(self, sheet: str) -> None:
        """Force a study's page if it is damaged or out of date though what it is made from is current."""
        state = self._inspect(sheet)
        if self._snakemake.is_main and state.is_current and not self._check.is_study_page_current(sheet, state.hashes):
            self._snakemake.force(RESULTS / sheet / STUDY_PAGE)

    def save(self) -> None:
        """Remember what was found whole. Raises DiskError (E-DISK)."""
        self._check.save()

    def _is_outdated(self, picture: PlannedPicture) -> bool:
        """Whether the configuration wants a picture anew because of its versions. Raises ConfigError (E-CONFIG)."""
        if self._plan.config.rerender != "versions" or not self._snakemake.is_main:
            return False
        if self._snakemake.has_environments:
            why = "jobs run in an environment that Snakemake makes, and planning doesn't know its versions"
            raise ConfigError("rerender", "versions", why, "leave it out, or run without --sdm conda")
        return picture in self._outdated

    def _inspect(self, sheet: str) -> SheetState:
        if sheet not in self._sheets:
            nothing = SheetState({}, True, {})
            is_main = self._snakemake.is_main
            self._sheets[sheet] = self._check.check_sheet(sheet, self._plan.sheets[sheet]) if is_main else nothing
        return self._sheets[sheet]

    def _check_grids(self, sheet: str, state: SheetState) -> None:
        """Force the grids that are damaged or out of date. One whose pictures aren't all there is made again with them."""
        if sheet not in self._plan.grids or not self._snakemake.is_main:
            return
        grids = self._plan.grids[sheet]
        for grid in grids.by_stem.values():
            hashes = [state.by_path.get(picture.path, "") for picture in grids.shown(grid)]
            if all(hashes) and not self._check.shows(f"{sheet}/{grid.file}", hashes):
                self._snakemake.force(RESULTS / sheet / grid.file)

    def _make_again(self, path: str, state: SheetState) -> None:
        if path not in state.damaged or path in self._handled:
            return
        self._handled.add(path)
        if self._snakemake.makes_files:
            move_to_trash(RESULTS, [path], self._trash)
            line = f"{state.damaged[path]}. It is rendered again; the file is now {self._trash / path}."
            print(f"E-IMAGE picture '{RESULTS / path}': {line}", file=sys.stderr, flush=True)
        else:
            self._snakemake.force(RESULTS / path)


def find_not_asked_for(configs: Iterable[Config]) -> dict[str, list[str]]:
    """What is in results/ that no sheet of the configurations asks for: pictures, grids and encoded files as `find_unwanted` gives them, then pages.

    Raises what `expand_folders` and `load_pictures` raise.
    """
    wanted: set[str] = set()
    pages: set[str] = set()
    for config in configs:
        sheets = load_pictures(expand_folders(config))
        wanted |= set(EncodedFiles(config, sheets).of_sheet())
        for name, sheet in sheets.items():
            wanted |= {picture.path for picture in sheet} | latents_of(sheet).keys()
            grids = grids_of(name, sheet)
            wanted |= {f"{name}/{grid.file}" for grid in grids.by_stem.values()} if grids is not None else set()
            pages |= {
                f"{name}/{page}" for page in (CONTACT_SHEET, *((STUDY_CSV, STUDY_PAGE) if grids is not None else ()))
            }
            pages |= {scores_path(picture.name) for picture in sheet} if config.scores else set()
    found = find_unwanted(RESULTS, wanted)
    listed = {other for others in found.values() for other in others}
    return found | find_unwanted_pages(RESULTS, pages | listed)


def prune_pictures(pictures: Mapping[str, list[str]]) -> Path:
    """Move pictures and what belongs to them to the trash; returns its folder. Raises DiskError (E-DISK)."""
    trash = new_trash(RESULTS)
    paths = [path for picture, others in pictures.items() for path in (picture, *others)]
    move_to_trash(RESULTS, paths, trash)
    for folder in sorted({parent for path in paths for parent in (RESULTS / path).parents}, reverse=True):
        if RESULTS in folder.parents:
            with suppress(OSError):  # not empty
                folder.rmdir()
    return trash
