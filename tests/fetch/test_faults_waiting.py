"""Faults 10 to 12: servers that ask for patience, that can't be reached, and that fall silent."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from darkroom.config import FetchConfig
from darkroom.errors import NetworkError, StallError
from tests.fetch.conftest import FIRST_WAIT_S, Clock
from tests.fetch.place import DATA, PATH, Place
from tests.fixtures.remote import (
    Answer,
    FileServer,
    Resource,
    http_date,
    make_certificate,
    rate_limited,
    refused_url,
    stall,
)
from tests.fixtures.remote.civitai import Civitai

FORMS: dict[str, Callable[[], str | None]] = {
    "seconds": lambda: "1",
    "date": lambda: http_date(1.9),
    "none": lambda: None,
}


@pytest.mark.parametrize("form", FORMS)
def test_fault_10_rate_limit_is_waited_out(form: str, place: Place, server: FileServer, clock: Clock) -> None:
    server.add(PATH, Resource(DATA))
    asked = FORMS[form]()
    server.first(PATH, rate_limited(asked))
    place.gets(server.url(PATH), DATA)
    assert len(server.requests(PATH)) == 2
    (wait,) = clock.waits
    if asked is not None:
        assert wait >= 0.99
        assert re.fullmatch(r"rate limited, waiting [123] s \(1/3\)", place.told)
    else:
        assert wait < 0.99
        assert re.fullmatch(r"rate limited, waiting 0(\.\d)? s \(1/3\)", place.told)


def test_fault_10_five_seconds_are_five_seconds(place: Place, server: FileServer, clock: Clock) -> None:
    server.add(PATH, Resource(DATA))
    server.first(PATH, rate_limited(5))
    place.gets(server.url(PATH), DATA)
    assert sum(clock.waits) >= 5
    assert re.fullmatch(r"rate limited, waiting [56] s \(1/3\)", place.told)


def test_fault_10_hours_are_not_waited(place: Place, server: FileServer) -> None:
    server.add(PATH, rate_limited(7200))
    error = place.fails(NetworkError, server.url(PATH))
    assert "asks not to come again for 7200 s" in error.why
    assert len(server.requests(PATH)) == 1


def test_fault_10_limit_that_does_not_end_has_an_end(place: Place, server: FileServer, clock: Clock) -> None:
    server.add(PATH, rate_limited(0))
    error = place.fails(NetworkError, server.url(PATH))
    assert "429" in error.why and "4 times" in error.why
    assert len(clock.waits) == 3
    assert len(server.requests(PATH)) == 4


def test_fault_10_limit_at_civitais_api(place: Place, civitai: Civitai, clock: Clock) -> None:
    civitai.add_file(DATA)
    civitai.api.first("/api/v1/model-versions/201", rate_limited(1))
    civitai.api.first("/api/download/models/201", rate_limited(1))
    place.gets("civitai:101@201", DATA)
    assert len(re.findall(r"rate limited, waiting [12] s", place.told)) == 2
    assert len(clock.waits) == 2


def test_fault_10_four_jobs_make_no_storm(tmp_path: Path, server: FileServer) -> None:
    """Each of four processes comes again once after the time that it was told, and not all of them at once."""
    places = []
    for number in range(4):
        (folder := tmp_path / str(number)).mkdir()
        places.append(Place(folder))
        server.add(f"/{number}.safetensors", Resource(DATA))
        server.first(f"/{number}.safetensors", rate_limited(2))
    with ExitStack() as stack:
        runs = [place.run(server.url(f"/{number}.safetensors")) for number, place in enumerate(places)]
        for run in map(stack.enter_context, runs):
            assert re.search(r"^x: rate limited, waiting [23] s", run.succeeds(), re.M)
    again = []
    for number, place in enumerate(places):
        place.check_has(DATA)
        first, second = server.requests(f"/{number}.safetensors")
        assert first.ended is not None and second.began - first.ended >= 2
        again.append(second.began - first.ended)
    assert max(again) - min(again) > 0.001


def test_fault_11_server_that_is_unwell_is_asked_again(place: Place, server: FileServer) -> None:
    server.add(PATH, Resource(DATA))
    server.first(PATH, Answer(503), Answer(502), Answer(500))
    place.gets(server.url(PATH), DATA)
    retries = [line.partition(" in ")[0] for line in place.lines]
    assert retries == ["retry 1/3", "retry 2/3", "retry 3/3"]
    assert place.lines[0].endswith(f": localhost:{server.port} answers 503 Service Unavailable")


def test_fault_11_waits_become_longer(place: Place, server: FileServer, clock: Clock) -> None:
    server.add(PATH, Answer(503))
    place.fails(NetworkError, server.url(PATH))
    assert len(server.requests(PATH)) == 4
    for number, wait in enumerate(clock.waits):
        assert 0.5 * 2**number <= wait / FIRST_WAIT_S <= 1.5 * 2**number


@pytest.mark.parametrize("status", [400, 405, 418, 501])
def test_fault_11_answer_that_will_not_change_is_not_asked_for_again(
    status: int, place: Place, server: FileServer
) -> None:
    server.add(PATH, Answer(status, "no"))
    assert str(status) in place.fails(NetworkError, server.url(PATH)).why
    assert len(server.requests(PATH)) == 1


def test_fault_11_nobody_there(place: Place) -> None:
    error = place.fails(NetworkError, refused_url(PATH))
    assert "refuses connections, 4 times" in error.why
    assert [line.partition(" in ")[0] for line in place.lines] == ["retry 1/3", "retry 2/3", "retry 3/3"]


def test_fault_11_name_that_is_not_known(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    error = place.fails(NetworkError, "https://nowhere.invalid/x.safetensors")
    assert "nowhere.invalid can't be found (DNS), 4 times" in error.why
    assert len(place.lines) == 3


def test_fault_11_certificate_that_nobody_trusts_is_not_tried_twice(place: Place, tmp_path: Path) -> None:
    with FileServer(certificate=make_certificate(tmp_path)) as server:
        server.add(PATH, Resource(DATA))
        error = place.fails(NetworkError, server.url(PATH))
        assert f"localhost:{server.port}: its TLS certificate can't be trusted (self" in error.why
        assert server.connections() == 1
        assert place.lines == []


def test_fault_11_no_tls_where_tls_should_be(place: Place, server: FileServer) -> None:
    error = place.fails(NetworkError, server.url(PATH).replace("http:", "https:"))
    assert "no secure connection" in error.why
    assert place.lines == []


@pytest.mark.parametrize("after", [None, 0, 1_000_000])
def test_fault_12_silent_server(after: int | None, place: Place, server: FileServer) -> None:
    file = server.add(PATH, Resource(DATA, faults=[stall(after, times=None)]))
    if after:
        file.faults = [stall(at=after, times=None)]
    quick = FetchConfig(retries=1, stall_timeout_s=0.3)
    error = place.fails(StallError, server.url(PATH), options=quick)
    assert str(error).startswith(f"E-STALL source '{server.url(PATH)}': ")
    assert error.why.endswith("2 times")
    assert "what has been downloaded is kept" in error.hint
    assert place.kept == (after or 0)
    sent = server.bytes_sent(PATH)
    file.faults.clear()
    place.gets(server.url(PATH), DATA)
    assert server.bytes_sent(PATH) - sent == len(DATA) - (after or 0)


def test_fault_12_silence_that_ends_is_no_stall(place: Place, server: FileServer) -> None:
    server.add(PATH, Resource(DATA, delay_s=0.5))
    place.gets(server.url(PATH), DATA)
    assert place.lines == []


def test_fault_12_trickle_is_a_stall(place: Place, server: FileServer) -> None:
    """A byte now and then would keep a connection for ever."""
    server.add(PATH, Resource(DATA, rate=600))
    quick = FetchConfig(retries=0, stall_timeout_s=1)
    assert "bytes came in" in place.fails(StallError, server.url(PATH), options=quick).why
