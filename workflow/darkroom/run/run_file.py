"""results/run.json: the numbers of the last run that made something, and the line at a run's end that sums them up.

They are what jobs of the run have noted (`base.job_notes`) and what Snakemake knows of their outputs.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from darkroom.base.text import format_bytes, format_count

STEPS = {
    "apply": "LoRAs",
    "encode": "text",
    "denoise": "denoising",
    "decode": "decoding",
    "png": "PNG",
    "rest": "the rest",
}
"""The steps of a picture as they are called in the line at a run's end."""
_SHOWN = 0.02
"""The share of a picture's time from which a step is named in that line."""
_ABOVE = {"fetch": "fetching", "convert": "converting", "verify": "verifying", "score": "scoring"}


class RunPart(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Pictures(RunPart):
    asked: int
    """How many pictures the targets of the run are made of."""
    made: int
    """Rendered by this run."""
    reused: int
    """There already, and as wanted."""
    failed: int
    """Those whose job failed."""
    left: int
    """Not begun, or not finished, when the run ended."""
    measured: int
    """Those made whose times are known. Fewer than `made` where the folder of a cluster's node isn't this one."""


class Seconds(RunPart):
    """Seconds of work, added up over all jobs: more than the run's own where jobs ran at the same time."""

    fetch: float = 0.0
    """Fetching sources, downloads among it."""
    convert: float = 0.0
    """Converting checkpoints."""
    verify: float = 0.0
    """Checking model folders."""
    load: float = 0.0
    """Loading models into engines."""
    apply: float = 0.0
    """Changing LoRAs."""
    encode: float = 0.0
    """Encoding prompts."""
    denoise: float = 0.0
    """Denoising."""
    decode: float = 0.0
    """Decoding latents."""
    png: float = 0.0
    """Encoding PNGs."""
    rest: float = 0.0
    """Everything else an engine did for pictures: upscalers, masks, cutting and pasting."""
    score: float = 0.0
    """Scoring pictures."""
    pages: float = 0.0
    """Contact sheets, grids, studies and the gallery."""


class Stage(RunPart):
    pictures: int
    """How many pictures the stage made."""
    seconds: float
    """The engine's time for them, their PNGs included. It is part of `seconds_by_step` too."""


class Load(RunPart):
    count: int
    """How often the model was loaded."""
    seconds: float
    """How long that took, all times together."""


class Tokens(RunPart):
    prompt: int
    """Tokens of the pictures' prompts; a picture of several stages counts with each."""
    negative: int
    """Tokens of their negative prompts."""


class Memory(RunPart):
    engine_bytes: int | None
    """The most that one engine's process held of the machine's memory."""
    device_bytes: int | None
    """The most that one engine's tensors held of its GPU's memory; `null` without a GPU."""


class Energy(RunPart):
    joules: float | None
    """All that was counted, of whatever ran on the machine meanwhile; `null` if nothing was."""
    processors_joules: float | None
    """Processors and their memory, by RAPL."""
    gpus_joules: float | None
    """The GPUs that rendered, by NVML."""
    absent: dict[str, str]
    """What wasn't counted, `processors` or `GPUs`, and why."""


class Cost(RunPart):
    total: float
    """`costs.per_hour` for the hours."""
    per_picture: float | None
    """`total` by the pictures made; `null` if none was."""
    currency: str
    """`costs.currency`."""
    hours: float
    """The run's length; where jobs ran on a cluster, the time that its engines worked and loaded models."""


class RunFile(RunPart):
    format: Literal[1] = 1
    """Another number, another meaning."""
    outcome: Literal["done", "failed", "interrupted"]
    """`failed` if a job failed, `interrupted` if the run ended before all was made."""
    started: str
    """When Snakemake was started, in UTC: `2026-11-30T17:25:44Z`."""
    ended: str
    """When the run ended."""
    seconds: float
    """From `started` to `ended`."""
    pictures: Pictures
    seconds_per_picture: float | None
    """The engines' time by the pictures measured, loading excepted; `null` if none was."""
    seconds_by_step: Seconds
    stages: dict[str, Stage]
    """The work of stages, by their names."""
    model_loads: dict[str, Load]
    """Loads by model."""
    tokens: Tokens
    memory: Memory
    energy: Energy
    cost: Cost | None
    """What the run cost; `null` without `costs` in the configuration."""
    devices: list[str]
    """The devices that rendered."""
    cores: int | None
    """How many processors Snakemake was given; `null` where a cluster's jobs have their own."""
    threads: list[int]
    """How many threads the engines computed with; empty if unknown."""
    versions: dict[str, str]
    """Versions of Darkroom, Snakemake, Python and the libraries, of the machine where Snakemake ran."""

    def summary(self) -> str:
        """`48 pictures made, 2 reused, 0 failed in 92 s: 1.9 s a picture (text 0.1, denoising 1.5); 1 model load 4.1 s; …`."""
        pictures = self.pictures
        counts = [f"{format_count(pictures.made, 'picture')} made", f"{pictures.reused:,} reused"]
        counts += [f"{pictures.failed:,} failed", *([f"{pictures.left:,} left"] if pictures.left else [])]
        each = self._describe_pictures()
        parts = [f"{', '.join(counts)} in {_format_time(self.seconds)}" + (f": {each}" if each else "")]
        spent = [
            f"{name} {_format(getattr(self.seconds_by_step, step))} s"
            for step, name in _ABOVE.items()
            if getattr(self.seconds_by_step, step)
        ]
        loads = sum(load.count for load in self.model_loads.values())
        loading = [f"{format_count(loads, 'model load')} {_format(self.seconds_by_step.load)} s"] if loads else []
        return "; ".join([*parts, *spent, *loading, *self._describe_means()])

    def _describe_pictures(self) -> str:
        if not self.seconds_per_picture:
            return ""
        steps = {name: getattr(self.seconds_by_step, step) / self.pictures.measured for step, name in STEPS.items()}
        shown = [f"{name} {_format(s)}" for name, s in steps.items() if s >= _SHOWN * self.seconds_per_picture]
        return f"{_format(self.seconds_per_picture)} s a picture ({', '.join(shown)})"

    def _describe_means(self) -> list[str]:
        """Memory, energy and cost, as far as they are known."""
        memory = [format_bytes(self.memory.engine_bytes)] if self.memory.engine_bytes else []
        memory += [f"{format_bytes(self.memory.device_bytes)} on the GPU"] if self.memory.device_bytes else []
        found = [f"{' and '.join(memory)} at most"] if memory else []
        if self.energy.joules is not None:
            found.append(f"{_format(self.energy.joules / 1000)} kJ")
        if self.cost is not None:
            each = f", {_format(self.cost.per_picture)} a picture" if self.cost.per_picture is not None else ""
            found.append(f"{_format(self.cost.total)} {self.cost.currency}{each}")
        return found


def _format(number: float) -> str:
    """`12`, `1.9`, `0.02`: two digits, more before the point."""
    if number == 0:
        return "0"
    return (
        f"{number:,.0f}"
        if number >= 9.95
        else f"{number:.1f}"
        if number >= 0.95
        else f"{float(f'{number:.2g}'):f}".rstrip("0")
    )


def _format_time(seconds: float) -> str:
    """`8.4 s`, `1 min 32 s`, `3 h 05 min`."""
    if seconds < 59.5:
        return f"{_format(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
