"""An engine's process, run in threads here: what overlaps, and what becomes of a picture that runs out of memory."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import pytest
from PIL import Image

from darkroom.engine import RenderedImage, RenderFacts
from darkroom.errors import DarkroomError, OutOfMemoryError
from darkroom.pictures.png import text_of_png
from darkroom.request.render_request import RenderRequest
from darkroom.serve import engine_process
from darkroom.serve.channel import Channel
from darkroom.serve.engine_process import EngineProcess
from darkroom.serve.engines import EngineOptions, ModelFiles
from darkroom.serve.frames import NO_FILES, read_files

LIMIT_S = 240
OOM = OutOfMemoryError("picture", "64x64", "does not fit into the memory of cpu, 1.0 GB are free without it", "smaller")


class GatedEngine:
    """Each stage waits for its gate; `refusals` names stages that run out of memory, so often."""

    latents: bytes | None = None
    name, model_hash, device, dtype, memory = "gated", None, "cpu", "fp32", "cpu, fp32"

    def __init__(self, overlaps: bool = True) -> None:
        self._overlaps = overlaps
        self.gates = {stage: threading.Semaphore(0) for stage in ("denoise", "decode")}
        self.refusals: dict[str, int] = {}
        self.begun: list[str] = []
        self.changed = threading.Condition()
        self.given: list[dict[str, Any]] = []

    def denoise(self, request: RenderRequest, **given: Any) -> RenderRequest:
        self.given.append(given)
        self._pass("denoise", request)
        return request

    def overlaps(self, _: RenderRequest) -> bool:
        return self._overlaps

    def decode(self, request: RenderRequest) -> RenderedImage:
        self._pass("decode", request)
        times = (0.0, 0.0, 0.0, 0.0, 0.0)
        facts = RenderFacts(1, 0, 1, *times, "cpu", "fp32", self.memory, self.name, None, (), ())
        return RenderedImage(Image.new("RGB", request.sizes[-1]), request, facts, latents=self.latents)

    def _pass(self, stage: str, request: RenderRequest) -> None:
        with self.changed:
            self.begun.append(f"{stage} {request.prompt}")
            self.changed.notify_all()
        assert self.gates[stage].acquire(timeout=LIMIT_S)
        if self.refusals.get(stage):
            self.refusals[stage] -= 1
            raise OOM

    def wait_for(self, what: str) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: what in self.begun, LIMIT_S), self.begun

    def open(self, stage: str, count: int = 1) -> None:
        self.gates[stage].release(count)


class Bench:
    """The server's end of the channel."""

    def __init__(self, engine: GatedEngine) -> None:
        self.engine = engine
        ours, theirs = socket.socketpair()
        ours.settimeout(LIMIT_S)
        self.socket = ours
        self.channel, self.other = Channel(ours), Channel(theirs)
        process = EngineProcess(self.other, lambda files, options, on_read: engine)
        self.thread = threading.Thread(target=process.run, daemon=True)
        self.thread.start()
        options = EngineOptions({"m": ModelFiles(Path("m"))}, "cpu")
        self.channel.send({"op": "configure", **options.as_message()})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.shutdown(socket.SHUT_RDWR)
        self.thread.join(LIMIT_S)
        assert not self.thread.is_alive(), "the process goes on without its server"
        with self.channel, self.other:
            pass

    def render(self, number: int, prompt: str, files: Mapping[str, bytes] = NO_FILES, **more: Any) -> None:
        settings = {"prompt": prompt, "width": 64, "height": 64, "stages": more.pop("stages", [])}
        request = RenderRequest.from_settings(settings).model_dump(mode="json")
        wishes = {
            "wants_steps": True,
            "previews": 0,
            "stages_done": 0,
            "keep_latents": False,
            "latents_at": [],
            "checkpoint": None,
            "metadata": {},
            **more,
        }
        self.channel.send_files({"op": "render", "id": number, "model": "m", "request": request, **wishes}, files)

    def until(self, is_it: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        while True:
            frame = self.channel.receive()
            assert frame is not None
            self.files = read_files(*frame)
            if is_it(frame[0]):
                return frame[0]

    def end_of(self, number: int) -> dict[str, Any]:
        return self.until(lambda m: m.get("id") == number and m["event"] in ("picture", "failed", "cancelled"))


@pytest.fixture
def make_bench() -> Iterator[Callable[[GatedEngine], Bench]]:
    with ExitStack() as stack:
        yield lambda engine: stack.enter_context(Bench(engine))


@pytest.fixture
def bench(make_bench: Callable[[GatedEngine], Bench]) -> Bench:
    return make_bench(GatedEngine())


def test_a_picture_is_decoded_while_the_next_is_denoised(bench: Bench) -> None:
    engine = bench.engine
    bench.render(1, "one")
    engine.open("denoise")
    bench.until(lambda m: m["event"] == "free")
    engine.wait_for("decode one")
    bench.render(2, "two")
    engine.wait_for("denoise two")
    engine.open("decode", 2)
    assert bench.end_of(1)["event"] == "picture"
    engine.open("denoise")
    assert bench.end_of(2)["event"] == "picture"


def test_stages_take_turns_where_the_model_is_moved_in_and_out(make_bench: Callable[[GatedEngine], Bench]) -> None:
    engine = GatedEngine(overlaps=False)
    bench = make_bench(engine)
    bench.render(1, "one")
    bench.render(2, "two")
    engine.open("denoise", 2)
    engine.wait_for("decode one")
    assert "denoise two" not in engine.begun
    engine.open("decode", 2)
    bench.end_of(2)
    assert engine.begun == ["denoise one", "decode one", "denoise two", "decode two"]


def test_denoising_that_runs_out_of_memory_beside_a_decoding_is_tried_again_alone(bench: Bench) -> None:
    engine = bench.engine
    bench.render(1, "one")
    engine.open("denoise")
    engine.wait_for("decode one")
    engine.refusals["denoise"] = 1
    bench.render(2, "two")
    engine.open("denoise")
    engine.wait_for("denoise two")
    engine.open("decode", 2)
    engine.open("denoise")
    assert bench.end_of(1)["event"] == "picture"
    assert bench.end_of(2)["event"] == "picture"
    assert engine.begun.count("denoise two") == 2


def test_decoding_that_runs_out_of_memory_is_tried_again_alone(bench: Bench) -> None:
    engine = bench.engine
    engine.refusals["decode"] = 1
    bench.render(1, "one")
    engine.open("denoise")
    engine.open("decode", 2)
    assert bench.end_of(1)["event"] == "picture"
    assert engine.begun == ["denoise one", "decode one", "decode one"]


@pytest.mark.parametrize("stage", ["denoise", "decode"])
def test_a_picture_that_does_not_fit_alone_is_refused_and_the_next_is_made(bench: Bench, stage: str) -> None:
    engine = bench.engine
    engine.refusals[stage] = 1 if stage == "denoise" else 2
    engine.open("denoise", 3)
    engine.open("decode", 3)
    bench.render(1, "one")
    assert DarkroomError.from_dict(bench.end_of(1)["error"]).as_dict() == OOM.as_dict()
    bench.render(2, "two")
    assert bench.end_of(2)["event"] == "picture"


def test_what_a_stage_needs_reaches_the_engine_and_its_latents_come_back(bench: Bench) -> None:
    engine = bench.engine
    engine.latents = b"latents"
    engine.open("denoise", 2)
    engine.open("decode", 2)
    files = {"before": b"a picture", "before.latent": b"x" * 100_000}
    bench.render(1, "one", files, stages=[{"upscale": {}}, {"hires": {}}], stages_done=1, keep_latents=True)
    assert bench.end_of(1)["event"] == "picture"
    given = {name: engine.given[0][name] for name in ("pictures", "stages_done", "keep_latents")}
    assert given == {"pictures": files, "stages_done": 1, "keep_latents": True}
    assert bench.files["latents"] == b"latents"
    made = json.loads(text_of_png(bench.files["picture"], "picture")["darkroom"])
    assert made["made_from"] == hashlib.sha256(b"a picture").hexdigest()
    engine.latents = None
    bench.render(2, "two")
    assert bench.end_of(2)["event"] == "picture"
    assert set(bench.files) == {"picture"}
    assert set(engine.given[1]) == {"cancelled", "on_step", "previews"}


@pytest.mark.parametrize("closed", ["ours", "theirs"])
def test_nothing_is_sent_to_where_nobody_is_any_more(closed: str) -> None:
    ours, theirs = socket.socketpair()
    with Channel(ours) as channel, Channel(theirs) as other:
        other.send({"n": "not read"})
        {"ours": channel, "theirs": other}[closed].__exit__()
        with pytest.raises(BrokenPipeError):
            channel.send({})


def test_many_threads_may_send_at_once() -> None:
    ours, theirs = socket.socketpair()
    with Channel(ours) as channel, Channel(theirs) as other, ThreadPoolExecutor(8) as pool:
        sent = [pool.submit(channel.send, {"n": n}, bytes([n]) * 100_000) for n in range(50)]
        frames = [other.receive() for _ in range(50)]
        for each in sent:
            each.result()
    assert sorted((frame[0]["n"], set(frame[1])) for frame in frames if frame) == [(n, {n}) for n in range(50)]


@pytest.mark.parametrize("overlaps", [True, False])
def test_a_picture_that_cant_be_encoded_is_answered_and_the_next_one_is_made(
    make_bench: Callable[[GatedEngine], Bench], monkeypatch: pytest.MonkeyPatch, overlaps: bool
) -> None:
    def refuse(*_: object, **_more: object) -> bytes:
        monkeypatch.undo()
        raise MemoryError

    monkeypatch.setattr(engine_process, "encode", refuse)
    engine = GatedEngine(overlaps)
    bench = make_bench(engine)
    engine.open("denoise", 2)
    engine.open("decode", 2)
    bench.render(1, "one")
    assert bench.end_of(1)["event"] == "failed"
    bench.render(2, "two")
    assert bench.end_of(2)["event"] == "picture"
