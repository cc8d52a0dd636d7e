"""The HTTP application around a stand-in engine: answers, errors and order."""

from __future__ import annotations

import asyncio
import io
import json
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from PIL import Image

from darkroom.engine import Cancelled, RenderedImage, RenderFacts
from darkroom.errors import DarkroomError, ModelError, NanImageError, OutOfMemoryError
from darkroom.request import RenderRequest
from darkroom.serve.app import MAX_BODY_BYTES, create_app
from darkroom.serve.worker import Worker

LIMIT_S = 60


class FakeEngine:
    name = "fake"
    model_hash = None

    def __init__(self, error: DarkroomError | None = None) -> None:
        self.error = error
        self.begun: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.threads: set[int] = set()

    def render(self, request: RenderRequest, *, cancelled: Callable[[], bool]) -> RenderedImage:
        self.begun.append(request.prompt)
        self.threads.add(threading.get_ident())
        if self.error:
            raise self.error
        deadline = time.monotonic() + LIMIT_S
        while not self.gate.wait(0.01):
            if cancelled():
                raise Cancelled
            if time.monotonic() > deadline:
                raise TimeoutError("nobody opened the gate")
        facts = RenderFacts(1, 0, 1, 0.0, 0.0, 0.0, 0.0, 0.0, "cpu", "fp32", "cpu, fp32", self.name, None, (), ())
        return RenderedImage(Image.new("RGB", (request.width, request.height)), request, facts)


def serve(load: Callable[[], FakeEngine], use: Callable[[httpx.AsyncClient, Worker], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        worker = Worker(load)
        worker.start()
        transport = httpx.ASGITransport(create_app(worker))
        async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=LIMIT_S) as client:
            return await use(client, worker)

    return asyncio.run(run())


def post(body: Any, engine: FakeEngine | None = None) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def use(client: httpx.AsyncClient, _worker: Worker) -> httpx.Response:
        return await client.post("/render", content=content)

    answer = serve(lambda: engine or FakeEngine(), use)
    assert isinstance(answer, httpx.Response)
    return answer


def test_picture_is_a_png_with_its_facts_in_a_header() -> None:
    answer = post({"request": {"prompt": "日本 \n x", "width": 64, "height": 128, "seed": 7}})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(answer.content)).size == (64, 128)
    facts = json.loads(answer.headers["darkroom-facts"])
    assert (facts["seed"], facts["prompt_tokens"], facts["model_name"]) == (7, 1, "fake")
    assert "prompt" not in facts


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b'{"request": ' + b"1" * 5000 + b"}",
        [],
        {"request": 5},
        {"request": {}},
        {"request": {"prompt": "x", "width": 10**6}},
        {"request": {"prompt": "x", "steps": 10**9}},
        {"request": {"prompt": "x", "sampler": "nonsense"}},
        {"request": {"prompt": "x", "lora": "unknown key"}},
        {"request": {"prompt": "x"}, "extra": 1},
        b'{"request": {"prompt": "' + b"x" * MAX_BODY_BYTES + b'"}}',
    ],
)
def test_fault_41_wrong_requests_are_refused_before_the_engine_sees_them(body: Any) -> None:
    engine = FakeEngine()
    answer = post(body, engine)
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "E-REQUEST"
    assert engine.begun == []


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OutOfMemoryError("picture", "64x64", "does not fit", "smaller"), 507),
        (NanImageError("latents", None, "hold NaN"), 500),
    ],
)
def test_engine_errors_keep_their_code_and_hint(error: DarkroomError, status: int) -> None:
    answer = post({"request": {"prompt": "x"}}, FakeEngine(error))
    assert answer.status_code == status
    assert answer.json()["error"] == error.as_dict()


def test_model_that_can_not_be_loaded_is_not_ready_and_says_why() -> None:
    def load() -> FakeEngine:
        raise ModelError("model folder", "m", "Diffusers format missing")

    async def use(client: httpx.AsyncClient, _worker: Worker) -> list[httpx.Response]:
        return [await client.get("/readyz"), await client.post("/render", json={}), await client.get("/healthz")]

    ready, render, health = serve(load, use)
    for answer in (ready, render):
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "E-MODEL"
    assert health.status_code == 200


def test_health_is_answered_and_readiness_waits_while_the_model_loads() -> None:
    gate = threading.Event()

    def load() -> FakeEngine:
        gate.wait(LIMIT_S)
        return FakeEngine()

    async def use(client: httpx.AsyncClient, _worker: Worker) -> tuple[int, bool, dict[str, Any]]:
        waiting = asyncio.create_task(client.get("/readyz"))
        health = await client.get("/healthz")
        was_done = waiting.done()
        gate.set()
        return health.status_code, was_done, (await waiting).json()

    assert serve(load, use) == (200, False, {"status": "ready", "model": "fake", "model_hash": None})


def test_pictures_are_made_one_at_a_time_in_order() -> None:
    engine = FakeEngine()
    engine.gate.clear()

    async def use(client: httpx.AsyncClient, worker: Worker) -> list[int]:
        jobs = []
        for n in range(4):
            jobs.append(asyncio.create_task(client.post("/render", json={"request": {"prompt": f"p{n}"}})))
            while worker.pictures_under_way <= n:
                await asyncio.sleep(0)
        assert engine.begun in ([], ["p0"])
        engine.gate.set()
        return [(await job).status_code for job in jobs]

    assert serve(lambda: engine, use) == [200] * 4
    assert engine.begun == ["p0", "p1", "p2", "p3"]
    assert len(engine.threads) == 1


def test_stopping_gives_up_pictures_and_asks_clients_to_come_again() -> None:
    engine = FakeEngine()
    engine.gate.clear()

    async def use(client: httpx.AsyncClient, worker: Worker) -> list[httpx.Response]:
        jobs = [asyncio.create_task(client.post("/render", json={"request": {"prompt": "x"}})) for _ in range(2)]
        while worker.pictures_under_way < 2:
            await asyncio.sleep(0)
        worker.stop(cancel=True)
        return [*(await asyncio.gather(*jobs)), await client.get("/readyz")]

    for answer in serve(lambda: engine, use):
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
