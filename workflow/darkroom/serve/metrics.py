"""What a server counts and times, in Prometheus' text format at `GET /metrics`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from darkroom.serve.slot import Slot

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
_STAGES = ("apply", "encode", "denoise", "decode", "png")


class Metrics:
    """Counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = within = CollectorRegistry()
        self.requests = Counter("darkroom_requests", "HTTP requests", ["route", "status"], registry=within)
        self.pictures = Counter("darkroom_pictures", "Pictures rendered", ["model"], registry=within)
        self.stages = Histogram(
            "darkroom_render_stage_seconds",
            "Time of each stage of a picture",
            ["stage"],
            buckets=_SECONDS,
            registry=within,
        )
        self.seconds = Histogram(
            "darkroom_request_seconds", "Time of a request", ["route"], buckets=_SECONDS, registry=within
        )
        self.errors = Counter("darkroom_errors", "Requests that ended in an error", ["code"], registry=within)
        self.loads = Counter("darkroom_model_loads", "Models loaded", ["model"], registry=within)
        self.restarts = Counter("darkroom_engine_restarts", "Engines that died and were started again", registry=within)
        self.hits = Counter("darkroom_cache_hits", "Work that was done before", ["cache"], registry=within)

    def count_picture(self, model: str, facts: dict[str, Any]) -> None:
        """A finished picture with the seconds of its stages; a prompt that was remembered is a hit."""
        self.pictures.labels(model).inc()
        for stage in _STAGES:
            self.stages.labels(stage).observe(facts[f"{stage}_s"])
        if facts["is_prompt_known"]:
            self.hits.labels("prompts").inc()

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """A gauge that is asked for its value when the metrics are read."""
        Gauge(name, text, registry=self.registry).set_function(value)

    def watch_memory(self, slots: Sequence[Slot]) -> None:
        """What each engine last said of memory: `rss` it holds of the machine's, `free` on its device."""
        gauge = Gauge("darkroom_memory_bytes", "Memory of engines", ["device", "slot", "kind"], registry=self.registry)
        for slot in slots:
            for kind in ("rss", "free"):
                value = partial(slot.memory_in_use, kind)
                gauge.labels(slot.device, str(slot.number), kind).set_function(value)

    def render(self) -> bytes:
        """All of it as text."""
        return generate_latest(self.registry)
