"""Fault 14: no token and no signature turns up anywhere."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from darkroom.errors import DarkroomError
from tests.fetch.place import CANARY, DATA, Place, Run, wait_until
from tests.fixtures.remote import Answer, redirect, stall
from tests.fixtures.remote.civitai import Civitai

SIGNATURE = "X-Amz-Signature"


@pytest.fixture(autouse=True)
def _token(civitai: Civitai, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIVITAI_API_KEY", CANARY)
    civitai.tokens.add(CANARY)


@pytest.mark.parametrize(
    "source",
    ["https://localhost:1/x.safetensors?token={}", "https://somebody:{}@localhost:1/x.safetensors",
     "https://localhost:1/x.safetensors?a=1&api_key={}", "https://civitai.com/api/download/models/1?token={}",
     "https://huggingface.co/a/b/resolve/main/x.safetensors?access_token={}",
     f"https://localhost:1/x.safetensors?{SIGNATURE}={{}}"],
)  # fmt: skip
def test_fault_14_token_in_an_address_is_refused_and_not_shown(source: str, place: Place) -> None:
    log = place.folder / "fetch.log"
    with place.run(source.format(CANARY), "--log", str(log)) as run:
        assert run.end() == 2
    assert "E-SOURCE" in run.err and "***" in run.err
    assert "CIVITAI_API_KEY" in run.err and "HF_TOKEN" in run.err
    check_nowhere(place.folder, CANARY)
    place.check_has_old()


FAILURES = {
    "refused": Answer(403, f'{{"message": "token {CANARY} may not"}}', content_type="application/json"),
    "missing": Answer(404, CANARY),
    "unwell": Answer(503, CANARY, [("X-Token", CANARY)]),
    "page": Answer(200, f"<html><a href='/?token={CANARY}'>{CANARY}</a></html>", content_type="text/html"),
    "error": Answer(200, f'{{"error": "bad token {CANARY}"}}', content_type="application/json"),
    "loop": redirect(f"/api/download/models/201?token={CANARY}"),
    "elsewhere": redirect(f"http://localhost:1/x?token={CANARY}&{SIGNATURE}={CANARY}"),
    "no address": redirect(f"http://[{CANARY}"),
    "other kind": redirect(f"gopher://localhost/?token={CANARY}"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_fault_14_token_is_in_nothing_that_is_left_of_a_failure(name: str, place: Place, civitai: Civitai) -> None:
    civitai.api.add("/api/download/models/201", FAILURES[name])
    log = place.folder / "fetch.log"
    command = place.command("civitai:101@201", "--log", str(log), retries=1)
    command.insert(command.index("fetch"), "--verbose")  # with the traceback
    with Run(command, place.folder) as run:
        assert run.end() in (1, 2)
    assert run.err.count("E-") and "Traceback" in run.err
    check_nowhere(place.folder, CANARY)
    place.check_has_old()


def test_fault_14_token_is_in_no_exception(place: Place, civitai: Civitai) -> None:
    """Nor in what exceptions hold on to, which a traceback with variables or a pickle would show."""
    civitai.api.add("/api/download/models/201", FAILURES["elsewhere"])
    with pytest.raises(DarkroomError) as caught:
        place.fetch("civitai:101@201")
    error: BaseException | None = caught.value
    while error is not None:
        assert CANARY not in f"{error} {error!r} {error.args} {getattr(error, '__notes__', '')}"
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def test_fault_14_signatures_and_tokens_are_in_no_file_and_no_process_list(place: Place, civitai: Civitai) -> None:
    lock, log = place.folder / "lock.yaml", place.folder / "fetch.log"
    civitai.resource(301).faults = [stall(at=1_000_000)]
    with place.run("civitai:101@201", "--lock", str(lock), "--log", str(log)) as run:
        civitai.store.wait_stalled()
        (request,) = civitai.store.requests()
        signature = request.query[SIGNATURE]
        argv = Path(f"/proc/{run.process.pid}/cmdline").read_bytes().decode()
        assert CANARY not in argv and signature not in argv
        wait_until(lambda: place.kept == 1_000_000)
        check_nowhere(place.folder, CANARY, signature)  # what a partial download says of itself
        civitai.store.release()
        run.succeeds()
    place.check_has(DATA)
    check_nowhere(place.folder, CANARY, signature, SIGNATURE)


def test_fault_14_token_that_can_not_be_sent_is_not_shown(
    place: Place, civitai: Civitai, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIVITAI_API_KEY", f"{CANARY}\nX-Other: 1")
    with place.run("civitai:101@201") as run:
        assert run.end() == 2
    assert "E-CONFIG CIVITAI_API_KEY" in run.err
    check_nowhere(place.folder, CANARY)
    assert civitai.api.requests() == []


def check_nowhere(folder: Path, *secrets: str) -> None:
    """In no file and in no file's name; what commands printed is among the files."""
    for path, secret in itertools.product(folder.rglob("*"), secrets):
        assert secret not in path.name
        assert not path.is_file() or secret.encode() not in path.read_bytes(), path
