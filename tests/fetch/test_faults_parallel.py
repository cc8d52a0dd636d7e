"""Faults 1, 3, 4, 5, 9, 10 and 12 where four connections bring the parts of one large file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from itertools import count

import pytest

from darkroom.config import FetchConfig
from darkroom.errors import AuthError, NetworkError, NotWeightsError, RangeError, StallError
from tests.fetch.place import PATH, Place
from tests.fixtures.remote import Answer, FileServer, Request, Resource, WrongRange, cut, login_page, reset, stall
from tests.fixtures.remote.civitai import Civitai
from tests.fixtures.remote.faults import Fault
from tests.fixtures.remote.weights import make_weights

SIZE = 40_000_000
DATA, OTHER = make_weights(SIZE), make_weights(SIZE, seed=1)
PIECE = 8 * 2**20  # what one connection is given at a time
FEW = 1.2 * SIZE
"""What a connection was sent beyond its part is still in the sockets when it is let go."""


@pytest.fixture
def file(server: FileServer) -> Resource:
    return server.add(PATH, Resource(DATA))


def start_of(request: Request) -> int:
    return int(str(request.range).removeprefix("bytes=").partition("-")[0])


def test_four_connections_share_the_work(place: Place, server: FileServer, file: Resource) -> None:
    file.change(rate=20e6)
    place.gets(server.url(PATH), DATA)
    first, *others = server.requests(PATH)
    assert first.range == "bytes=0-" and "if-range" not in first.headers
    assert len({request.connection for request in (first, *others)}) >= 4
    assert all(request.headers["if-range"] == '"v1"' for request in others)
    assert server.bytes_sent(PATH) <= FEW


@pytest.mark.parametrize("fault", [cut, reset, stall])
def test_fault_01_one_of_four_ranges_is_cut(
    fault: Callable[..., Fault], place: Place, server: FileServer, file: Resource
) -> None:
    struck = Resource(DATA, faults=[fault(1_000_000)])
    numbers = count()
    server.add(PATH, lambda _: struck if next(numbers) == 2 else file)
    place.gets(server.url(PATH), DATA)
    assert [line.partition(" in ")[0] for line in place.lines if line.startswith("retry")] == ["retry 1/3"]
    assert any(line.startswith("resumed at ") for line in place.lines)
    assert server.bytes_sent(PATH) <= FEW


def test_fault_01_all_four_are_cut_at_once(place: Place, server: FileServer, file: Resource) -> None:
    file.add_fault(cut(total=20_000_000))
    place.gets(server.url(PATH), DATA)
    assert server.bytes_sent(PATH) <= FEW


def test_fault_03_server_that_stops_to_know_ranges(place: Place, server: FileServer, file: Resource) -> None:
    """The first answer is a part, and all others the whole: one of them is taken, over one connection."""
    file.change(after=1, accept_ranges=False)
    place.gets(server.url(PATH), DATA)
    assert place.lines == ["server cannot resume, restarting"]
    assert len(server.requests(PATH)) <= 5


def test_fault_03_server_that_knows_ranges_now_and_then(place: Place, server: FileServer, file: Resource) -> None:
    whole, numbers = Resource(DATA, accept_ranges=False), count()
    server.add(PATH, lambda _: whole if next(numbers) % 3 == 2 else file)
    place.gets(server.url(PATH), DATA)
    assert place.lines == ["server cannot resume, restarting"]


@pytest.mark.parametrize("checks_if_range", [True, False])
def test_fault_04_changed_while_four_ranges_run(
    checks_if_range: bool, place: Place, server: FileServer, file: Resource
) -> None:
    file.change(checks_if_range=checks_if_range)
    file.change(after=3, content=OTHER, etag='"v2"')
    place.gets(server.url(PATH), OTHER)
    assert "file changed upstream, starting again" in place.lines


def test_fault_04_changed_without_saying_so_is_found_by_the_hash(
    place: Place, server: FileServer, file: Resource
) -> None:
    """Same ETag, same size: nothing but the hash can tell."""
    file.add_fault(cut(at=20_000_000, times=None))
    place.fails(NetworkError, server.url(PATH), options=FetchConfig(retries=0))
    file.change(content=OTHER, faults=[])
    place.gets(server.url(PATH), OTHER, sha256=hashlib.sha256(OTHER).hexdigest())
    assert place.lines[-1] == "the resumed download has another hash than expected, starting again"


def test_fault_04_late_answer_of_the_old_version_is_not_written_into_the_new(
    place: Place, server: FileServer, file: Resource
) -> None:
    """One connection gets its part of the old version when the others have been told of the new one."""
    old, new, numbers = file, Resource(OTHER, etag='"v2"', rate=40e6), count()
    slow = Resource(DATA, delay_s=0.4)

    def choose(_: Request) -> Resource:
        number = next(numbers)
        return old if number == 0 else slow if number == 1 else new

    server.add(PATH, choose)
    place.gets(server.url(PATH), OTHER)
    assert place.lines == ["file changed upstream, starting again"]


@pytest.mark.parametrize("times", [1, None])
def test_fault_05_wrong_part_for_one_of_four(
    times: int | None, place: Place, server: FileServer, file: Resource
) -> None:
    wrong = Resource(DATA, wrong_ranges=[WrongRange(shift=5, times=times)])
    server.add(PATH, lambda request: wrong if start_of(request) // PIECE == 1 else file)
    if times:
        place.gets(server.url(PATH), DATA)
        (told,) = place.lines
    else:
        told = place.fails(RangeError, server.url(PATH)).why
    numbers = re.fullmatch(r"the server sent bytes from (\d+) on when asked from (\d+) on(?:, restarting)?", told)
    assert numbers is not None and int(numbers[1]) == int(numbers[2]) + 5


def test_fault_08_login_page_for_one_of_four_keeps_the_rest(place: Place, server: FileServer, file: Resource) -> None:
    file.add_fault(stall(at=16_000_000, times=None))

    def choose(request: Request) -> Resource | Answer:
        if start_of(request) // PIECE != 3:
            return file
        server.wait_until(lambda: server.bytes_sent(PATH) > 10_000_000)
        return login_page()

    server.add(PATH, choose)
    place.fails(NotWeightsError, server.url(PATH))
    assert place.kept > 1_000_000
    kept = place.kept
    file.faults.clear()
    server.add(PATH, file)
    server.clear()
    place.gets(server.url(PATH), DATA)
    assert server.bytes_sent(PATH) <= SIZE - kept + 0.03 * SIZE


def test_fault_09_signed_addresses_that_expire_are_asked_for_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Civitai(uses=1) as civitai:
        monkeypatch.setenv("CIVITAI_ENDPOINT", civitai.endpoint)
        civitai.add_file(DATA)
        place.gets("civitai:101@201", DATA)
        store = civitai.store.requests(civitai.store_path(301))
        assert {request.status for request in store} == {206, 403}
        assert len([request for request in store if request.status == 206]) == 5
        assert civitai.store.bytes_sent() <= FEW


def test_fault_09_signed_addresses_expire_in_the_middle(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with Civitai() as civitai:
        monkeypatch.setenv("CIVITAI_ENDPOINT", civitai.endpoint)
        civitai.add_file(DATA)
        file = civitai.resource(301)
        file.add_fault(cut(total=20_000_000))

        def expire(request: Request) -> Resource | Answer:
            if len(civitai.store.requests(civitai.store_path(301))) == 5:
                civitai.store.expire()
            return file

        civitai.store.add(civitai.store_path(301), expire)
        place.gets("civitai:101@201", DATA)
        assert len(civitai.api.requests("/api/download/models/201")) >= 2
        assert civitai.store.bytes_sent() <= FEW


def test_fault_09_access_that_ends_in_the_middle_keeps_what_is_there(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Civitai(uses=1) as civitai:
        monkeypatch.setenv("CIVITAI_ENDPOINT", civitai.endpoint)
        model, file = civitai.add_file(DATA), civitai.resource(301)
        file.change(rate=20e6)

        def close(_: Request) -> Resource:
            if civitai.store.bytes_sent() > 5_000_000:
                model.versions[0].policy = "login"
            return file

        civitai.store.add(civitai.store_path(301), close)
        error = place.fails(AuthError, "civitai:101@201")
        assert "CIVITAI_API_KEY" in error.hint
        kept, sent = place.kept, civitai.store.bytes_sent()
        assert kept > 1_000_000
        model.versions[0].policy = "open"
        civitai.store.add(civitai.store_path(301), file)
        place.gets("civitai:101@201", DATA)
        assert civitai.store.bytes_sent() - sent <= SIZE - kept + 0.03 * SIZE


def test_fault_10_server_that_wants_two_connections_at_most(place: Place, server: FileServer, file: Resource) -> None:
    def choose(_: Request) -> Resource | Answer:
        return Answer(503) if len(server.active(PATH)) > 2 else file

    file.change(rate=20e6)
    server.add(PATH, choose)
    place.gets(server.url(PATH), DATA, options=FetchConfig(retries=20, stall_timeout_s=5))
    assert any("503" in line for line in place.lines)
    assert server.bytes_sent(PATH) <= FEW


def test_fault_10_a_limit_for_all_together_is_no_stall(place: Place, server: FileServer, file: Resource) -> None:
    file.change(total_rate=15e6)
    place.gets(server.url(PATH), DATA)
    assert place.lines == []
    assert server.bytes_sent(PATH) <= FEW


def test_fault_12_one_of_four_stalls_for_ever(place: Place, server: FileServer, file: Resource) -> None:
    file.add_fault(stall(at=16_000_000, times=None))
    error = place.fails(StallError, server.url(PATH), options=FetchConfig(retries=1, stall_timeout_s=0.5))
    assert str(error).startswith("E-STALL ")
    assert place.kept > 16_000_000
    file.faults.clear()
    place.gets(server.url(PATH), DATA)
    assert server.bytes_sent(PATH) <= FEW
