"""Which engine gets which picture: real engine processes around a stand-in that renders when it is told to."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Hashable
from pathlib import Path
from typing import Any

import pytest

from darkroom.errors import BusyError, ConfigError, DarkroomError, ServerDiedError, ServerError
from darkroom.request.render_request import RenderRequest
from darkroom.serve import supervisor
from darkroom.serve.dispatcher import MAX_OVERTAKES, Dispatcher, _batch_key
from darkroom.serve.engines import EngineOptions, ModelFiles
from darkroom.serve.metrics import Metrics
from darkroom.serve.supervisor import DEFAULT_LIMITS, Job, Limits

FAKE_ENGINE = Path(__file__).parents[1] / "warm" / "fake_engine.py"
LIMIT_S = 240
GARBLED = (  # and then stays: the end of a process can be noticed before what it said
    "import socket, sys; s = socket.socket(fileno=int(sys.argv[1])); s.sendall(bytes([255] * 8))\n"
    "while s.recv(4096): pass"
)


class Bench:
    """A dispatcher over stand-in engines, and what they noted."""

    def __init__(self, folder: Path, engines: int, limit: int, limits: Limits, batch: int) -> None:
        self.folders = {name: folder / name for name in "ab"}
        for each in self.folders.values():
            each.mkdir(exist_ok=True)
            (each / "behaviour.txt").write_text("ok")
        files = {name: ModelFiles(path) for name, path in self.folders.items()}
        options = [EngineOptions(files, "cpu")] * engines
        self.metrics = Metrics()
        command = (sys.executable, str(FAKE_ENGINE))
        own = {"limits": limits, "batch": batch}
        self.dispatcher = Dispatcher(options, "a", limit=limit, observer=self.metrics, command=command, **own)

    @property
    def states(self) -> list[str]:
        return [engine.state for engine in self.dispatcher.engines]

    def job(self, prompt: str, model: str = "a", sampler: str = "Euler", width: int = 64) -> Job:
        return Job(model, RenderRequest(prompt=prompt, width=width, height=64, steps=2, sampler=sampler))

    def submit(self, *prompts: str, model: str = "a") -> list[Job]:
        jobs = [self.job(prompt, model) for prompt in prompts]
        self.dispatcher.submit(jobs)
        return jobs

    def noted(self, name: str, model: str = "a") -> list[str]:
        path = self.folders[model] / name
        return path.read_text().splitlines() if path.exists() else []

    def release(self) -> None:
        for folder in self.folders.values():
            (folder / "go").touch()

    def count(self, name: str) -> float:
        return self.metrics.registry.get_sample_value(name) or 0.0


async def until(is_true: Callable[[], object]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not is_true():
            await asyncio.sleep(0.01)


def run(
    tmp_path: Path,
    use: Callable[[Bench], Awaitable[None]],
    *,
    engines: int = 1,
    limit: int = 100,
    limits: Limits = DEFAULT_LIMITS,
    batch: int = 1,
) -> None:
    async def within() -> None:
        bench = Bench(tmp_path, engines, limit, limits, batch)
        bench.dispatcher.start()
        try:
            async with asyncio.timeout(LIMIT_S):
                await bench.dispatcher.ready
                await until(lambda: all(engine.is_free for engine in bench.dispatcher.engines))
                await use(bench)
        finally:
            await bench.dispatcher.stop()

    asyncio.run(within())


async def finish(jobs: list[Job]) -> list[bytes]:
    return [(await job.done).png for job in jobs]


async def hold(bench: Bench) -> list[Job]:
    """Keep the engine busy until `release`."""
    held = bench.submit("slow")
    await until(lambda: bench.noted("renders") == ["slow"])
    return held


async def see_overtaking(bench: Bench) -> None:
    """A job of another model waits behind a held one, and is passed by no more than MAX_OVERTAKES later ones."""
    held = await hold(bench)
    other = bench.job("x", model="b")
    before: list[list[str]] = []
    other.on_change = lambda: before.append(bench.noted("renders")) if other.stage == "denoising" else None
    bench.dispatcher.submit([other])
    many = bench.submit(*(str(n) for n in range(2 * MAX_OVERTAKES)))
    bench.release()
    await finish([*held, other, *many])
    assert before[0] == ["slow", *(str(n) for n in range(MAX_OVERTAKES))]


def test_pictures_are_made_in_order_and_progress_is_told(tmp_path: Path) -> None:
    async def use(bench: Bench) -> None:
        stages: list[tuple[str, int]] = []
        job = bench.job("first")
        job.on_change = lambda: stages.append((job.stage, job.step))
        bench.dispatcher.submit([job])
        await finish([job, *bench.submit("second", "third")])
        assert bench.noted("renders") == ["first", "second", "third"]
        assert list(dict.fromkeys(stages)) == [("denoising", 0), ("denoising", 1), ("denoising", 2), ("decoding", 0)]

    run(tmp_path, use)


def test_progress_counts_the_engines_steps(tmp_path: Path) -> None:
    async def use(bench: Bench) -> None:
        steps: list[tuple[int, int]] = []
        job = bench.job("x", sampler="Heun")
        job.on_change = lambda: steps.append((job.step, job.steps))
        bench.dispatcher.submit([job])
        await finish([job])
        assert [pair for pair in steps if pair[0]] == [(1, 3), (2, 3), (3, 3)]

    run(tmp_path, use)


def test_two_engines_share_the_work_and_each_loads_the_model_once(tmp_path: Path) -> None:
    async def use(bench: Bench) -> None:
        jobs = bench.submit("slow", "slow")
        await until(lambda: len(bench.noted("renders")) == 2)
        bench.release()
        await finish(jobs)
        for pair in ("12", "34", "56", "78"):
            await until(lambda: all(engine.is_free for engine in bench.dispatcher.engines))
            await finish(bench.submit(*pair))
        assert len(bench.noted("loads")) == 2
        assert [engine.pictures for engine in bench.dispatcher.engines] == [5, 5]

    run(tmp_path, use, engines=2)


def test_a_picture_waits_for_no_load_while_another_has_its_model(tmp_path: Path) -> None:
    async def use(bench: Bench) -> None:
        slow = bench.submit("slow")
        await until(lambda: bench.noted("renders") == ["slow"])
        later = [*bench.submit("x", model="b"), *bench.submit("y"), *bench.submit("z", model="b"), *bench.submit("w")]
        bench.release()
        await finish(slow + later)
        assert bench.noted("renders") == ["slow", "y", "w"]
        assert len(bench.noted("loads", "b")) == 1

    run(tmp_path, use)


def test_the_first_in_the_queue_is_passed_only_so_often(tmp_path: Path) -> None:
    run(tmp_path, see_overtaking)


def test_pictures_that_wait_and_fit_together_are_made_in_one_batch(tmp_path: Path) -> None:
    async def use(bench: Bench) -> None:
        held = await hold(bench)
        jobs = [*bench.submit("1", "2"), bench.job("other", sampler="Heun"), bench.job("3"), bench.job("4")]
        bench.dispatcher.submit(jobs[2:])
        jobs += bench.submit("5")
        bench.release()
        await finish([*held, *jobs])
        assert bench.noted("renders") == ["slow", "1", "2", "3", "4", "other", "5"]
        assert bench.noted("batches") == ["1 2 3 4"]
        assert [job.step for job in jobs] == [0] * len(jobs) and bench.dispatcher.under_way == {}
        await finish(bench.submit("6", "7"))
        assert bench.noted("batches") == ["1 2 3 4", "6 7"]

    run(tmp_path, use, batch=4)


def test_what_pictures_of_a_batch_share_and_in_what_they_may_differ() -> None:
    async def key(**settings: Any) -> Hashable:
        given = {"prompt": "x", "width": 64, "height": 64, "steps": 2, "cfg_scale": 5} | settings
        return _batch_key(Job("a", RenderRequest.from_settings(given)))

    def keys(*settings: dict[str, Any]) -> list[Hashable]:
        return [asyncio.run(key(**each)) for each in settings]

    picture = "0" * 64
    usual, *same = keys(
        {},
        {"prompt": "y", "negative_prompt": "z", "seed": 3, "cfg_scale": 7, "clip_skip": 2, "emphasis": "comfy"},
        {"variation_seed": 1, "variation_strength": 0.5, "embeddings": ["e"]},
    )
    assert usual is not None and same == [usual] * 2
    tag, named = keys({"prompt": "x <lora:a:0.5>"}, {"loras": {"a": 0.5}})
    assert tag == named != usual
    others = keys(
        *({name: value} for name, value in {"width": 128, "steps": 3, "cfg_scale": 1, "freeu": True}.items()),
        *({name: value} for name, value in {"schedule": "Karras", "sampler": "Heun", "vae": "v"}.items()),
    )
    assert len({usual, *others}) == 1 + len(others) and None not in others
    alone = keys(
        {"stages": [{"upscale": {}}]},
        {"image": picture, "stages": [{"img2img": {}}]},
        {"control": [{"model": "c", "image": picture}]},
    )
    assert alone == [None] * 3


def test_pictures_are_made_one_by_one_unless_batches_are_allowed(tmp_path: Path) -> None:
    async def use(bench: Bench) -> None:
        await finish(bench.submit("1", "2", "3"))
        assert not bench.noted("batches")

    run(tmp_path, use)


def test_batches_are_as_large_as_their_device_has_room_for(tmp_path: Path) -> None:
    async def use(bench: Bench) -> None:
        jobs = [bench.job(str(n), width=128) for n in range(5)]
        bench.dispatcher.submit(jobs)
        await finish(jobs)
        assert bench.noted("batches") == ["0 1", "2 3"] and bench.noted("renders") == list("01234")

    run(tmp_path, use, batch=8)


def test_a_batch_passes_the_first_in_the_queue_no_more_often_than_single_pictures(tmp_path: Path) -> None:
    async def use(bench: Bench) -> None:
        await see_overtaking(bench)
        assert bench.noted("batches")[:3] == ["0 1 2", "3 4 5", "6 7"]

    run(tmp_path, use, batch=3)


def test_one_of_a_batch_is_given_up_and_another_fails_without_the_others(tmp_path: Path) -> None:
    async def use(bench: Bench) -> None:
        first, slow, bad, last = bench.submit("first", "slow", "nan", "last")
        await until(lambda: "slow" in bench.noted("renders"))
        bench.dispatcher.give_up(slow, DarkroomError("picture", None, "was given up"))
        await finish([first, last])
        for job, error in ((slow, "given up"), (bad, "E-NANIMAGE")):
            with pytest.raises(DarkroomError, match=error):
                await job.done
        assert not bench.dispatcher.engines[0]._timers and bench.count("darkroom_engine_restarts_total") == 0

    run(tmp_path, use, batch=4)


def test_a_batch_that_does_not_fit_into_memory_is_made_one_by_one(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async def use(bench: Bench) -> None:
        await finish(bench.submit("1", "crowd", "3"))
        assert bench.noted("renders") == ["1", "crowd", "3"]
        await until(lambda: bench.states == ["idle"])

    run(tmp_path, use, batch=4)
    assert "3 pictures together: does not fit. Each is made alone." in capfd.readouterr().err


def test_pictures_whose_batch_killed_an_engine_are_made_one_by_one(tmp_path: Path) -> None:
    async def use(bench: Bench) -> None:
        first, deadly, last = bench.submit("first", "kill", "last")
        await finish([first, last])
        with pytest.raises(ServerDiedError):
            await deadly.done
        assert bench.noted("batches") == ["first kill last"]
        assert bench.noted("renders") == ["first", "kill", "first", "kill", "last"]

    run(tmp_path, use, batch=4)


def test_a_batch_whose_model_can_not_be_loaded_fails_as_a_whole(tmp_path: Path) -> None:
    async def use(bench: Bench) -> None:
        (bench.folders["b"] / "behaviour.txt").write_text("fail")
        for job in bench.submit("1", "2", model="b"):
            with pytest.raises(DarkroomError, match="E-MODEL"):
                await job.done
        await finish(bench.submit("3", "4"))
        assert bench.noted("batches") == ["3 4"]

    run(tmp_path, use, batch=4)


def test_full_queue_takes_all_of_a_request_or_nothing(tmp_path: Path) -> None:
    async def use(bench: Bench) -> None:
        slow = bench.submit("slow")
        await until(lambda: bench.noted("renders") == ["slow"])
        waiting = bench.submit("1", "2")
        with pytest.raises(BusyError, match="E-BUSY") as caught:
            bench.submit("3", "4")
        assert 1 <= caught.value.retry_after_s <= 60
        assert len({bench.dispatcher._spread(1) for _ in range(100)}) > 3  # not all at the same moment
        assert max(bench.dispatcher._spread(10**6) for _ in range(100)) <= 60
        waiting += bench.submit("3")
        bench.release()
        await finish(slow + waiting)

    run(tmp_path, use, limit=3)


def test_a_picture_that_is_given_up_frees_its_engine_or_its_place(tmp_path: Path) -> None:
    async def use(bench: Bench) -> None:
        slow, waiting, last = [bench.submit(prompt)[0] for prompt in ("slow", "waiting", "last")]
        await until(lambda: bench.noted("renders") == ["slow"])
        for job in (slow, waiting):
            bench.dispatcher.give_up(job, DarkroomError("picture", None, "was given up"))
            with pytest.raises(DarkroomError, match="given up"):
                await job.done
        await finish([last])
        assert bench.noted("renders") == ["slow", "last"]
        assert bench.noted("finished") == ["last"]
        assert bench.dispatcher.under_way == {}

    run(tmp_path, use)


def test_an_engine_that_dies_is_started_again_and_its_pictures_are_made(tmp_path: Path) -> None:
    async def use(bench: Bench) -> None:
        await finish(bench.submit("kill once", "after"))
        assert bench.noted("renders") == ["kill once", "kill once", "after"]
        assert len(bench.noted("loads")) == 2
        assert bench.count("darkroom_engine_restarts_total") == 1

    run(tmp_path, use)


def test_a_picture_that_kills_two_engines_is_answered_with_the_error(tmp_path: Path) -> None:
    async def use(bench: Bench) -> None:
        deadly, after = bench.submit("kill", "after")
        with pytest.raises(ServerDiedError, match="signal 9"):
            await deadly.done
        await finish([after])
        assert bench.noted("renders") == ["kill", "kill", "after"]

    run(tmp_path, use)


def test_a_picture_that_died_with_another_ones_engine_is_made_without_it(tmp_path: Path) -> None:
    async def use(bench: Bench) -> None:
        held, kill = bench.submit("held", "kill")
        await until(lambda: bench.noted("renders") == ["held", "kill", "held"])
        await until(lambda: held.stage == "decoding")
        assert kill.stage == "waiting"
        bench.release()
        await held.done
        with pytest.raises(ServerDiedError):
            await kill.done
        assert bench.noted("renders") == ["held", "kill", "held", "kill"]

    run(tmp_path, use)


def test_an_engine_that_does_not_stop_a_picture_is_started_again_and_the_others_are_made(tmp_path: Path) -> None:
    async def use(bench: Bench) -> None:
        stuck, after = bench.submit("stuck", "after")
        await until(lambda: bench.noted("renders") == ["stuck"])
        bench.dispatcher.give_up(stuck, DarkroomError("picture", None, "was given up"))
        await finish([after])
        assert bench.noted("renders") == ["stuck", "after"]
        assert bench.count("darkroom_engine_restarts_total") == 1

    run(tmp_path, use, limits=Limits(cancel_s=0.2))


def test_an_engine_that_is_stopped_is_noticed_and_started_again(tmp_path: Path) -> None:
    async def use(bench: Bench) -> None:
        bench.dispatcher.check_ready()
        os.kill(int(bench.noted("engines")[0]), signal.SIGSTOP)
        job = bench.submit("x")[0]
        bench.dispatcher.give_up(job, DarkroomError("picture", None, "was given up"))
        assert bench.states == ["cancelling"]
        await until(lambda: bench.states == ["starting"])
        with pytest.raises(BusyError, match="cpu starting"):
            bench.dispatcher.check_ready()
        await until(lambda: bench.states == ["idle"])
        bench.dispatcher.check_ready()
        await finish(bench.submit("y"))

    run(tmp_path, use, limits=Limits(cancel_s=0.2))


def test_an_engine_that_hangs_while_it_starts_again_is_noticed(tmp_path: Path) -> None:
    async def use(bench: Bench) -> None:
        (engine,) = bench.dispatcher.engines
        engine._limits = Limits(load_s=5)
        (bench.folders["a"] / "behaviour.txt").write_text("hang")
        os.kill(int(bench.noted("engines")[0]), signal.SIGKILL)
        await until(lambda: len(bench.noted("engines")) == 2)
        engine._limits = Limits()
        (bench.folders["a"] / "behaviour.txt").write_text("ok")
        await finish(bench.submit("x"))
        assert len(bench.noted("engines")) == 3
        assert bench.count("darkroom_engine_restarts_total") >= 2

    run(tmp_path, use)


def test_how_far_loading_is_gets_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def use(bench: Bench) -> None:
        (bench.folders["b"] / "behaviour.txt").write_text("load slowly")
        job = bench.submit("x", model="b")[0]
        await until(lambda: bench.dispatcher.loaded_for(job) == 0.41)
        bench.release()
        await finish([job])
        assert bench.dispatcher.loaded_for(job) is None

    run(tmp_path, use)


@pytest.mark.parametrize("given", ["", "OMP_WAIT_POLICY=ACTIVE", "GOMP_SPINCOUNT=7"])
def test_threads_of_engines_spin_shortly_unless_the_environment_says_how_they_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    if given:
        monkeypatch.setenv(*given.split("="))

    async def use(bench: Bench) -> None:
        assert bench.noted("waits") == ([given] if given else ["GOMP_SPINCOUNT=10000", "OMP_WAIT_POLICY=PASSIVE"])

    run(tmp_path, use)


def test_a_loaded_model_and_a_stopped_picture_end_their_time_limits(tmp_path: Path) -> None:
    async def use(bench: Bench) -> None:
        slow = bench.submit("slow", model="b")[0]
        await until(lambda: bench.noted("renders", "b") == ["slow"])
        bench.dispatcher.give_up(slow, DarkroomError("picture", None, "was given up"))
        await until(lambda: bench.states == ["idle"])
        assert not bench.dispatcher.engines[0]._timers

    run(tmp_path, use)


def test_an_engine_that_can_not_be_started_for_want_of_descriptors_has_not_died(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    start, refused = asyncio.create_subprocess_exec, 0

    async def refuse_twice(*command: str, **options: object) -> asyncio.subprocess.Process:
        nonlocal refused
        if refused < 2:
            refused += 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return await start(*command, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", refuse_twice)
    monkeypatch.setattr(supervisor, "_RETRY_S", 0.01)

    async def use(bench: Bench) -> None:
        await finish(bench.submit("x"))
        assert bench.count("darkroom_engine_restarts_total") == 0

    run(tmp_path, use)
    assert refused == 2
    assert caplog.text.count("can't be started yet") == 1


def test_engines_that_keep_dying_break_the_server(tmp_path: Path) -> None:
    async def use(bench: Bench) -> None:
        jobs = bench.submit("kill", "kill", "kill")
        error = await bench.dispatcher.broken
        for job in jobs:
            with pytest.raises(ServerDiedError):
                await job.done
        with pytest.raises(type(error)):
            bench.submit("later")

    run(tmp_path, use)


def test_a_gpu_that_is_lost_takes_no_more_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that answers each picture with an error at once would be given all of them."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")

    async def use(bench: Bench) -> None:
        await until(lambda: bench.states == ["idle", "idle"])
        (first,) = bench.submit("slow")
        await until(lambda: bench.noted("renders") == ["slow"])
        (bench.folders["a"] / "lost").write_text("0\n")
        process = bench.dispatcher.under_way[first]._process
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)
        await until(lambda: "broken" in bench.states)
        bench.release()
        await finish([first, *bench.submit("p0", "p1")])
        assert sorted(bench.states) == ["broken", "idle"]
        assert len(bench.noted("engines")) == 3

    run(tmp_path, use, engines=2)


@pytest.mark.parametrize("engines", [2, 1])
def test_a_gpu_that_is_lost_while_another_model_is_loaded_takes_no_more_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engines: int
) -> None:
    """The picture is made by another engine, of whatever model; with none left its error names the device."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")

    async def use(bench: Bench) -> None:
        folder = bench.folders["b"]
        (folder / "lost once").touch()
        await until(lambda: bench.states == ["idle"] * engines)
        (job,) = bench.submit("p0", model="b")
        if engines == 1:
            assert str(await bench.dispatcher.broken).startswith("E-CONFIG engine.device")
            with pytest.raises(ConfigError, match="fallen off the bus"):
                await job.done
            return
        await finish([job, *bench.submit("p1"), *bench.submit("p2", model="b")])
        assert sorted(bench.states) == ["broken", "idle"]
        assert sorted(bench.noted("renders", "b")) == ["p0", "p2"]  # in either order: one of them had to change engines
        assert len(bench.noted("engines")) == 2, "the first model is not loaded on that device again"

    run(tmp_path, use, engines=engines)


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (("/nowhere/python",), "No such file"),
        ((sys.executable, "-c", "raise SystemExit(3)"), "exit code 3 while it was loading"),
        ((sys.executable, "-c", GARBLED), "a frame with 4,294,967,295 bytes"),
    ],
)
def test_an_engine_that_can_not_be_had_is_told_to_all(tmp_path: Path, command: tuple[str, ...], why: str) -> None:
    async def within() -> None:
        options = [EngineOptions({"a": ModelFiles(tmp_path)}, "cpu")]
        dispatcher = Dispatcher(options, "a", limit=5, observer=Metrics(), command=command)
        dispatcher.start()
        try:
            async with asyncio.timeout(LIMIT_S):
                with pytest.raises(ServerError, match=why):
                    await dispatcher.ready
                assert why in str(await dispatcher.broken)
        finally:
            await dispatcher.stop()

    asyncio.run(within())
