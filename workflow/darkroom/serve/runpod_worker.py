"""RunPod's serverless worker: jobs come from the runpod SDK, a Service makes the pictures.

The SDK runs its own event loop in the main thread, which handles signals; the service has one in another thread.
Importing this module has no side effects.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from darkroom.errors import ConfigError, DarkroomError, ServerError
from darkroom.serve.images import refuse_place
from darkroom.serve.options import sdk_options
from darkroom.serve.runpod_schema import data_uri, make_output, read_input

if TYPE_CHECKING:
    from darkroom.serve.dispatcher import Dispatcher
    from darkroom.serve.service import Progress, Service
    from darkroom.serve.setup import Setup

logger = logging.getLogger(__name__)

T = TypeVar("T")
RunpodJob = dict[str, Any]

BUCKET = "BUCKET_ENDPOINT_URL"
_BUCKET_KEYS = ("BUCKET_ACCESS_KEY_ID", "BUCKET_SECRET_ACCESS_KEY")
_LOG_LEVELS = ("RUNPOD_LOG_LEVEL", "RUNPOD_DEBUG_LEVEL")
_PROGRESS_S = 1.0


class Worker:
    """The handler for the SDK over a running service. `send_progress` is called with a job and its progress."""

    def __init__(
        self,
        service: Service,
        loop: asyncio.AbstractEventLoop,
        send_progress: Callable[[RunpodJob, Any], None] | None = None,
    ) -> None:
        self._service = service
        self._loop = loop
        self._send_progress = send_progress

    async def handler(self, job: RunpodJob) -> dict[str, Any]:
        """A job's output (`runpod_schema.make_output`), or `{"error": "E-CODE …"}`, since the SDK wants a string.

        `refresh_worker` asks RunPod for another worker, once no engine is left and none will come back. If RunPod cancels
        the job, this task is cancelled, and its picture is given up at its next step.
        """
        try:
            return await self._answer(job)
        except Exception as error:
            from darkroom.serve.answers import as_error
            from darkroom.serve.http import error_body

            answer: dict[str, Any] = {"error": error_body(as_error(error))["error"]["message"]}
            return {**answer, "refresh_worker": True} if self._service.is_broken else answer

    async def _take_control_pictures(self, given: Any) -> tuple[Any, dict[str, bytes]]:
        """A job's input with the SHA-256 of the pictures that its `control` holds in base64, and these pictures."""
        controls, pictures = given.get("control") if isinstance(given, dict) else None, dict[str, bytes]()
        if not isinstance(controls, list):
            return given, pictures
        taken = []
        for number, control in enumerate(controls):
            if isinstance(control, dict) and isinstance(control.get("image"), str):
                where = f"control.{number}.image"
                refuse_place(control["image"], f"input: {where}")
                picture = await self._service.images.read(control["image"], where, where="input")
                pictures[picture.sha256] = picture.png
                control = {**control, "image": picture.sha256}
            taken.append(control)
        return {**given, "control": taken}, pictures

    async def _answer(self, job: RunpodJob) -> dict[str, Any]:
        given, controls = await self._take_control_pictures(job.get("input"))
        wanted = read_input(given, self._service.config)
        if wanted.image is not None:
            wanted = wanted.with_picture(await self._service.images.read(wanted.image, "image_url", where="input"))
        report = None if self._send_progress is None else _every_second(partial(self._send_progress, job))
        making = self._service.make_pictures(
            wanted.settings, model=wanted.model, pictures={**wanted.pictures, **controls}, on_progress=report
        )
        pictures = await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(making, self._loop))
        files, kind = await wanted.output.encode_all(picture.png for picture in pictures), wanted.output.kind
        if os.environ.get(BUCKET):
            links = await asyncio.to_thread(_upload, job["id"], files, kind.suffix)
            return make_output(pictures, links, wanted.ignored)
        return make_output(pictures, [data_uri(file, kind.mime_type) for file in files], wanted.ignored)


def run(arguments: argparse.Namespace) -> int:
    """`darkroom runpod`: serve jobs until the SDK or a signal ends it; returns the exit code.

    Raises ConfigError (E-CONFIG), ModelError (E-MODEL), and the errors of loading a model.
    """
    from darkroom.serve.options import begin_log, read_setup

    begin_log(arguments)
    _check(arguments)
    return serve_jobs(read_setup(arguments), sdk_options(arguments))


def serve_jobs(setup: Setup, options: Sequence[str]) -> int:
    """Serve jobs with a set-up and the SDK's options. On SIGTERM the jobs under way are finished first."""
    if not any(map(os.environ.get, _LOG_LEVELS)):
        os.environ[_LOG_LEVELS[0]] = "INFO"  # at its own default, DEBUG, the SDK logs whole jobs with their prompts
    signal.signal(signal.SIGTERM, _leave)
    try:
        with _service(setup) as (service, loop):
            _run_sdk(service, loop, setup, options)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    finally:
        for (
            heartbeat
        ) in multiprocessing.active_children():  # the SDK's, which would keep reporting that the worker is alive
            heartbeat.terminate()
    return 0


def _run_sdk(service: Service, loop: asyncio.AbstractEventLoop, setup: Setup, options: Sequence[str]) -> None:
    import runpod  # takes a second or two, while the engine loads its model

    # The SDK's heartbeat is a process: a forked one would hold locks and keep the engine's channel open after our end.
    multiprocessing.set_start_method("spawn", force=True)
    _call(loop, _wait_ready(service.dispatcher, setup.engine.start_timeout_s)).result()
    is_deployed = "RUNPOD_WEBHOOK_POST_OUTPUT" in os.environ
    worker = Worker(service, loop, runpod.serverless.progress_update if is_deployed else None)
    at_once = max(1, len(setup.serve.devices)) * setup.serve.batch
    sys.argv[1:] = options
    runpod.serverless.start({"handler": worker.handler, "concurrency_modifier": lambda _: at_once})


@contextmanager
def _service(setup: Setup) -> Iterator[tuple[Service, asyncio.AbstractEventLoop]]:
    """A service that has started, in an event loop in a thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="service", daemon=True)
    thread.start()
    try:
        service, watching = _call(loop, _start_service(setup)).result()
        try:
            yield service, loop
        finally:
            loop.call_soon_threadsafe(watching.cancel)
            _call(loop, service.dispatcher.stop()).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _start_service(setup: Setup) -> tuple[Service, asyncio.Task[None]]:
    from darkroom.serve.metrics import Metrics
    from darkroom.serve.setup import make_service

    service = make_service(setup, Metrics())
    service.dispatcher.start()
    return service, asyncio.create_task(_watch_engines(service.dispatcher))


async def _watch_engines(dispatcher: Dispatcher) -> None:
    """Once no engine is left, fail every job with the error that broke the last one."""
    dispatcher.fail_all(await dispatcher.wait_broken())


async def _wait_ready(dispatcher: Dispatcher, limit_s: float) -> None:
    try:
        await asyncio.wait_for(dispatcher.wait_ready(), limit_s)
    except TimeoutError:
        why = f"is not loaded after {limit_s:g} s"
        raise ServerError("model", None, why, "raise engine.start_timeout_s in the config") from None


def _call(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> Future[T]:
    return asyncio.run_coroutine_threadsafe(work, loop)


def _leave(_number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + signal.SIGTERM)


def _check(arguments: argparse.Namespace) -> None:
    """Refuse wrong settings before the SDK sees them: without a key of the bucket it writes pictures to disk, silently."""
    from darkroom.base.sockets import is_loopback

    missing = [name for name in _BUCKET_KEYS if not os.environ.get(name)]
    if os.environ.get(BUCKET) and missing:
        raise ConfigError(BUCKET, None, f"is set without {' and '.join(missing)}", "set all three, or none")
    if arguments.rp_api_host and not is_loopback(arguments.rp_api_host):
        why = "is not a loopback address, and the SDK's API needs no key"
        raise ConfigError("--rp_api_host", arguments.rp_api_host, why, "use 127.0.0.1")


def _every_second(send: Callable[[Any], None]) -> Callable[[Progress], None]:
    """Pass on at most one report of progress a second, and none in the first second."""
    last = time.monotonic()

    def report(progress: Progress) -> None:
        nonlocal last
        if time.monotonic() - last >= _PROGRESS_S:
            last = time.monotonic()
            send({name: value for name, value in asdict(progress).items() if name != "started"})

    return report


def _upload(job_id: str, files: Sequence[bytes], suffix: str) -> list[str]:
    """Upload pictures to the bucket with the SDK, as worker-sdxl does; returns links that are valid for a week."""
    from runpod.serverless.utils.rp_upload import upload_image

    try:
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder, f"{number}{suffix}") for number in range(len(files))]
            for path, data in zip(paths, files, strict=True):
                path.write_bytes(data)
            return [str(upload_image(job_id, str(path))) for path in paths]
    except Exception as error:
        logger.exception("the upload failed")
        hint = f"see the worker's log, and check {BUCKET} and its keys"
        raise DarkroomError("upload of the pictures", None, f"failed with {type(error).__name__}", hint) from None
