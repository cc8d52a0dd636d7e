"""Counters, timings and gauges of a server, in Prometheus' text format for `GET /metrics`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from darkroom.serve.answers import Rendered
from darkroom.serve.dispatcher import Observer
from darkroom.serve.supervisor import Supervisor

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
_BATCHES = (1, 2, 4, 8, 16)
_STAGES = ("apply", "encode", "denoise", "decode", "png")


class Metrics(Observer):
    """The metrics of one server, in a registry of their own."""

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
        self.batches = Histogram(
            "darkroom_batch_pictures",
            "How many pictures were denoised together, for each picture",
            buckets=_BATCHES,
            registry=within,
        )
        self.seconds = Histogram(
            "darkroom_request_seconds", "Time of a request", ["route"], buckets=_SECONDS, registry=within
        )
        self.errors = Counter("darkroom_errors", "Requests that ended in an error", ["code"], registry=within)
        self.loads = Counter("darkroom_model_loads", "Models loaded", ["model"], registry=within)
        self.restarts = Counter("darkroom_engine_restarts", "Engines that died and were started again", registry=within)
        self.hits = Counter("darkroom_cache_hits", "Work that was done before", ["cache"], registry=within)

    def on_request(self, route: str, status: int, seconds: float, code: str | None) -> None:
        """Count an answered request; `code` is that of its error."""
        self.requests.labels(route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)
        if code is not None:
            self.errors.labels(code).inc()

    def on_queued(self, seconds: float) -> None:
        self.stages.labels("queue").observe(seconds)

    def on_load(self, model: str, seconds: float) -> None:
        self.loads.labels(model).inc()
        self.stages.labels("load").observe(seconds)

    def on_restart(self) -> None:
        self.restarts.inc()

    def on_picture(self, model: str, rendered: Rendered) -> None:
        """Count a picture and the seconds of its stages; a prompt that the engine had encoded before is a cache hit."""
        self.pictures.labels(model).inc()
        self.batches.observe(rendered.facts["batch"])
        for stage in _STAGES:
            self.stages.labels(stage).observe(rendered.facts[f"{stage}_s"])
        if rendered.facts["is_prompt_known"]:
            self.hits.labels("prompts").inc()

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Add a gauge whose value is computed when the metrics are read."""
        Gauge(name, text, registry=self.registry).set_function(value)

    def watch_memory(self, engines: Sequence[Supervisor]) -> None:
        """Add gauges of each engine's memory (bytes): `rss` of its process, `free` on its device."""
        gauge = Gauge("darkroom_memory_bytes", "Memory of engines", ["device", "slot", "kind"], registry=self.registry)
        for engine in engines:
            for kind in ("rss", "free"):
                value = partial(engine.memory_in_use, kind)
                gauge.labels(engine.device, str(engine.number), kind).set_function(value)

    def render(self) -> bytes:
        """All of it as text."""
        return generate_latest(self.registry)
