"""The render client: gets one picture from a warm engine and writes it. Standard library only, starts at once.

If no engine listens, the client starts one under a lock, so that many clients at once start a single one, which lives as
long as the run does whose lease they hold. The client writes the file, whole or not at all.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from darkroom.base.files import disk_errors, write_together
from darkroom.base.job_notes import note
from darkroom.base.processes import is_alive
from darkroom.errors import BusyError, ConfigError, CudaError, DarkroomError, RequestError, ServerDiedError, ServerError
from darkroom.warm import launch
from darkroom.warm.connection import Connection, ConnectionLost, check_stopped, in_turn
from darkroom.warm.lease import current_lease
from darkroom.warm.paths import ServerFiles, server_key
from darkroom.warm.slots import NoFreeSlot, Slot, make_devices, take_slot

TYPE_CHECKING = False  # as in typing, whose import every picture would pay for
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from darkroom.serve.frames import Message
    from darkroom.warm.chain_files import Chain

    Files = Mapping[str, bytes]

DEFAULT_COMMAND = (sys.executable, "-m", "darkroom.warm.server")
_ATTEMPTS = 3
_RETRY_PAUSE_S = 0.02


class EngineSpec:
    """Which engine a picture comes from: the model, how it is loaded, and time limits (seconds).

    `devices` are those of the run, with one engine each; if it is empty, `device` is the only one.
    """

    def __init__(
        self,
        model_dir: Path,
        verified: Path | None = None,
        *,
        device: str = "auto",
        devices: Sequence[str] = (),
        dtype: str = "auto",
        memory: str = "auto",
        compile: str = "off",
        start_timeout_s: float = 900,
        render_timeout_s: float = 3600,
        idle_timeout_s: float = 300,
        command: Sequence[str] = DEFAULT_COMMAND,
    ) -> None:
        self.model_dir = model_dir
        self.verified = verified
        self.device = device
        self.devices = devices
        self.dtype = dtype
        self.memory = memory
        self.compile = compile
        self.start_timeout_s = start_timeout_s
        self.render_timeout_s = render_timeout_s
        self.idle_timeout_s = idle_timeout_s
        self.command = command


class _EngineEnding(Exception):
    """The engine takes no more work because it is about to end or has just ended; another can be started."""


def render(
    spec: EngineSpec,
    request_json: str,
    output: Path,
    log: Path | None = None,
    study: str | None = None,
    chain: Chain | None = None,
    latents: Path | None = None,
    latents_at: Sequence[float] = (1.0,),
    metadata: Mapping[str, bool] | None = None,
) -> dict[str, Any]:
    """Have one picture rendered and write it to `output`; returns its facts (`serve.answers.Rendered.facts`, and `used`: see
    `serve.engine_process.resources_in_use`).

    `request_json` is `RenderRequest.to_json()`, `study` the cell of a study as JSON, for the picture's metadata. `log` gets a summary line, or the error and the end of the engine's log.
    `chain` has the files that its stages need, `latents` is a second output for the picture's latents, `latents_at` the parts of its
    last pass after which they are (1 is the end), and `metadata` are fields of MetadataConfig that aren't its defaults.
    Raises the engine's own error (E-REQUEST, E-MODEL, E-OOM, …), ConfigError (E-CONFIG) for a device that can't be used,
    ServerError (E-SERVER) if the engine doesn't start or answer, ServerDiedError (E-SERVER-DIED) if it ends during the
    picture, SocketError (E-SOCKET) if the socket is another user's. The outputs then stay as they were. The end of the engine's
    log is a note of the error; `describe` shows both.
    """
    try:
        message, given = _read_picture(request_json, chain, () if latents is None else latents_at)
        picture = message | {"metadata": metadata or {}}, given
        answer, files = _fetch_picture(spec, *picture)
        if study and (metadata or {}).get("prompt", True):  # a study's labels are texts of its prompts
            from darkroom.pictures.png import add_study

            files["picture"] = add_study(files["picture"], study)
        outputs = {output: files["picture"]} | ({} if latents is None else {latents: files["latents"]})
        write_together(outputs)
    except DarkroomError as error:
        _write_log(log, describe(error))
        raise
    _write_log(log, answer["summary"])
    facts: dict[str, Any] = answer["facts"] | {"used": answer["used"]}
    return facts


def describe(error: DarkroomError) -> str:
    """The error's one line, then the end of the engine's log if there is one."""
    return "\n".join([str(error), *getattr(error, "__notes__", [])])


def _write_log(log: Path | None, text: str) -> None:
    if log is not None:
        with disk_errors(log):
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text(text + "\n", encoding="utf-8")


def _read_request(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        raise RequestError("request", None, "is not JSON", "send what a JSON library writes") from None


def _read_picture(
    request_json: str, chain: Chain | None, latents_at: Sequence[float]
) -> tuple[Message, dict[str, bytes]]:
    """What the engine is asked: the message, and the files that go with it."""
    request = _read_request(request_json)
    kept = {"keep_latents": 1 in latents_at, "latents_at": [part for part in latents_at if part != 1]}
    message = {"op": "render", "request": request, "stages_done": 0, **kept}
    if chain is None:
        return message, {}
    own = {} if chain.checkpoint is None else {"checkpoint": chain.checkpoint}
    return {**message, "stages_done": chain.stages_done, **own}, chain.read()


def _fetch_picture(spec: EngineSpec, message: Message, files: Files) -> tuple[Message, dict[str, bytes]]:
    """The engine's answer with the facts and the summary, and its files: the PNG, and latents that were asked for."""
    lease = current_lease()
    _check_lease(lease)
    slots = _make_slots(spec, lease)
    deadline = time.monotonic() + spec.render_timeout_s
    failed: dict[Slot, DarkroomError] = {}
    while True:
        usable = [slot for slot in slots if slot not in failed and slot.lost_by is None]
        if not usable:
            raise _all_lost(slots, failed)
        try:
            with take_slot(usable, lease, deadline, spec.start_timeout_s, lambda: _check_lease(lease)) as slot:
                timeout_s = max(_RETRY_PAUSE_S, deadline - slot.taken_at)
                made = _use_slot(spec, slot, lease, (message, files), timeout_s)
        except NoFreeSlot:
            why = f"no device was free for it within {spec.render_timeout_s:g} s"
            hint = "raise engine.render_timeout_s in the config"
            raise ServerError("engine for", spec.model_dir, why, hint) from None
        except (ConfigError, CudaError) as error:
            if len(slots) == 1:
                raise
            failed[slot] = error
            if isinstance(error, ConfigError):  # the device can't be used at all; other faults may be the picture's
                slot.lose(error)
            print(f"{slot.device.name} failed: {error}", file=sys.stderr, flush=True)
        else:
            for lost, fault in failed.items():
                lost.lose(fault)
            return made


def _all_lost(slots: Sequence[Slot], failed: Mapping[Slot, DarkroomError]) -> DarkroomError:
    """The last error of a picture that no device could make, with what became of the other devices."""
    errors = {slot.device.name: failed.get(slot) or slot.lost_by for slot in slots}
    *others, last = ((name, error) for name, error in errors.items() if error is not None)
    for name, error in others:
        last[1].add_note(f"{name}: {error}")
    return last[1]


def _check_lease(lease: str | None) -> None:
    check_stopped()
    if lease is not None and not is_alive(lease):
        why = "the run this job belongs to has ended"
        raise ServerError("lease", lease, why, "run snakemake again, or unset DARKROOM_LEASE")


def _make_slots(spec: EngineSpec, lease: str | None) -> list[Slot]:
    devices = make_devices(spec.devices or [spec.device])
    slots = []
    for device in devices:
        key = server_key(spec.model_dir, spec.verified, device.name, spec.dtype, spec.memory, spec.compile, device.copy)
        slots.append(Slot(device, key, lease, is_only=len(devices) == 1))
    return slots


def _use_slot(
    spec: EngineSpec, slot: Slot, lease: str | None, picture: tuple[Message, Files], timeout_s: float
) -> tuple[Message, dict[str, bytes]]:
    for _ in range(_ATTEMPTS):
        _check_lease(lease)
        try:
            return _try_engine(spec, slot, lease, picture, timeout_s)
        except _EngineEnding:
            time.sleep(_RETRY_PAUSE_S)
    raise _server_error(spec, slot, f"it ended {_ATTEMPTS} times before it could be given the picture")


def _try_engine(
    spec: EngineSpec, slot: Slot, lease: str | None, picture: tuple[Message, Files], timeout_s: float
) -> tuple[Message, dict[str, bytes]]:
    deadline = time.monotonic() + spec.start_timeout_s
    connection, is_mine = _reach(spec, slot, lease, deadline)
    with connection:
        try:
            left = max(0.0, deadline - time.monotonic())
            news = _tell_loading(spec, slot) if is_mine else None
            answer, _ = connection.ask({"op": "hello", "lease": lease}, timeout_s=left, on_loading=news)
        except ConnectionLost:
            if not is_mine:
                raise _EngineEnding from None
            raise _server_error(spec, slot, "it ended while it was loading the model") from None
        except TimeoutError:
            raise _hung(spec, slot, connection, "was not ready", spec.start_timeout_s) from None
        _check(answer, "ready")
        for load in answer["loads"]:
            note(load=load["model"], seconds=load["seconds"])
        try:
            answer, made = connection.ask(*picture, timeout_s=timeout_s, sending=in_turn())
        except ConnectionLost:
            why = "it went away in the middle of a picture; nothing was written"
            died = ServerDiedError(slot.title, spec.model_dir, why, "run the same command again")
            raise launch.with_log_tail(died, slot.files.log) from None
        except TimeoutError:
            raise _hung(spec, slot, connection, "had no picture", spec.render_timeout_s) from None
    _check(answer, "picture")
    return answer, made


def _tell_loading(spec: EngineSpec, slot: Slot) -> Callable[[int, int], None]:
    """Prints how far loading the model is; by the client that started the engine, so that it's told once.

    The first one of the run on a device also tells what machine it is.
    """
    if slot.tells():
        from darkroom.engine.machine import machine_line

        print(machine_line(slot.device.name, slot.device.environment or os.environ), file=sys.stderr, flush=True)

    def tell(done: int, total: int) -> None:
        from darkroom.base.text import format_percent, format_progress

        how_far = f"{format_percent(done, total)}, {format_progress(done, total)}"
        print(f"loading {spec.model_dir.name}: {how_far}", file=sys.stderr, flush=True)

    return tell


def _reach(spec: EngineSpec, slot: Slot, lease: str | None, deadline: float) -> tuple[Connection, bool]:
    """A connection to the engine, and whether this client has started it."""
    files = slot.files
    try:
        while time.monotonic() < deadline:
            if connection := _open(files, deadline):
                return connection, False
            with launch.start_lock(files.start_lock) as lock:
                if lock is not None:
                    # The previous holder of the lock may have started it.
                    if connection := _open(files, deadline):
                        return connection, False
                    left = deadline - time.monotonic()
                    command = _command(spec, slot, lease)
                    launch.start(command, files.log, left, spec.model_dir, lock, slot.device.environment)
                    if connection := _open(files, deadline):
                        return connection, True
                    raise _server_error(spec, slot, "it ended as soon as it had started")
            time.sleep(_RETRY_PAUSE_S)
    except TimeoutError:
        pass
    raise _server_error(spec, slot, f"no connection to {files.socket} within {spec.start_timeout_s:g} s")


def _open(files: ServerFiles, deadline: float) -> Connection | None:
    return Connection.open(files.socket, timeout_s=deadline - time.monotonic())


def _command(spec: EngineSpec, slot: Slot, lease: str | None) -> list[str]:
    """The command that starts the slot's engine; see `options.ServerOptions`."""
    options = {
        "model_dir": os.path.abspath(spec.model_dir),  # noqa: PTH100 - Path.absolute keeps '..'
        "verified": None if spec.verified is None else os.path.abspath(spec.verified),  # noqa: PTH100
        "socket": str(slot.files.socket),
        "device": slot.device.seen_as,
        "device_name": None if slot.device.visible is None else slot.device.name,
        "dtype": spec.dtype,
        "memory": spec.memory,
        "compile": spec.compile,
        "start_timeout_s": spec.start_timeout_s,
        "idle_timeout_s": spec.idle_timeout_s,
        "lease": lease,
        "detach": True,
    }
    return [*spec.command, json.dumps(options, ensure_ascii=False)]


def _check(answer: Message, event: str) -> None:
    """Raise the error that an answer holds, _EngineEnding for E-BUSY, ServerError (E-SERVER) for an unknown answer."""
    if answer.get("event") == event:
        return
    try:
        error = DarkroomError.from_dict(answer["error"])
    except (KeyError, TypeError, AttributeError):
        raise ServerError("engine", None, f"answered {answer.get('event')!r}", "run the command again") from None
    raise _EngineEnding if isinstance(error, BusyError) else error


def _server_error(spec: EngineSpec, slot: Slot, why: str) -> DarkroomError:
    log = slot.files.log
    return launch.with_log_tail(ServerError(slot.title, spec.model_dir, why, f"read {log}"), log)


def _hung(spec: EngineSpec, slot: Slot, connection: Connection, what: str, seconds: float) -> DarkroomError:
    hint = f"end process {connection.server_pid} if it hangs, or raise the time-out in the config's engine section"
    error = ServerError(slot.title, spec.model_dir, f"{what} after {seconds:g} s", hint)
    return launch.with_log_tail(error, slot.files.log)
