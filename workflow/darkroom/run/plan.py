"""What a run will make, worked out while Snakemake builds its graph: the pictures, and where everything lives.

This is all that the rule files ask for. Nothing in here imports torch, and nothing starts a job.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import sys
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NoReturn

from darkroom import __version__
from darkroom.base.files import write_bytes
from darkroom.base.secrets import redact
from darkroom.base.strict_yaml import load_yaml
from darkroom.cluster.earlier_attempts import FOLDER as KEPT
from darkroom.config import Checkpoint, Config, parse_config
from darkroom.errors import DarkroomError
from darkroom.pictures.png import is_whole
from darkroom.request.assets import used_assets
from darkroom.revisions import RENDER
from darkroom.run.sources import Stored, look_at_sources
from darkroom.sheets.sheet import Picture, load_pictures
from darkroom.warm.lease import make_lease

PLAN_FILE = Path(".snakemake/darkroom/plan.json")


@dataclass(frozen=True)
class Plan:
    """The validated configuration, its sources, and every picture it asks for, with look-ups by wildcard."""

    config: Config
    stored: Stored
    sheets: Mapping[str, Sequence[Picture]]
    _by_path: dict[str, Picture] = field(default_factory=dict, repr=False)

    @property
    def models_dir(self) -> str:
        return self.config.models_dir

    def model_dir(self, checkpoint: str) -> str:
        """The converted model's folder."""
        return f"{self.models_dir}/diffusers/{checkpoint}"

    def checkpoint(self, name: str) -> Checkpoint:
        return self.config.checkpoints[name]

    def picture(self, wildcards: Any) -> Picture:
        """The picture that the wildcards sheet, checkpoint, picture and seed name; KeyError if none."""
        return self._by_path[f"{wildcards.sheet}/{wildcards.checkpoint}/{wildcards.picture}-{wildcards.seed}.png"]

    def asset_receipts(self, wildcards: Any) -> list[str]:
        """The receipts of the LoRAs, embeddings and the VAE that a picture uses."""
        used = used_assets(self.picture(wildcards).request)
        return [self.stored.asset_receipt(kind, name) for kind, name in used]

    def paths(self, sheet: str | None = None) -> list[str]:
        """The pictures' places, of one sheet or of all."""
        chosen = self.sheets.values() if sheet is None else [self.sheets[sheet]]
        return [f"results/{p.path}" for pictures in chosen for p in pictures]

    def priority(self, wildcards: Any) -> int:
        """One checkpoint after another, so that each is loaded once, and pictures with the same LoRAs together.

        Checkpoints that are ready now come before those that become so during the run: these would come between the
        others' pictures, and the others would be loaded a second time.
        """
        picture = self.picture(wildcards)
        return len(self._ranks) - self._ranks[_outfit(picture)]

    @cached_property
    def _ranks(self) -> dict[Hashable, int]:
        ready = {name: Path(f"{self.models_dir}/verified/{name}.json").is_file() for name in self.config.checkpoints}
        order = sorted(ready, key=lambda name: not ready[name])
        pictures = (p for ps in self.sheets.values() for p in ps)
        outfits = dict.fromkeys(_outfit(p) for p in sorted(pictures, key=lambda p: order.index(p.checkpoint)))
        return {outfit: rank for rank, outfit in enumerate(outfits)}

    def digest(self, sheet: str | None = None) -> str:
        """Changes when the pages that show these pictures have to change."""
        chosen = self.sheets if sheet is None else {sheet: self.sheets[sheet]}
        data = [[p.path, p.request.to_json()] for pictures in chosen.values() for p in pictures]
        return hashlib.sha256(json.dumps([data, self.config.gallery.model_dump()]).encode()).hexdigest()

    @cached_property
    def engine_flags(self) -> list[str]:
        """How and where to render: nothing in it changes a picture but `dtype`, which the rule names besides."""
        return ["--engine", self.config.engine.model_dump_json()]

    def kept(self, wildcards: Any) -> str | None:
        """The second name of a finished picture on a cluster: by all that decides it. None while that isn't known."""
        receipts = [f"{self.models_dir}/verified/{wildcards.checkpoint}.json", *self.asset_receipts(wildcards)]
        try:
            made_of = [hashlib.sha256(Path(receipt).read_bytes()).hexdigest() for receipt in receipts]
        except OSError:
            return None
        parts = [self.picture(wildcards).request.to_json(), made_of, self.config.engine.dtype, RENDER, __version__]
        return str(KEPT / f"{hashlib.sha256(json.dumps(parts).encode()).hexdigest()}.png")

    def as_dict(self) -> dict[str, Any]:
        pictures = {name: [asdict_picture(p) for p in ps] for name, ps in self.sheets.items()}
        return {"config": self.config.model_dump(mode="json"), "sheets": pictures}

    def write(self, path: Path = PLAN_FILE) -> Path:
        """Leave the plan where the gallery's commands read it; touched only when it changed."""
        text = json.dumps(self.as_dict(), ensure_ascii=False).encode()
        if not path.is_file() or path.read_bytes() != text:
            write_bytes(path, text)
        return path


def _outfit(picture: Picture) -> Hashable:
    """What the engine has to change for a picture: its checkpoint, LoRAs and VAE."""
    return picture.checkpoint, picture.request.all_loras, picture.request.vae


def asdict_picture(picture: Picture) -> dict[str, Any]:
    """A picture as JSON-ready data."""
    data = {name: getattr(picture, name) for name in ("sheet", "checkpoint", "id", "seed", "path")}
    return {**data, "request": picture.request.model_dump(mode="json")}


def make_plan(config: Config) -> Plan:
    """Read the sheets and look at every source. Raises what `load_pictures` and `look_at_sources` raise."""
    sheets = load_pictures(config)
    stored = look_at_sources(config)
    return Plan(config, stored, sheets, {p.path: p for pictures in sheets.values() for p in pictures})


def check_config_files(given: Sequence[str | Path], default: str) -> None:
    """Read the configuration files strictly before Snakemake reads them its own way."""
    with exit_on_error():
        for path in given or [default]:
            load_yaml(path)


def load_plan(config: dict[str, Any], files: Sequence[str | Path]) -> Plan:
    """The plan for Snakemake's merged configuration; an error in it ends the process with one line and the error's exit code."""
    with exit_on_error():
        plan = make_plan(parse_config(config, str(files[-1]) if files else "config/config.yaml"))
        plan.write()
        plan.stored.write_pins()
        return plan


def prepare_environment() -> None:
    """What jobs inherit from Snakemake's process.

    Engines that a run starts end with it: they hold a lease on this process, set afresh by every Snakemake. It is
    kept out of shell text and params, where a process number would make everything look changed. And the `darkroom`
    that stands beside this interpreter is the one that jobs call, whether its environment is activated or not. It is also
    the one that `envs/darkroom.post-deploy.sh` installs in an environment that Snakemake makes; one that is left from
    another version makes jobs fail with E-VERSION.
    """
    os.environ["DARKROOM_LEASE"] = make_lease(os.getpid())
    os.environ["DARKROOM_PYTHON"] = sys.executable
    os.environ["DARKROOM_VERSION"] = __version__
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


def spare_collector() -> None:
    """Let Python look for garbage less often while the graph is built.

    Its millions of objects all live until the end, and each search goes through all of them.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


@cache
def drop_damaged(path: str) -> None:
    """Delete a picture that was cut short from outside, so that this run makes it again, and say so.

    Looked at once a process: several rules ask for the same pictures.
    """
    if Path(path).exists() and not is_whole(Path(path)):
        print(f"E-IMAGE picture '{path}': is damaged. It is rendered again.", file=sys.stderr)
        Path(path).unlink()


@contextmanager
def exit_on_error() -> Iterator[None]:
    try:
        yield
    except DarkroomError as error:
        _exit(error)


def _exit(error: DarkroomError) -> NoReturn:
    """Snakemake turns every exception, SystemExit too, into its own exit code 1; nothing has begun yet."""
    print(redact(str(error)), file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(error.exit_code)
