"""What a run has done, put together at its end from its jobs' notes, Snakemake's jobs and the machine's counters."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Literal

from darkroom.config import CostsConfig
from darkroom.pictures.png import library_versions
from darkroom.run.energy import EnergyMeter
from darkroom.run.run_file import Cost, Energy, Load, Memory, Pictures, RunFile, Seconds, Stage, Tokens

_TIMED = ("apply", "encode", "denoise", "decode")
_PAGES = ("contact-sheet", "measure", "study-page", "grid", "gallery")
_ELSEWHERE = "the pictures were made on other machines"


@dataclass(frozen=True, slots=True)
class Outputs:
    """The paths of the pictures that a run asks for, has to make, has finished, and has failed to make.

    `lacks_pages` says that it ended before the gallery was made, which it had to make too.
    """

    asked: frozenset[str]
    planned: frozenset[str]
    finished: frozenset[str]
    failed: frozenset[str]
    lacks_pages: bool = False


@dataclass
class Work:
    """The notes of a run's jobs, added up. Seconds are by step; `made` and `failed` are pictures' paths."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    loads: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    stages: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    pictures: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=lambda: [0, 0])
    peaks: dict[str, int] = field(default_factory=dict)
    found: dict[str, set[Any]] = field(default_factory=lambda: defaultdict(set))
    made: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, notes: Iterable[Mapping[str, Any]]) -> Work:
        work = cls()
        for note in notes:
            if "load" in note:
                work.loads[note["load"]].append(note["seconds"])
                work.seconds["load"] += note["seconds"]
            elif note.get("verb") == "render":
                work._add_picture(note)
            elif "verb" in note:
                work.seconds["pages" if note["verb"] in _PAGES else note["verb"]] += note["seconds"]
        return work

    @property
    def is_nothing(self) -> bool:
        """True if no job has done more than draw pages."""
        return not (self.made or self.failed or self.loads or self.seconds.keys() - {"pages"})

    def _add_picture(self, note: Mapping[str, Any]) -> None:
        path = note["output"]
        (self.failed if "error" in note else self.made).add(path)
        if "total_s" not in note:  # it failed, or an earlier attempt of a cluster's job had made it
            return
        for step in (*_TIMED, "png"):
            self.seconds[step] += note[f"{step}_s"]
        self.seconds["rest"] += max(0.0, note["total_s"] - sum(note[f"{step}_s"] for step in _TIMED))
        self.pictures.append(note["total_s"] + note["png_s"])
        if note.get("stages"):
            self.stages[note["stages"][-1]].append(self.pictures[-1])
        for place, name in enumerate(("prompt_tokens", "negative_tokens")):
            self.tokens[place] += note[name]
        used = note.get("used", {})
        for name in ("peak_rss", "peak_device"):
            if name in used:
                self.peaks[name] = max(self.peaks.get(name, 0), used[name])
        for name, value in (("device", note["device"]), ("threads", note.get("threads")), ("gpu", used.get("gpu"))):
            if value is not None:
                self.found[name].add(value)


def make_run_file(
    work: Work,
    outputs: Outputs,
    started: float,
    *,
    ended: float,
    energy: EnergyMeter | None,
    costs: CostsConfig | None,
    cores: int | None,
) -> RunFile:
    """The numbers of a run between `started` and `ended` (seconds since the epoch).

    Without an `energy` meter and without `cores` the jobs ran on other machines.
    """
    made = (outputs.planned & outputs.finished) | (work.made & outputs.planned)
    failed = ((outputs.failed | work.failed) & outputs.planned) - made
    left = len(outputs.planned) - len(made) - len(failed)
    is_whole = not (left or outputs.lacks_pages)
    outcome: Literal["done", "failed", "interrupted"] = "failed" if failed else "done" if is_whole else "interrupted"
    seconds, step_seconds = ended - started, {name: round(each, 3) for name, each in work.seconds.items()}
    hours = (seconds if cores is not None else sum(work.pictures) + work.seconds["load"]) / 3600
    return RunFile(
        outcome=outcome,
        started=_format_day(started),
        ended=_format_day(ended),
        seconds=round(seconds, 3),
        pictures=Pictures(
            asked=len(outputs.asked),
            made=len(made),
            reused=len(outputs.asked - outputs.planned),
            failed=len(failed),
            left=left,
            measured=len(work.pictures),
        ),
        seconds_per_picture=round(sum(work.pictures) / len(work.pictures), 4) if work.pictures else None,
        seconds_by_step=Seconds(**{name: s for name, s in step_seconds.items() if name in Seconds.model_fields}),
        stages={name: Stage(pictures=len(each), seconds=round(sum(each), 3)) for name, each in work.stages.items()},
        model_loads={name: Load(count=len(each), seconds=round(sum(each), 3)) for name, each in work.loads.items()},
        tokens=Tokens(prompt=work.tokens[0], negative=work.tokens[1]),
        memory=Memory(engine_bytes=work.peaks.get("peak_rss"), device_bytes=work.peaks.get("peak_device")),
        energy=_measure_energy(energy, work.found["gpu"]),
        cost=None if costs is None else _calculate_cost(costs, hours, len(made)),
        devices=sorted(work.found["device"]),
        cores=cores,
        threads=sorted(work.found["threads"]),
        versions={**library_versions(), **_versions_of_run()},
    )


def _measure_energy(meter: EnergyMeter | None, gpus: set[str]) -> Energy:
    if meter is None:
        absent = dict.fromkeys(("processors", "GPUs"), _ELSEWHERE)
        return Energy(joules=None, processors_joules=None, gpus_joules=None, absent=absent)
    processors, of_gpus = meter.joules(gpus)
    absent = dict(meter.absent)
    if of_gpus is None:
        absent["GPUs"] = absent.get("GPUs", "they don't count their energy") if gpus else "no GPU rendered"
    known = [round(each, 1) for each in (processors, of_gpus) if each is not None]
    return Energy(
        joules=round(sum(known), 1) if known else None,
        processors_joules=None if processors is None else round(processors, 1),
        gpus_joules=None if of_gpus is None else round(of_gpus, 1),
        absent=absent,
    )


def _calculate_cost(costs: CostsConfig, hours: float, made: int) -> Cost:
    total = costs.per_hour * hours
    each = round(total / made, 8) if made else None
    return Cost(total=round(total, 6), per_picture=each, currency=costs.currency, hours=round(hours, 6))


def _versions_of_run() -> dict[str, str]:
    import platform

    return {"snakemake": version("snakemake"), "python": platform.python_version()}


def _format_day(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
