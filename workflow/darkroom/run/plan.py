"""The plan of a run: every picture and every path that the rule files ask for while Snakemake builds its graph.

Nothing here imports torch or starts a job.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from darkroom import __version__
from darkroom.base.files import write_bytes
from darkroom.base.secrets import redact
from darkroom.base.strict_yaml import load_yaml, restore_text
from darkroom.base.text import did_you_mean
from darkroom.base.validation import Mistakes, lines_of
from darkroom.cluster import earlier_attempts
from darkroom.config import Config, check_sheets, parse_config, read_config
from darkroom.config_sources import Checkpoint
from darkroom.errors import BadNameError, ConfigError, DarkroomError
from darkroom.pictures.formats import PNG
from darkroom.pictures.records import scores_path
from darkroom.request.assets import used_assets
from darkroom.request.picture_revision import render_revision, stage_revision
from darkroom.run.asset_folders import expand_folders
from darkroom.run.encoded import EncodedFiles
from darkroom.run.grids import StudyGrids, grids_of
from darkroom.run.priorities import Cost, costs_of_change, rank_pictures, sort_ready
from darkroom.run.snakemake_api import SnakemakeRun
from darkroom.run.sources import Key, Sources, inspect_sources
from darkroom.run.stage_jobs import StageJob
from darkroom.sheets.planned import PlannedPicture, PlannedSheet, latents_of
from darkroom.sheets.read import load_pictures
from darkroom.warm.lease import make_lease
from darkroom.warm.paths import THREADS

PLAN_FILE = Path(".snakemake/darkroom/plan.json")
DEFAULT_CONFIG = "config/config.yaml"


@dataclass(frozen=True)
class Plan:
    """The validated configuration, its sources, and every picture it asks for, with look-ups by wildcard."""

    config: Config
    sources: Sources
    sheets: Mapping[str, PlannedSheet]
    _by_path: dict[str, PlannedPicture] = field(default_factory=dict, repr=False)
    _digests: dict[str | None, str] = field(default_factory=dict, repr=False)

    @cached_property
    def studies(self) -> dict[str, dict[str, Any]]:
        """How the tables of the sheets that are studies are laid out, by sheet."""
        return {name: sheet.study for name, sheet in self.sheets.items() if sheet.study is not None}

    @cached_property
    def ratings(self) -> dict[str, dict[str, Any]]:
        """What people think of pictures, as `Ratings.as_dict` has it, by sheet; only the gallery shows it."""
        return {name: sheet.ratings.as_dict() for name, sheet in self.sheets.items() if sheet.ratings is not None}

    @property
    def models_dir(self) -> str:
        return self.config.models_dir

    def model_dir(self, checkpoint: str) -> str:
        """The converted model's folder."""
        return f"{self.models_dir}/diffusers/{checkpoint}"

    def checkpoint(self, name: str) -> Checkpoint:
        return self.config.checkpoints[name]

    def picture(self, wildcards: Any) -> PlannedPicture:
        """The picture that the wildcards sheet, checkpoint, picture and seed name, or `staged` in place of the last two.

        Raises BadNameError (E-NAME) with the nearest one if no sheet asks for it.
        """
        folder = f"{wildcards.sheet}/{wildcards.checkpoint}"
        name = wildcards.get("staged") or f"{wildcards.picture}-{wildcards.seed}"
        path = f"{folder}/{name}{PNG.suffix}"
        if path not in self._by_path:
            known = [f"results/{other}" for other in self._by_path if other.startswith(f"{folder}/")]
            hint = did_you_mean(f"results/{path}", known, "add it to a prompt sheet", most=1)
            raise BadNameError("picture", f"results/{path}", "no prompt sheet asks for it", hint)
        return self._by_path[path]

    def asset_receipts(self, wildcards: Any) -> list[str]:
        """The receipts of the LoRAs, embeddings and the VAE that a picture uses."""
        used = used_assets(self.picture(wildcards).request)
        return [self.sources.asset_receipt(section, name) for section, name in used]

    def paths(self, sheet: str | None = None) -> list[str]:
        """The pictures' paths, of one sheet or of all."""
        chosen = self.sheets.values() if sheet is None else [self.sheets[sheet]]
        return [f"results/{p.path}" for pictures in chosen for p in pictures]

    @cached_property
    def encoded(self) -> EncodedFiles:
        """The files beside the pictures, in other formats or signed."""
        return EncodedFiles(self.config, self.sheets)

    @cached_property
    def grids(self) -> dict[str, StudyGrids]:
        """The grids of the sheets that are studies, by sheet."""
        found = {name: grids_of(name, sheet) for name, sheet in self.sheets.items()}
        return {name: grids for name, grids in found.items() if grids is not None}

    def grid_paths(self, sheet: str | None = None) -> list[str]:
        """The grids' paths, of one sheet or of all."""
        chosen = {name: grids for name, grids in self.grids.items() if sheet in (name, None)}
        return [f"results/{name}/{grid.file}" for name, grids in chosen.items() for grid in grids.by_stem.values()]

    def grids_of_sheet(self, sheet: str) -> StudyGrids:
        """Raises BadNameError (E-NAME) for a sheet that is no study."""
        if sheet not in self.grids:
            hint = did_you_mean(sheet, self.grids, "give the sheet axes", most=1)
            raise BadNameError("sheet", sheet, "is no study, so it has no grids", hint)
        return self.grids[sheet]

    def score_paths(self, sheet: str | None = None) -> list[str]:
        """The files of the pictures' scores, of one sheet or of all; none if no scores are configured."""
        chosen = self.sheets.values() if sheet is None else [self.sheets[sheet]]
        return [f"results/{scores_path(p.name)}" for ps in chosen for p in ps] if self.config.scores else []

    @cached_property
    def scorers(self) -> str:
        """What decides a picture's scores in addition to the models' bytes, as JSON."""
        given = {name: score.model_dump(include={"clip", "activation"}) for name, score in self.config.scores.items()}
        return json.dumps(given)

    def given_pictures(self, wildcards: Any) -> list[str]:
        """The options of `darkroom render` that name the control pictures of a first pass; those of stages are their jobs'."""
        picture = self.picture(wildcards)
        needed = picture.request.pictures if picture.files and not picture.request.stages else ()
        return [part for sha256 in needed for part in ("--picture", f"{sha256}={picture.files[sha256]}")]

    def stage_job(self, wildcards: Any) -> StageJob:
        """The job of a picture that a stage makes."""
        picture = self.picture(wildcards)
        return StageJob(picture, self.before(picture))

    def before(self, picture: PlannedPicture) -> PlannedPicture | None:
        """The planned picture that a picture's last stage is applied to; None for a first pass, and where a file is given."""
        return self._by_path.get(picture.before or "")

    def stage_params(self, job: StageJob) -> list[Any]:
        """The params of a stage's rule that decide its picture."""
        request = job.picture.request
        return [request.to_json(), self.config.engine.dtype, stage_revision(request)]

    def verified(self, wildcards: Any) -> list[str]:
        """The receipts of the checkpoints that a picture is made with, first of the one whose engine renders it."""
        return [f"{self.models_dir}/verified/{name}.json" for name in self.picture(wildcards).checkpoints]

    def made_with(self, wildcards: Any) -> list[Key]:
        """The sources of all that a picture is made with."""
        picture = self.picture(wildcards)
        return [*(("checkpoints", name) for name in picture.checkpoints), *used_assets(picture.request)]

    def all_receipts(self, wildcards: Any) -> list[str]:
        """The receipts of all that a picture is made with: of the checkpoints, and of the assets."""
        return [*self.verified(wildcards), *self.asset_receipts(wildcards)]

    @cached_property
    def has_other_checkpoints(self) -> bool:
        """Whether any stage has another checkpoint than its picture."""
        return any(len(p.checkpoints) > 1 for ps in self.sheets.values() for p in ps if p.request.stages)

    @cached_property
    def latents(self) -> dict[str, set[float]]:
        """The paths of the latents that stages need, with the parts of the pass after which they take them."""
        return latents_of(picture for pictures in self.sheets.values() for picture in pictures)

    def latent_flags(self, wildcards: Any) -> list[str]:
        """The option of `darkroom render` that says after which parts of the pass latents are written, where not at its end alone."""
        parts = self.latents[self.picture(wildcards).latent_path]
        return [] if parts == {1} else ["--latent-at", ",".join(map(repr, sorted(parts)))]

    def latent_sheets(self, *, staged: bool) -> str:
        """A pattern for the wildcard `sheet` that matches in the paths of pictures whose latents a stage needs.

        Of first passes, or of stages; it looks ahead to the picture's name where that doesn't hold for all of the sheet.
        """
        patterns = []
        for name, pictures in self.sheets.items():
            names: dict[bool, set[str]] = {True: set(), False: set()}
            for picture in pictures:
                if bool(picture.request.stages) == staged:
                    names[picture.latent_path in self.latents].add(picture.name.rpartition("/")[2])
            if names[True] and not names[False]:
                patterns.append(re.escape(name))
            elif names[True]:
                some = "|".join(map(re.escape, sorted(names[True])))
                patterns.append(f"{re.escape(name)}(?=/[^/]+/(?:{some})[.](?:latent|png))")
        return "|".join(patterns) or "(?!)"

    def count(self, sheet: str | None = None) -> str:
        """`1 picture`, `2,000 pictures`: those of one sheet or of all."""
        number = len(self.paths(sheet))
        return f"{number:,} picture{'' if number == 1 else 's'}"

    def priority(self, wildcards: Any) -> int:
        """A number that orders pictures by what is costly to change, so that an engine changes it as seldom as it can."""
        picture = self.picture(wildcards)
        return len(self._ranks) - self._ranks[costs_of_change(picture)]

    @cached_property
    def _ranks(self) -> dict[Cost, int]:
        pictures = [picture for sheet in self.sheets.values() for picture in sheet]
        return rank_pictures(pictures, sort_ready(self.config.checkpoints, Path(self.models_dir)))

    def engine_of(self, path: str) -> str | None:
        """The checkpoint whose engine makes the picture with that path; None for any other file."""
        picture = self._by_path.get(path.removeprefix("results/"))
        return picture.renderer if picture is not None else None

    @property
    def engines(self) -> int:
        """How many engines a run has at once: one for each device."""
        return len(self.config.engine.devices) or 1

    def digest(self, sheet: str | None = None) -> str:
        """Changes when the pages that show these pictures have to change. Found out once: Snakemake asks again whenever it prints a job."""
        if sheet not in self._digests:
            self._digests[sheet] = self._digest(sheet)
        return self._digests[sheet]

    def _digest(self, sheet: str | None) -> str:
        chosen = self.sheets if sheet is None else {sheet: self.sheets[sheet]}
        data = [
            [p.path, p.request.to_json(), *filter(None, [p.study])] for pictures in chosen.values() for p in pictures
        ]
        studies = [pictures.study for pictures in chosen.values() if pictures.study is not None]
        parts = [data, self.config.gallery.model_dump(), *studies]
        parts += [] if sheet or not self.ratings else [self.ratings]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    @cached_property
    def engine_flags(self) -> list[str]:
        """How and where to render, and what is written into pictures. `dtype` and `compile` change them; `dtype` is one of the rule's params, and `compile` makes no picture stale."""
        left_out = self.config.metadata.model_dump_json(exclude_defaults=True)
        about = [] if left_out == "{}" else ["--metadata", left_out]
        return ["--engine", self.config.engine.model_dump_json(), *about]

    def kept_path(self, wildcards: Any) -> str | None:
        """A picture's second name on a cluster, a hash of all that decides it; None while a receipt is missing."""
        try:
            made_of = [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in self.all_receipts(wildcards)]
        except OSError:
            return None
        request = self.picture(wildcards).request
        parts = [request.to_json(), made_of, self.config.engine.dtype, render_revision(request), __version__]
        parts += [] if self.config.engine.compile == "off" else [self.config.engine.compile]
        parts += filter(None, [self.picture(wildcards).study, self.config.metadata.model_dump(exclude_defaults=True)])
        return str(earlier_attempts.FOLDER / f"{hashlib.sha256(json.dumps(parts).encode()).hexdigest()}{PNG.suffix}")

    def study_flags(self, wildcards: Any) -> list[str]:
        """A study's cell for the picture's metadata; nothing for a picture of no study."""
        study = self.picture(wildcards).study
        return ["--study", json.dumps(study)] if study else []

    def as_dict(self) -> dict[str, Any]:
        """The configuration, all pictures, and how the tables of studies are laid out, as JSON-ready data."""
        pictures = {name: [picture.as_dict() for picture in sheet] for name, sheet in self.sheets.items()}
        config, own = self.config.model_dump(mode="json"), {"ratings": self.ratings} if self.ratings else {}
        return {"config": config, "sheets": pictures, "studies": self.studies, **own}

    def write(self, path: Path = PLAN_FILE) -> Path:
        """Write the plan for the gallery's commands, if it has changed. Raises DiskError (E-DISK)."""
        text = json.dumps(self.as_dict(), ensure_ascii=False).encode()
        if not path.is_file() or path.read_bytes() != text:
            write_bytes(path, text)
        return path


def make_plan(config: Config, *, is_main: bool = True) -> Plan:
    """Read the sheets and inspect every source; in the main process alone check what encodes, for which a node may lack the key.

    Raises what `expand_folders`, `load_pictures`, `EncodedFiles.check` and `inspect_sources` raise.
    """
    config = expand_folders(config)
    sheets = load_pictures(config)
    if is_main:
        mistakes = Mistakes()
        EncodedFiles(config, sheets).check(mistakes)
        mistakes.raise_all()
    sources = inspect_sources(config)
    return Plan(config, sources, sheets, {p.path: p for pictures in sheets.values() for p in pictures})


def check_entrance(run: SnakemakeRun) -> None:
    """Refuse what a module can't be told, and read the configuration's files strictly before Snakemake reads them leniently.

    An error ends the process with one line and its exit code.
    """
    with exit_on_error():
        if run.moved_path is not None:
            why = "a module's prefix doesn't reach the commands, which write below results/, models/ and logs/"
            hint = "leave prefix and replace_prefix out; `snakemake --directory FOLDER` runs all in another folder"
            raise ConfigError("path", run.moved_path, why, hint)
        if run.config_files or not run.has_config_of_its_own:
            check_config_files(run.config_files)


def check_config_files(given: Sequence[str | Path]) -> None:
    """Read configuration files strictly, or the default one. Raises ConfigError (E-CONFIG)."""
    for path in given or [DEFAULT_CONFIG]:
        read_config(path)


def load_plan(config: dict[str, Any], run: SnakemakeRun) -> Plan:
    """The plan for Snakemake's merged configuration. An error ends the process with one line and its exit code."""
    with exit_on_error():
        default = "the module's config" if run.has_config_of_its_own else DEFAULT_CONFIG
        for path in run.config_files or [Path(default)]:
            if Path(path).is_file():
                config = restore_text(config, load_yaml(path))
        checked = parse_config(config, str([default, *run.config_files][-1]))
        check_sheets(checked)
        plan = make_plan(checked, is_main=run.is_main)
        for folder in (plan.models_dir, "results", "logs"):
            if Path(folder).exists() and not Path(folder).is_dir():
                raise ConfigError("path", folder, "is a file where a folder has to be", "move it elsewhere")
        plan.write()
        plan.sources.write_pins()
        return plan


def prepare_environment(run: SnakemakeRun) -> None:
    """Set the environment variables that jobs inherit from Snakemake's process.

    DARKROOM_LEASE: engines that a run starts end with the run, because they hold a lease on this process. It can't be in
    shell text or params: a process number in them would make every output look changed. PATH: jobs call the `darkroom` of
    this interpreter's environment, whether that is activated or not. DARKROOM_PYTHON: envs/darkroom.post-deploy.sh installs
    the Darkroom of this interpreter in an environment that Snakemake makes. DARKROOM_VERSION: a job in an environment of
    another version fails with E-VERSION. DARKROOM_THREADS: the user's OMP_NUM_THREADS, in whose place jobs have their own
    threads. On a cluster these are what the job has asked for, so they count there.
    """
    threads = os.environ.get("OMP_NUM_THREADS", "") if run.is_main else os.environ.get(THREADS, "")
    os.environ[THREADS] = "" if run.is_remote else threads
    os.environ["DARKROOM_LEASE"] = make_lease(os.getpid())
    os.environ["DARKROOM_PYTHON"] = sys.executable
    os.environ["DARKROOM_VERSION"] = __version__
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


def tune_garbage_collection() -> None:
    """Collect garbage less often while sheets are read and the graph is built: these objects live until the run's end."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


@contextmanager
def exit_on_error() -> Iterator[None]:
    """End the process with one line a mistake and the exit code if a DarkroomError or an OSError is raised."""
    try:
        yield
    except DarkroomError as error:
        _exit(error)
    except OSError as error:
        _exit(DarkroomError("system error", error.filename, error.strerror or str(error), "see the path"))


def _exit(error: DarkroomError) -> NoReturn:
    """Snakemake would turn any exception, SystemExit too, into its exit code 1. No job has started yet."""
    print(redact("\n".join(lines_of([error]))), file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(error.exit_code)
