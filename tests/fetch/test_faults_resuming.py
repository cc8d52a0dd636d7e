"""Faults 1 to 4: a download that stops goes on where it was, and never with bytes of something else."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from darkroom.errors import NetworkError
from tests.fetch.place import DATA, OTHER, PATH, Place, wait_until
from tests.fixtures.remote import FileServer, Resource, cut, reset, stall
from tests.fixtures.remote.faults import Fault
from tests.fixtures.remote.weights import make_weights

AT = 1_200_000  # 40 %


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("fault", [cut, reset])
def test_fault_01_cut_connection_is_resumed(
    fault: Callable[..., Fault], framing: str, place: Place, server: FileServer, file: Resource
) -> None:
    file.change(framing=framing)
    file.add_fault(fault(AT))
    place.gets(server.url(PATH), DATA)
    assert re.search(r"^retry 1/3 in [\d.]+ s: the connection .*was cut$", place.told, re.M)
    second = server.requests(PATH)[1]
    if fault is cut:
        assert second.headers["if-range"] == '"v1"'
        assert "resumed at 40 %" in place.lines
        assert second.range is not None and second.range.startswith(f"bytes={AT}-")
        assert server.bytes_sent(PATH) == len(DATA)
    else:  # takes with it what was not read yet
        assert server.bytes_sent(PATH) <= len(DATA) + AT


def test_fault_01_cut_again_and_again_counts_only_while_nothing_comes(
    place: Place, server: FileServer, file: Resource
) -> None:
    file.add_fault(cut(300_000, times=None))
    place.gets(server.url(PATH), DATA)
    assert len(server.requests(PATH)) == 10
    assert server.bytes_sent(PATH) == len(DATA)
    assert "resumed at 90 %" in place.lines


@pytest.mark.parametrize("after", [None, 0, 100])
def test_fault_01_server_that_cuts_at_the_very_beginning_is_not_asked_for_ever(
    after: int | None, place: Place, server: FileServer, file: Resource
) -> None:
    file.add_fault(cut(after, times=None))
    error = place.fails(NetworkError, server.url(PATH))
    assert "was cut, 4 times. Hint: run the same command again" in str(error)
    assert len(server.requests(PATH)) == 4
    assert place.kept == 0


@pytest.mark.parametrize("settings", [{}, {"etag": None}], ids=["by ETag", "by date"])
def test_fault_01_the_next_run_resumes_after_the_last_retry(
    settings: dict[str, Any], place: Place, server: FileServer, file: Resource
) -> None:
    file.change(**settings)
    place.leave_part(server, file, AT)
    place.gets(server.url(PATH), DATA)
    assert place.lines == ["resuming 1.2 of 3.0 MB"]
    assert server.bytes_sent(PATH) == len(DATA) - AT


@pytest.mark.parametrize("places", [[16_000_000], [4_000_000, 12_000_000, 20_000_000, 30_000_000]], ids=len)
def test_fault_02_killed_download_is_resumed(
    places: list[int], place: Place, server: FileServer, file: Resource
) -> None:
    data, connections = make_weights(40_000_000), len(places)
    file.change(content=data)
    file.faults = [stall(at=at, times=None) for at in places]
    with place.run(server.url(PATH), connections=connections) as first:
        server.wait_until(lambda: [each.order for each in server.active(PATH)] == ["stall"] * connections)
        # What was sent is there, and is said to be there.
        wait_until(lambda: place.kept == server.bytes_sent(PATH))
        first.process.kill()
        first.process.wait()
    place.check_has_old(was_killed=True)
    kept = place.kept
    file.faults.clear()
    with place.run(server.url(PATH), connections=connections) as second:
        told = second.succeeds()
    assert f"x: resuming {kept / 1e6:.1f} of 40.0 MB\n" in told
    place.check_has(data)
    assert server.bytes_sent(PATH) <= 1.02 * len(data)


def test_fault_03_ignored_range_begins_again_and_joins_nothing(
    place: Place, server: FileServer, file: Resource
) -> None:
    file.change(accept_ranges=False)
    file.add_fault(cut(AT))
    place.gets(server.url(PATH), DATA)
    assert "server cannot resume, restarting" in place.lines


def test_fault_03_ignored_range_in_the_next_run(place: Place, server: FileServer, file: Resource) -> None:
    place.leave_part(server, file, AT)
    file.change(accept_ranges=False)
    place.gets(server.url(PATH), DATA)
    assert place.lines == ["resuming 1.2 of 3.0 MB", "server cannot resume, restarting"]
    assert server.bytes_sent(PATH) == len(DATA)  # the answer that could not resume is the file


def test_fault_03_cut_by_a_server_without_ranges_has_an_end(place: Place, server: FileServer, file: Resource) -> None:
    file.change(accept_ranges=False)
    file.add_fault(cut(AT, times=None))
    error = place.fails(NetworkError, server.url(PATH))
    assert "can't be resumed, and the connection is cut each time" in error.why


CHANGES: dict[str, dict[str, Any]] = {
    "another ETag": {"content": OTHER, "etag": '"v2"'},
    "another ETag, answered with a part": {"content": OTHER, "etag": '"v2"', "checks_if_range": False},
    "another date": {"content": OTHER, "etag": None, "last_modified": "Wed, 02 Jul 2026 10:00:00 GMT"},
    "another size": {"content": OTHER, "etag": None},
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("when", ["between attempts", "between runs"])
def test_fault_04_changed_file_is_never_spliced(
    change: str, when: str, place: Place, server: FileServer, file: Resource
) -> None:
    later = dict(CHANGES[change])
    content = OTHER
    if change == "another size":
        content = later["content"] = make_weights(3_000_001, seed=1)
    if later.get("etag", "") is None:
        file.change(etag=None)
    if when == "between runs":
        place.leave_part(server, file, AT)
        file.change(**later)
    else:
        file.add_fault(cut(AT))
        file.change(after=1, **later)
    place.gets(server.url(PATH), content)
    assert "file changed upstream, starting again" in place.lines


def test_fault_04_file_that_goes_on_changing_has_an_end(place: Place, server: FileServer, file: Resource) -> None:
    file.add_fault(cut(AT, times=None))
    for number in range(1, 20):
        file.change(after=number, etag=f'"v{number + 1}"')
    error = place.fails(NetworkError, server.url(PATH))
    assert error.why == "keeps changing"


def test_fault_04_weak_validators_are_not_trusted(place: Place, server: FileServer, file: Resource) -> None:
    file.change(etag='W/"same"', last_modified=None)
    file.add_fault(cut(AT))
    file.change(after=1, content=OTHER)
    place.gets(server.url(PATH), OTHER)
    assert "the server names no version, restarting" in place.lines
